"""Networks in which remedies of the network find their traps, each with a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

NETWORKS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {}


def network(build: Callable[[], tuple[nn.Module, Any]]) -> Callable[[], tuple[nn.Module, Any]]:
    NETWORKS[build.__name__] = build
    return build


def rows(width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(16, width, generator=generator), torch.randint(3, (16,), generator=generator)


@network
def sequential() -> tuple[nn.Module, Any]:
    return nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), rows()


@network
def shared_activation() -> tuple[nn.Module, Any]:
    act = nn.Tanh()
    return nn.Sequential(nn.Linear(6, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 3)), rows()


class Functions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.act = nn.Sigmoid()

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        if scale is not None:
            x = x * scale
        h = torch.tanh(self.a(x))
        h = F.dropout(h, 0.5, training=self.training)
        h = F.leaky_relu(self.b(h), 0.2)
        return self.act(self.c(h))


@network
def functions() -> tuple[nn.Module, Any]:
    return Functions(), rows()


class SharedWithOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.act = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.b(self.act(self.a(x))))


@network
def activation_shared_with_output() -> tuple[nn.Module, Any]:
    return SharedWithOutput(), rows()


class Branch(nn.Module):
    def __init__(self, zero: bool) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4)
        if zero:
            nn.init.zeros_(self.norm2.weight)
        else:
            nn.init.constant_(self.norm2.weight, 100.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


@network
def residual() -> tuple[nn.Module, Any]:
    layers = [nn.Conv2d(1, 4, 3, padding=1), Branch(True), Branch(False), nn.Flatten(), nn.Linear(64, 3)]
    x = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return nn.Sequential(*layers), (x, torch.arange(8) % 3)


@network
def transposed() -> tuple[nn.Module, Any]:
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1), nn.ELU(), nn.ConvTranspose1d(4, 4, 4, stride=2), nn.PReLU(4), nn.Conv1d(4, 1, 1)
    )
    return model, (torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(1)), torch.zeros(4, 1, 18))


@network
def encoder() -> tuple[nn.Module, Any]:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(6, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3))
    return model, (torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1)), None)


class Language(nn.Module):
    """Takes a mapping, ties its embedding to the output, reads by an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8, padding_idx=0)
        self.lstm = nn.LSTM(8, 8, num_layers=2, batch_first=True)
        self.out = nn.Linear(8, 11)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.out(self.lstm(self.embed(tokens))[0])
        out = {"logits": logits}
        if labels is not None:
            out["loss"] = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return out


@network
def language() -> tuple[nn.Module, Any]:
    tokens = torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(1))
    return Language(), {"tokens": tokens, "labels": tokens}


class Cell(nn.Module):
    """A recurrent cell by hand, of bare parameters, with a gate."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(inputs, width))
        self.u = nn.Parameter(torch.randn(width, width))
        self.gate = nn.Linear(inputs + width, width)
        self.b = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        z = torch.sigmoid(self.gate(torch.cat((x, h), 1)))
        new = torch.tanh(x @ self.w + h @ self.u.t() + self.b)
        return (1 - z) * new + z * h


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = Cell(6, 8), nn.Linear(8, 3)
        self.start = nn.Parameter(50 * torch.randn(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.start.expand(len(x), -1)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(F.relu(h))


@network
def cell_by_hand() -> tuple[nn.Module, Any]:
    return ByHand(), (
        torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1)),
        torch.zeros(4, dtype=torch.long),
    )


class Reader(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


@network
def plain_recurrence() -> tuple[nn.Module, Any]:
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))
    return Reader(nn.RNN(6, 8, num_layers=2, batch_first=True)), (x, torch.zeros(4, dtype=torch.long))


@network
def gated_recurrence() -> tuple[nn.Module, Any]:
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))
    return Reader(nn.GRU(6, 4, batch_first=True, bidirectional=True)), (x, torch.zeros(4, dtype=torch.long))


@network
def parametrized() -> tuple[nn.Module, Any]:
    model = nn.Sequential(
        weight_norm(nn.Linear(6, 8)), nn.ReLU(), spectral_norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3)
    )
    return model, rows()


@network
def half_precision() -> tuple[nn.Module, Any]:
    x, y = rows()
    return nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 3)).to(torch.bfloat16), (x.to(torch.bfloat16), y)


@network
def constant() -> tuple[nn.Module, Any]:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    for p in model.parameters():
        nn.init.constant_(p, 0.1)
    return model, rows()


@network
def two_inputs() -> tuple[nn.Module, Any]:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.join, self.out = nn.Bilinear(6, 6, 8), nn.Linear(8, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.out(self.join(a, b).tanh())

    x, y = rows()
    return Two(), ((x, x.flip(0)), y)


@network
def frozen() -> tuple[nn.Module, Any]:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    return model, rows()
