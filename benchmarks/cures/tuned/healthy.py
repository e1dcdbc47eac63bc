"""Recipes that need nothing: networks, losses and habits of all sorts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import language, learning
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.tuned.again_data import first_of, ratings, reviews, series, sets, spirals, table, textures
from benchmarks.gauntlet.tuned.again_data import waves as signals
from benchmarks.gauntlet.tuned.common import he, initialized, mlp, pooled_head, xavier
from benchmarks.gauntlet.tuned.more_tasks import pretrained
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.healthy()
def plain_mlp() -> Recipe:
    """As torch draws it, under Adam."""
    return learning(lambda: mlp(2, width=128), lambda p: Adam(p, 1e-3), digits(), 350)


@CASES.healthy()
def twenty_relu_layers_by_he() -> Recipe:
    """Deep, and well initialized."""
    return learning(lambda: mlp(20, nn.ReLU, he()), lambda p: Adam(p, 5e-4), digits(), 300)


@CASES.healthy()
def thirty_orthogonal_tanh_layers() -> Recipe:
    """Dynamical isometry (Saxe et al., 2014)."""
    return learning(lambda: mlp(30, nn.Tanh, nn.init.orthogonal_), lambda p: Adam(p, 3e-4), digits(), 250)


class Block(nn.Module):
    """A residual block of two convolutions with batch norm."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


@CASES.healthy()
def residual_convolutions() -> Recipe:
    """Three blocks with batch norm, momentum and a cosine."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), *[Block(16) for _ in range(3)], *pooled_head(16))

    schedule = lambda optimizer: CosineAnnealingLR(optimizer, 200)  # noqa: E731
    return learning(model, lambda p: SGD(p, 0.05, momentum=0.9), images(), 200, batch=32, schedule=schedule)


@CASES.healthy()
def convolutions_with_dropout_and_decay() -> Recipe:
    """A classic small network with its usual regularization, epoch by epoch."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3)
            self.fc1, self.fc2, self.drop = nn.Linear(512, 64), nn.Linear(64, 4), nn.Dropout(0.3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
            return self.fc2(self.drop(F.relu(self.fc1(x.flatten(1)))))

    optimizer = lambda p: AdamW(p, 1e-3, weight_decay=0.05)  # noqa: E731
    return learning(Net, optimizer, textures(), 150, batch=32, passes=True, held=250)


@CASES.healthy()
def pre_norm_encoder_with_warm_up() -> Recipe:
    """Four pre-norm layers, and a rate that rises first."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(8, 32), nn.Linear(256, 10)
            layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.embed(x.view(-1, 8, 8))).flatten(1))

    schedule = lambda optimizer: LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / 40))  # noqa: E731
    return learning(Rows, lambda p: AdamW(p, 2e-3), digits(), 200, batch=32, schedule=schedule, clip=1.0)


@CASES.healthy()
def lstm_of_characters() -> Recipe:
    """A language model under a clipped norm."""

    class Characters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.lstm = nn.Embedding(24, 32), nn.LSTM(32, 64, batch_first=True)
            self.head = nn.Linear(64, 24)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.lstm(self.embedding(tokens))[0])

    return language(Characters, lambda p: Adam(p, 1e-2), 300, clip=1.0)


@CASES.healthy()
def lstm_that_remembers() -> Recipe:
    """An open forget gate over twenty steps."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.tell = nn.LSTM(2, 24, batch_first=True), nn.Linear(24, 2)
            self.lstm.bias_hh_l0.data[24:48] = 3.0

        def forward(self, x: Tensor) -> Tensor:
            return self.tell(self.lstm(x)[0][:, -1])

    return learning(Last, lambda p: Adam(p, 1e-2), first_of(20), 250, batch=32)


@CASES.healthy()
def gru_forecast() -> Recipe:
    """A series, under RMSprop."""

    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(x)[0][:, -1])

    return learning(Forecast, lambda p: RMSprop(p, 2e-3), series(), 350, batch=32)


@CASES.healthy()
def autoencoder() -> Recipe:
    """A tanh bottleneck of sixteen."""
    x = digits()[0]

    def model() -> nn.Module:
        encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 16), nn.Tanh())
        return nn.Sequential(encoder, nn.Linear(16, 96), nn.ReLU(), nn.Linear(96, 64))

    return learning(model, lambda p: Adam(p, 2e-3), (x, x), 400)


