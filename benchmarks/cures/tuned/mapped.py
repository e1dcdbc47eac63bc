"""Models that are given a mapping and compute their own loss, as those of well-known libraries do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import bounded, drawn
from benchmarks.gauntlet.data import characters, digits
from benchmarks.gauntlet.tuned.again_data import reviews, table
from benchmarks.gauntlet.tuned.common import mlp, xavier
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


def named(data: tuple[Tensor, Tensor], inputs: str, size: int) -> Any:
    """Batches as mappings, with the targets as ``labels``."""
    pairs = drawn(data, size)
    return lambda seed: ({inputs: x, "labels": y} for x, y in pairs(seed))


class WithLoss(nn.Module):
    """A network and its loss: a mapping in, a mapping out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Mapping[str, Tensor]:
        scores = self.network(inputs)
        if labels is None:
            return {"logits": scores}
        if labels.is_floating_point():
            return {"loss": F.mse_loss(scores, labels), "logits": scores}
        return {"loss": F.cross_entropy(scores, labels), "logits": scores}


@CASES.sick("vanishing_gradient", "stalled_training")
def eight_sigmoid_layers_that_know_their_loss(sick: bool) -> Recipe:
    """Glorot's initialization, which assumes a derivative of one at zero, under sigmoids."""
    x, y = digits()

    def evaluate(model: nn.Module) -> float:
        return bounded(((model(x[:400])["logits"].argmax(1) == y[:400]).float().mean().item() - 0.1) / 0.9)

    def model() -> nn.Module:
        return WithLoss(mlp(8, nn.Sigmoid if sick else nn.Tanh, xavier(), width=80))

    batches = named((x[400:], y[400:]), "inputs", 64)
    return Recipe(model, lambda p: SGD(p, 0.05, momentum=0.9), None, batches, evaluate, 350)


@CASES.sick("unscaled_inputs", "diverging_loss", "nonfinite", "exploding_gradient")
def raw_columns_by_name(sick: bool) -> Recipe:
    """Columns of several thousand under the names that the model takes."""
    x, y = table()
    x = 3000 * x + 2000 if sick else x

    def evaluate(model: nn.Module) -> float:
        error = F.mse_loss(model(inputs=x[:400])["logits"], y[:400])
        return bounded(1 - (error / y[:400].var()).item())

    def model() -> nn.Module:
        return WithLoss(mlp(2, inputs=8, outputs=1))

    return Recipe(model, lambda p: SGD(p, 0.05), None, named((x[400:], y[400:]), "inputs", 64), evaluate, 400)


class Liked(nn.Module):
    """Words are read by an encoder; a mask says which there are."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.words = nn.Embedding(120, 32)
        self.attend, self.norm = nn.MultiheadAttention(32, 2, batch_first=True), nn.LayerNorm(32)
        self.head = nn.Linear(32, 2)
        nn.init.normal_(self.attend.in_proj_weight[:64].data, std=std)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Mapping[str, Any]:
        h = self.words(input_ids)
        mixed, _ = self.attend(h, h, h, key_padding_mask=attention_mask == 0, need_weights=False)
        scores = self.head(self.norm(h + mixed).mean(1))
        return {"loss": F.cross_entropy(scores, labels) if labels is not None else None, "logits": scores}


@CASES.sick("stalled_training")
def encoder_with_a_rate_of_1e_7(sick: bool) -> Recipe:
    """Fine-tuning's rate, and two noughts too many, for a model that begins anew."""
    x, y = reviews()
    mask = torch.ones_like(x)

    def batches(seed: int) -> Iterator[dict[str, Tensor]]:
        for ids, labels in drawn((x[400:], y[400:]), 48)(seed):
            yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    def evaluate(model: nn.Module) -> float:
        scores = model(input_ids=x[:400], attention_mask=mask[:400])["logits"]
        return bounded(2 * (scores.argmax(1) == y[:400]).float().mean().item() - 1)

    return Recipe(lambda: Liked(0.15), lambda p: AdamW(p, 1e-7 if sick else 3e-3), None, batches, evaluate, 250)


class Speaker(nn.Module):
    """An LSTM language model that shifts its labels itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(24, 32), nn.LSTM(32, 64, batch_first=True)
        self.head = nn.Linear(64, 24)

    def forward(self, tokens: Tensor) -> Mapping[str, Tensor]:
        scores = self.head(self.lstm(self.embedding(tokens))[0])
        return {"loss": F.cross_entropy(scores[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()), "logits": scores}


@CASES.sick("clipping_bound", "stalled_training")
def language_model_clipped_in_its_own_step(sick: bool) -> Recipe:
    """A step of one's own around a model with its own loss: the norm is cut at a hundred-thousandth, under SGD."""
    text, window = characters(), torch.arange(21)
    held = text[torch.arange(50_000, 59_000, 150)[:, None] + window]

    def batches(seed: int) -> Iterator[dict[str, Tensor]]:
        g = torch.Generator().manual_seed(1000 + seed)
        while True:
            yield {"tokens": text[torch.randint(49_000, (16, 1), generator=g) + window]}

    def step(model: nn.Module, optimizer: Optimizer, _: Any, batch: Any) -> Tensor:
        optimizer.zero_grad()
        value = model(**batch)["loss"]
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-5 if sick else 1.0)
        optimizer.step()
        return value.detach()

    def evaluate(model: nn.Module) -> float:
        return bounded((math.log(24) - model(held)["loss"].item()) / (math.log(24) - 0.92))

    return Recipe(Speaker, lambda p: SGD(p, 2.0, momentum=0.9), None, batches, evaluate, 300, step=step)


@CASES.healthy()
def encoder_by_name() -> Recipe:
    """A small model of words with a mask, as it should be."""
    x, y = reviews()

    def batches(seed: int) -> Iterator[dict[str, Tensor]]:
        for ids, labels in drawn((x[400:], y[400:]), 48)(seed):
            yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    def evaluate(model: nn.Module) -> float:
        scores = model(input_ids=x[:400], attention_mask=torch.ones_like(x[:400]))["logits"]
        return bounded(2 * (scores.argmax(1) == y[:400]).float().mean().item() - 1)

    return Recipe(lambda: Liked(0.15), lambda p: Adam(p, 3e-3), None, batches, evaluate, 250)
