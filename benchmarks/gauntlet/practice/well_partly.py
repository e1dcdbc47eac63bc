"""Well: only a part is trained, on purpose, after a pretraining that took place."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.practice.well_common import freeze, loop, neighbours, pretrained
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, classifier, convolutions, mlp
from torch import Tensor, nn
from torch.nn.utils import prune

CASES = Cases()


def shifted() -> tuple[Tensor, Tensor]:
    """The digits in negative and one pixel further right: a task near that of the pretraining."""
    x, y = images()
    return -x.roll(1, 3).flatten(1), y


@CASES.healthy(good=0.7)
def linear_probe_on_a_convnet() -> Training:
    """The backbone learned 0 to 4 and is frozen; the optimizer holds the new head alone, for all ten digits."""
    x, y = images()
    few = y < 5
    layers = [*convolutions([1, 24, 24], norm=nn.BatchNorm2d), nn.MaxPool2d(2), *convolutions([24, 48])]
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
    pretrained(nn.Sequential(backbone, nn.Linear(192, 5)), x[few], y[few], 60)
    freeze(backbone.parameters())
    backbone.eval()
    model = nn.Sequential(backbone, nn.Linear(192, 10))
    draw = minibatches(64, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        with torch.no_grad():
            features = model[0](x[chosen])
        return F.cross_entropy(model[1](features), y[chosen])

    optimizer = torch.optim.Adam(model[1].parameters(), 1e-2)
    return loop(model, optimizer, loss, 200, accuracy(model, x[:500], y[:500]))


class LowRank(nn.Module):
    """A frozen linear layer plus a product of two thin ones, the second zero at first (Hu et al., 2021)."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base
        freeze(base.parameters())
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.down), self.up) * 2


@CASES.healthy(good=0.7)
def low_rank_adaptation() -> Training:
    """LoRA of rank four on all linear layers of a pretrained network."""
    body = pretrained(mlp(3, nn.ReLU, width=96), *digits())
    model = nn.Sequential(*[LowRank(m) if isinstance(m, nn.Linear) else m for m in body])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 5e-3)
    return classifier(model, optimizer, 250, data=shifted())


@CASES.healthy(good=0.6)
def biases_and_norms_only() -> Training:
    """BitFit: the weights of a pretrained network stay, its biases and layer norms learn."""
    model = pretrained(mlp(3, nn.GELU, width=128, norm=nn.LayerNorm), *digits())
    for module in model:
        if isinstance(module, nn.Linear):
            module.weight.requires_grad_(module is model[-1])
    optimizer = torch.optim.Adam(filter(lambda p: p.requires_grad, model.parameters()), 1e-2)
    return classifier(model, optimizer, 250, data=shifted())


class Adapter(nn.Module):
    """A bottleneck beside a frozen block, whose way up is zero at first (Houlsby et al., 2019)."""

    def __init__(self, block: nn.Module, width: int) -> None:
        super().__init__()
        self.block, self.down, self.up = block, nn.Linear(width, 16), nn.Linear(16, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block(x)
        return h + self.up(F.gelu(self.down(h)))


@CASES.healthy(good=0.7)
def adapters_between_frozen_blocks() -> Training:
    """Bottleneck adapters after each of three pretrained blocks, and a new head."""
    blocks = [nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU()) for _ in range(3)]
    pretrained(nn.Sequential(*blocks, nn.Linear(64, 10)), *digits())
    for block in blocks:
        freeze(block.parameters())
    model = nn.Sequential(*[Adapter(block, 64) for block in blocks], nn.Linear(64, 10))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    return classifier(model, optimizer, 200, data=shifted())


@CASES.healthy(good=0.8)
def nine_weights_in_ten_pruned() -> Training:
    """The smallest 90 % of the weights of a trained network are masked to zero for good, the others learn on."""
    model = pretrained(mlp(3, nn.ReLU, width=128), *digits())
    for layer in (model[0], model[2], model[4]):
        prune.l1_unstructured(layer, "weight", amount=0.9)
    return classifier(model, torch.optim.Adam(model.parameters(), 1e-3), 200)


@CASES.healthy(good=0.8)
def layers_that_thaw_one_by_one() -> Training:
    """The head first; every sixty steps the next layer below joins the optimizer with a smaller rate."""
    x, y = shifted()
    model = pretrained(mlp(3, nn.ReLU, width=96), *digits())
    freeze(model[:6].parameters())
    model[6].reset_parameters()
    optimizer = torch.optim.Adam(model[6].parameters(), 4e-3)
    draw = minibatches(64, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        return F.cross_entropy(model(x[chosen]), y[chosen])

    def after(i: int) -> None:
        if i in (59, 119, 179):
            layer = model[4 - 2 * ((i - 59) // 60)]
            for p in layer.parameters():
                p.requires_grad_(True)
            optimizer.add_param_group({"params": list(layer.parameters()), "lr": 2e-3})

    return loop(model, optimizer, loss, 300, accuracy(model, x[:500], y[:500]), after=after)


@CASES.healthy(good=0.8)
def small_student_of_a_frozen_teacher() -> Training:
    """Distillation at temperature four: the teacher in the same module, frozen; the student sees no label."""
    x, y = digits()
    model = nn.ModuleDict(
        {"teacher": pretrained(mlp(2, nn.ReLU, width=128), x, y), "student": mlp(1, nn.ReLU, width=24)}
    )
    freeze(model["teacher"].parameters())
    draw = minibatches(64, len(y))

    def loss(_: int) -> Tensor:
        b = x[draw()]
        with torch.no_grad():
            target = F.log_softmax(model["teacher"](b) / 4, 1)
        return 16 * F.kl_div(F.log_softmax(model["student"](b) / 4, 1), target, reduction="batchmean", log_target=True)

    optimizer = torch.optim.Adam(model["student"].parameters(), 5e-3)
    return loop(model, optimizer, loss, 250, accuracy(model["student"], x[:500], y[:500]))


@CASES.healthy(good=0.7)
def teacher_that_follows_the_student() -> Training:
    """BYOL: a predictor tells what a moving average of the encoder says of another view; no negatives."""
    x, y = digits()
    encoder = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 32))
    predictor = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
    target = copy.deepcopy(encoder)
    freeze(target.parameters())
    model = nn.ModuleDict({"encoder": encoder, "predictor": predictor, "target": target})
    g, draw = torch.Generator().manual_seed(31), minibatches(128, len(y))

    def view(b: Tensor) -> Tensor:
        keep = (torch.rand(b.shape, generator=g) > 0.25).float()
        return (b + 0.2 * torch.randn(b.shape, generator=g)) * keep

    def half(a: Tensor, b: Tensor) -> Tensor:
        with torch.no_grad():
            goal = target(b)
        return 2 - 2 * F.cosine_similarity(predictor(encoder(a)), goal).mean()

    def loss(_: int) -> Tensor:
        b = x[draw()]
        one, two = view(b), view(b)
        return half(one, two) + half(two, one)

    @torch.no_grad()
    def after(_: int) -> None:
        for slow, fast in zip(target.parameters(), encoder.parameters(), strict=True):
            slow.lerp_(fast, 0.02)

    optimizer = torch.optim.Adam([*encoder.parameters(), *predictor.parameters()], 2e-3)
    return loop(model, optimizer, loss, 250, neighbours(encoder, x, y, encoder), after=after)
