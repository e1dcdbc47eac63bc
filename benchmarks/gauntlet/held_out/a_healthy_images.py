"""Networks for images that are well."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import images
from benchmarks.gauntlet.held_out.common_a import (
    HELD,
    clamped,
    dense_stack,
    digit_classifier,
    evaluating,
    looped,
    seeded,
    variance_explained,
)
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@CASES.healthy(good=0.7)
def lenet_with_tanh_and_mean_pooling() -> Training:
    """LeCun's net in small: tanh, mean pooling, momentum."""
    model = nn.Sequential(
        *[nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2)],
        *[nn.Conv2d(8, 24, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()],
        *[nn.Linear(96, 48), nn.Tanh(), nn.Linear(48, 10)],
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9)
    return digit_classifier(model, optimizer, 250, shape=(1, 8, 8))


@CASES.healthy(good=0.7)
def vgg_with_shifted_images_and_steps_of_the_rate() -> Training:
    """Pairs of convolutions with batch norm, images shifted by a pixel, a rate that falls twice."""
    layers: list[nn.Module] = []
    for a, b in ((1, 16), (16, 32)):
        for c in (a, b):
            layers += [nn.Conv2d(c, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [100, 140], 0.2)
    g = seeded(101)

    def shifted(x: Tensor) -> Tensor:
        down, right = torch.randint(-1, 2, (2,), generator=g).tolist()
        return F.pad(x, (1, 1, 1, 1), value=float(x.min()))[:, :, 1 + down : 9 + down, 1 + right : 9 + right]

    return digit_classifier(
        model, optimizer, 170, shape=(1, 8, 8), change=shifted, smoothing=0.05, batch=32, schedule=schedule
    )


class PreActivation(nn.Module):
    """Norm, ReLU, convolution, twice, beside a skip (He et al., 2016)."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(a), nn.BatchNorm2d(b)
        self.conv1 = nn.Conv2d(a, b, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(b, b, 3, 1, 1, bias=False)
        self.skip = nn.Conv2d(a, b, 1, stride, bias=False) if a != b else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x))
        return self.skip(x) + self.conv2(F.relu(self.norm2(self.conv1(y))))


@CASES.healthy(good=0.7)
def preactivation_residual_net_with_a_cosine() -> Training:
    """Six blocks in two stages, by momentum with warm-up and a cosine."""
    body = [PreActivation(*sizes) for sizes in ((12, 12, 1), (12, 12, 1), (12, 24, 2), (24, 24, 1), (24, 24, 1))]
    tail = [nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)]
    model = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, bias=False), *body, *tail)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 15)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 125)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [15])
    return digit_classifier(model, optimizer, 140, shape=(1, 8, 8), batch=32, schedule=schedule)


class Modern(nn.Module):
    """A depthwise convolution, layer norm and two pointwise layers beside a skip (Liu et al., 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.points = dense_stack([channels, 3 * channels, channels], nn.GELU)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.points(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + (self.scale * y).permute(0, 3, 1, 2)


@CASES.healthy(good=0.7)
def modern_convolutions_with_layer_scale() -> Training:
    """Four ConvNeXt blocks whose branches begin at a tenth, by AdamW with weight decay."""
    model = nn.Sequential(
        *[nn.Conv2d(1, 24, 2, 2), *[Modern(24) for _ in range(4)], nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        *[nn.LayerNorm(24), nn.Linear(24, 10)],
    )
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 20)
    return digit_classifier(model, optimizer, 200, shape=(1, 8, 8), schedule=schedule)


class Growing(nn.Module):
    """Dense blocks with a narrowing transition between them."""

    def __init__(self, growth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2 * growth, 3, padding=1)
        self.first = nn.ModuleList(self.layer((2 + k) * growth, growth) for k in range(3))
        self.narrow = nn.Sequential(nn.Conv2d(5 * growth, 2 * growth, 1), nn.AvgPool2d(2))
        self.second = nn.ModuleList(self.layer((2 + k) * growth, growth) for k in range(3))
        self.head = nn.Linear(5 * growth, 10)

    @staticmethod
    def layer(inputs: int, growth: int) -> nn.Sequential:
        return nn.Sequential(nn.InstanceNorm2d(inputs, affine=True), nn.Mish(), nn.Conv2d(inputs, growth, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.first:
            x = torch.cat([x, layer(x)], 1)
        x = self.narrow(x)
        for layer in self.second:
            x = torch.cat([x, layer(x)], 1)
        return self.head(x.mean((2, 3)))


@CASES.healthy(good=0.7)
def dense_blocks_with_a_transition() -> Training:
    """Concatenations, instance norm and Mish, by Adam."""
    model = Growing(12)
    return digit_classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 150, shape=(1, 8, 8), batch=32)


@CASES.healthy(good=0.6)
def convolutional_autoencoder_with_sigmoid_pixels() -> Training:
    """Strided down, transposed up, pixels between zero and one under the binary cross-entropy."""
    pixels = images()[0]
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    model = nn.Sequential(
        *[nn.Conv2d(1, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.SiLU(), nn.Flatten()],
        *[nn.Linear(96, 16), nn.Linear(16, 96), nn.SiLU(), nn.Unflatten(1, (24, 2, 2))],
        *[nn.ConvTranspose2d(24, 16, 2, 2), nn.SiLU(), nn.ConvTranspose2d(16, 1, 2, 2)],
    )
    loss = lambda chosen: F.binary_cross_entropy_with_logits(model(pixels[HELD:][chosen]), pixels[HELD:][chosen])  # noqa: E731
    score = variance_explained(model, lambda: model(pixels[:HELD]).sigmoid(), pixels[:HELD])
    return looped(model, torch.optim.Adam(model.parameters(), 5e-3), loss, len(pixels) - HELD, 300, score)


class Segmenter(nn.Module):
    """Down, up, and a sum across."""

    def __init__(self) -> None:
        super().__init__()
        block = lambda a, b: nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(4, b), nn.ReLU())  # noqa: E731
        self.down, self.deep, self.up = block(1, 16), block(16, 16), block(16, 16)
        self.out = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down(x)
        b = F.interpolate(self.deep(F.max_pool2d(a, 2)), scale_factor=2.0)
        return self.out(self.up(a + b))


@CASES.healthy(good=0.6)
def segmentation_by_dice_and_cross_entropy() -> Training:
    """The ink of digits under noise, by the sum of two losses; the score is the overlap above that of everything."""
    clean = images()[0]
    ink = (clean > 0.3).float()
    noisy = clean + 0.7 * torch.randn(clean.shape, generator=seeded(102))
    model = Segmenter()

    def loss(chosen: Tensor) -> Tensor:
        logits, target = model(noisy[HELD:][chosen]), ink[HELD:][chosen]
        p = logits.sigmoid()
        dice = 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
        return F.binary_cross_entropy_with_logits(logits, target) + dice

    def score() -> float:
        with evaluating(model):
            found, target = (model(noisy[:HELD]) > 0).float(), ink[:HELD]
        overlap = ((found * target).sum() / (found + target).clamp(max=1).sum()).item()
        return clamped((overlap - target.mean().item()) / (1 - target.mean().item()))

    return looped(model, torch.optim.AdamW(model.parameters(), 3e-3), loss, len(ink) - HELD, 200, score, batch=16)