@CASES.healthy()
def factors_of_ratings() -> Recipe:
    """Two embeddings and their product."""

    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.film = nn.Embedding(40, 8), nn.Embedding(30, 8)
            for side in (self.user, self.film):
                nn.init.normal_(side.weight, std=0.3)

        def forward(self, x: Tensor) -> Tensor:
            return (self.user(x[:, 0]) * self.film(x[:, 1])).sum(1, keepdim=True)

    return learning(Factors, lambda p: Adam(p, 2e-2), ratings(), 400, batch=128, held=1000)


@CASES.healthy()
def bag_of_words() -> Recipe:
    """Words under Adagrad."""
    return learning(
        lambda: nn.Sequential(nn.EmbeddingBag(120, 16), nn.Linear(16, 2)), lambda p: Adagrad(p, 0.3), reviews(), 400
    )


@CASES.healthy()
def logistic_regression() -> Recipe:
    """One layer."""
    return learning(lambda: nn.Linear(64, 10), lambda p: SGD(p, 0.1), digits(), 300, loss=nn.CrossEntropyLoss())


@CASES.healthy()
def regression_under_a_robust_loss() -> Recipe:
    """A table, SELU, NAdam and Huber's loss."""
    return learning(
        lambda: mlp(3, nn.SELU, inputs=8, outputs=1), lambda p: NAdam(p, 2e-3), table(), 400, loss=nn.HuberLoss()
    )


@CASES.healthy()
def sigmoid_with_its_own_loss() -> Recipe:
    """Sigmoid and ``BCELoss``, as it should be."""
    x, y = spirals()
    target = (y == 0).float()[:, None]
    return learning(
        lambda: nn.Sequential(*mlp(2, nn.Tanh, inputs=2, outputs=1), nn.Sigmoid()),
        lambda p: Adam(p, 1e-2),
        (x, target),
        400,
        loss=nn.BCELoss(),
    )


@CASES.healthy()
def bfloat16_autocast_with_a_scaler() -> Recipe:
    """Mixed precision as it should be."""
    return learning(
        lambda: mlp(3, nn.ReLU, he()), lambda p: SGD(p, 0.1), digits(), 300, autocast=torch.bfloat16, scaler=True
    )


@CASES.healthy()
def new_head_on_a_frozen_backbone() -> Recipe:
    """Fine-tuning: the backbone was trained on other labels and is frozen on purpose."""

    def model() -> nn.Module:
        body = pretrained(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), lambda y: (y * 3) % 10)
        return nn.Sequential(body[:2].requires_grad_(False), nn.Linear(64, 10))

    return learning(model, lambda ps: Adam([p for p in ps if p.requires_grad], 1e-2), digits(), 250)


@CASES.healthy()
def every_step_clipped() -> Recipe:
    """Each step clipped to a norm of 0.05 and the rate chosen for it: normalized gradient descent."""

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Conv1d(1, 16, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(224, 24), nn.ReLU(), nn.Linear(24, 4)
        )

    schedule = lambda optimizer: LambdaLR(optimizer, lambda i: 1 - 0.9 * min(1, i / 300))  # noqa: E731
    return learning(model, lambda p: SGD(p, 1.0, momentum=0.9), signals(), 300, clip=0.05, schedule=schedule)


@CASES.healthy()
def attention_over_sets() -> Recipe:
    """Learned queries over tokens, with one cycle of the rate."""

    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 32), nn.LayerNorm(32))
            self.seeds = nn.Parameter(torch.randn(1, 4, 32))
            self.attend, self.read = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(128, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.encode(x)
            return self.read(self.attend(self.seeds.expand(len(x), -1, -1), h, h)[0].flatten(1))

    schedule = lambda optimizer: OneCycleLR(optimizer, 5e-3, total_steps=401)  # noqa: E731
    return learning(Pool, lambda p: Adam(p, 2e-3), sets(), 400, batch=32, schedule=schedule)


@CASES.healthy()
def gradients_accumulated_over_two_halves() -> Recipe:
    """A step of one's own: the batch in two halves, their gradients summed, then one update."""

    def step(model: nn.Module, optimizer: Optimizer, loss: Any, batch: Any) -> float:
        total = 0.0
        for x, y in zip(batch[0].chunk(2), batch[1].chunk(2), strict=True):
            value = loss(model(x), y) / 2
            value.backward()
            total += value.item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    def model() -> nn.Module:
        return initialized(mlp(3, nn.Tanh), xavier())

    return learning(model, lambda p: SGD(p, 0.1, momentum=0.5), digits(), 300, step=step)
