"""Networks for images that need nothing."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.held_out.common import HELD, accuracy, bounded, digit_recipe, drawn
from benchmarks.cures.held_out.networks import Resting, trunk
from benchmarks.gauntlet.data import images
from benchmarks.gauntlet.held_out.a_healthy_images import Modern, PreActivation, Segmenter
from benchmarks.gauntlet.held_out.b_transfer import VisionTransformer
from benchmarks.gauntlet.held_out.common_a import seeded
from benchmarks.gauntlet.held_out.common_b import warm_cosine
from torch import Tensor, nn

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.healthy()
def lenet_with_tanh_and_mean_pooling() -> Recipe:
    """LeCun's net in small: tanh, mean pooling, momentum."""
    return digit_recipe(
        lambda: nn.Sequential(
            *[nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2)],
            *[nn.Conv2d(8, 24, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()],
            *[nn.Linear(96, 48), nn.Tanh(), nn.Linear(48, 10)],
        ),
        lambda parameters: torch.optim.SGD(parameters, 0.03, momentum=0.9),
        250,
        shape=(1, 8, 8),
    )


@CASES.healthy()
def vgg_with_shifted_images_and_steps_of_the_rate() -> Recipe:
    """Pairs of convolutions with batch norm, images shifted by a pixel, a rate that falls twice."""
    x, y = images()

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for a, b in ((1, 16), (16, 32)):
            for c in (a, b):
                layers += [nn.Conv2d(c, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(128, 10))

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        g = torch.Generator().manual_seed(1000 + seed)
        while True:
            chosen = torch.randint(HELD, len(y), (32,), generator=g)
            down, right = torch.randint(3, (2,), generator=g).tolist()
            padded = F.pad(x[chosen], (1, 1, 1, 1), value=float(x.min()))
            yield padded[:, :, down : 8 + down, right : 8 + right], y[chosen]

    return Recipe(
        model=model,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=5e-4),
        loss=nn.CrossEntropyLoss(label_smoothing=0.05),
        batches=batches,
        evaluate=accuracy(x[:HELD], y[:HELD]),
        steps=170,
        schedule=lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [100, 140], 0.2),
    )


@CASES.healthy()
def preactivation_residual_net_with_a_cosine() -> Recipe:
    """Five blocks in two stages, by momentum with warm-up and a cosine."""

    def model() -> nn.Module:
        body = [PreActivation(*sizes) for sizes in ((12, 12, 1), (12, 12, 1), (12, 24, 2), (24, 24, 1), (24, 24, 1))]
        tail = [nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)]
        return nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, bias=False), *body, *tail)

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        rise = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 15)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 125)
        return torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [15])

    return digit_recipe(
        model,
        lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=1e-4),
        140,
        shape=(1, 8, 8),
        batch=32,
        schedule=schedule,
    )


@CASES.healthy()
def modern_convolutions_with_layer_scale() -> Recipe:
    """Four ConvNeXt blocks whose branches begin at a tenth, by AdamW with weight decay."""
    return digit_recipe(
        lambda: nn.Sequential(
            *[nn.Conv2d(1, 24, 2, 2), *[Modern(24) for _ in range(4)], nn.AdaptiveAvgPool2d(1), nn.Flatten()],
            *[nn.LayerNorm(24), nn.Linear(24, 10)],
        ),
        lambda parameters: torch.optim.AdamW(parameters, 5e-3, weight_decay=0.05),
        200,
        shape=(1, 8, 8),
        schedule=lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 20),
    )


@CASES.healthy()
def segmentation_by_dice_and_cross_entropy() -> Recipe:
    """The ink of digits under noise, by the sum of two losses; the score is the overlap above that of everything."""
    clean = images()[0]
    ink = (clean > 0.3).float()
    noisy = clean + 0.7 * torch.randn(clean.shape, generator=seeded(102))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        p = outputs.sigmoid()
        dice = 1 - (2 * (p * targets).sum() + 1) / (p.sum() + targets.sum() + 1)
        return F.binary_cross_entropy_with_logits(outputs, targets) + dice

    def evaluate(model: nn.Module) -> float:
        found, target = (model(noisy[:HELD]) > 0).float(), ink[:HELD]
        overlap = ((found * target).sum() / (found + target).clamp(max=1).sum()).item()
        return bounded((overlap - target.mean().item()) / (1 - target.mean().item()))

    return Recipe(
        model=Segmenter,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 3e-3),
        loss=loss,
        batches=drawn(noisy[HELD:], ink[HELD:], 16),
        evaluate=evaluate,
        steps=200,
    )


@CASES.healthy()
def fine_tuned_head_on_a_frozen_trunk() -> Recipe:
    """The convolutions rest in evaluation mode, a new head learns all ten digits from their features."""
    return digit_recipe(
        lambda: nn.Sequential(Resting(*trunk()), nn.Flatten(), nn.Linear(128, 10)),
        lambda parameters: torch.optim.Adam([p for p in parameters if p.requires_grad], 5e-3),
        200,
        shape=(1, 8, 8),
        batch=32,
    )


@CASES.healthy()
def vision_transformer() -> Recipe:
    """AdamW, warm-up, cosine, and images with a little noise."""
    x, y = images()

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        g = torch.Generator().manual_seed(1000 + seed)
        for inputs, targets in drawn(x[HELD:], y[HELD:], 32)(seed):
            yield inputs + 0.1 * torch.randn(inputs.shape, generator=g), targets

    return Recipe(
        model=VisionTransformer,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 3e-3, weight_decay=0.05),
        loss=F.cross_entropy,
        batches=batches,
        evaluate=accuracy(x[:HELD], y[:HELD]),
        steps=250,
        schedule=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, warm_cosine(250, 25)),
    )
