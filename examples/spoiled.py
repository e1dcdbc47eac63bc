"""A deep network of which one layer has been spoiled, for `gradiometer measure examples/spoiled.py:setup`."""

import torch
from sklearn.datasets import load_digits
from torch import nn


def setup():
    torch.manual_seed(0)
    layers = []
    for _ in range(30):
        layers += [nn.Linear(64, 64), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    with torch.no_grad():
        model[24].weight *= 0.05

    digits = load_digits()
    images = torch.tensor(digits.data[:256], dtype=torch.float32)
    targets = torch.tensor(digits.target[:256])
    return model, ((images - images.mean()) / images.std(), targets), nn.functional.cross_entropy
