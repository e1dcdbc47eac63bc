"""Convolutional networks that are well, of many builds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import images
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import classifier, convolutions, explained, pooled_head, supervised
from torch import Tensor, nn

CASES = Cases()


def on_images(model: nn.Module, steps: int, rate: float = 3e-3) -> Training:
    """Adam on the images of digits."""
    return classifier(model, torch.optim.Adam(model.parameters(), rate), steps, data=images(), batch=32)


def groups(channels: int) -> nn.Module:
    """Four groups."""
    return nn.GroupNorm(4, channels)


@CASES.healthy()
def batch_norm_and_pooling() -> Training:
    """Convolution, batch norm, ReLU, pooling, twice."""
    a, b = (convolutions(channels, norm=nn.BatchNorm2d) for channels in ([1, 16], [16, 32]))
    pool = nn.MaxPool2d(2)
    return on_images(nn.Sequential(*a, pool, *b, pool, nn.Flatten(), nn.Linear(128, 10)), 150)


@CASES.healthy()
def group_norm_and_strides() -> Training:
    """Group norm, a strided convolution, global average pooling."""
    body = [*convolutions([1, 16], norm=groups), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    return on_images(nn.Sequential(*body, *convolutions([32, 32], norm=groups), *pooled_head(32)), 200, 5e-3)


@CASES.healthy()
def plain_convolutions() -> Training:
    """Four convolutions without any norm, as torch draws them."""
    body = convolutions([1, 16, 16, 16, 16], nn.LeakyReLU)
    return on_images(nn.Sequential(*body, nn.Flatten(), nn.Linear(1024, 10)), 200)


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm, the second norm zero at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


@CASES.healthy()
def residual_with_zero_branches() -> Training:
    """Branches that begin at zero get no gradient inside at first, by design (Goyal et al., 2017)."""
    body = [*convolutions([1, 16], norm=nn.BatchNorm2d), *[ResidualBlock(16) for _ in range(4)]]
    return on_images(nn.Sequential(*body, *pooled_head(16)), 120, 1e-2)


class Dense(nn.Module):
    """Every layer sees all before it (Huang et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 8 * k) for k in range(5))
        self.layers = nn.ModuleList(nn.Conv2d(8 + 8 * k, 8, 3, padding=1) for k in range(5))
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        return self.head(F.relu(x).amax((2, 3)))


@CASES.healthy()
def dense_connections() -> Training:
    """A small DenseNet."""
    return on_images(Dense(), 100, 5e-3)


class Gates(nn.Module):
    """Squeeze and excitation: channels times a sigmoid of their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, 4), nn.Linear(4, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


@CASES.healthy()
def depthwise_with_gates() -> Training:
    """Depthwise separable convolutions, batch norm and squeeze-and-excitation."""
    layers: list[nn.Module] = convolutions([1, 16], norm=nn.BatchNorm2d)
    for _ in range(2):
        layers += [nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU6()]
        layers += [nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), Gates(16), nn.ReLU6()]
    return on_images(nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10)), 150)


class UNet(nn.Module):
    """Down, up, and a skip across."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Sequential(*convolutions([1, 12])), nn.Sequential(*convolutions([12, 24, 12]))
        self.up = nn.ConvTranspose2d(12, 12, 2, 2)
        self.out = nn.Sequential(*convolutions([24, 12]), nn.Conv2d(12, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        a = self.down(x)
        return self.out(torch.cat([a, self.up(self.middle(F.max_pool2d(a, 2)))], 1))


@CASES.healthy(good=0.4)
def unet_that_removes_noise() -> Training:
    """Clean images from noisy ones."""
    clean, _ = images()
    noisy = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(6))
    model = UNet()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    score = explained(model, noisy[:300], clean[:300])
    return supervised(model, optimizer, (noisy, clean), F.mse_loss, score, 150, batch=32)
