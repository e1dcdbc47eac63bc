"""Trains a deep fully connected network on digits; depth, width and activation from the command line."""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class Net(nn.Module):
    def __init__(self, depth, width, activation):
        super().__init__()
        sizes = [64] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.head = nn.Linear(width, 10)
        self.activation = activation

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            if self.activation == "relu":
                x = F.relu(x)
            elif self.activation == "tanh":
                x = torch.tanh(x)
            else:
                x = torch.sigmoid(x)
        return self.head(x)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--activation", choices=["sigmoid", "tanh", "relu"], default="sigmoid")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)

    net = Net(args.depth, args.width, args.activation)
    optimizer = torch.optim.SGD(net.parameters(), lr=args.lr, momentum=0.9)
    for step in range(args.steps):
        batch = torch.randint(len(x), (64,))
        loss = F.cross_entropy(net(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
