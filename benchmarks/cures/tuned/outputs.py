"""Outputs and losses that do not fit each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import Evaluate, bounded, language, learning
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.tuned.again_data import table
from benchmarks.gauntlet.tuned.common import he, mlp
from torch import Tensor, nn
from torch.optim import SGD, Adam

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("output_mismatch", "stalled_training")
def softmax_before_cross_entropy(sick: bool) -> Recipe:
    """Probabilities where the loss expects scores: it takes their softmax a second time."""

    def model() -> nn.Module:
        return nn.Sequential(*mlp(3, width=128), *([nn.Softmax(1)] if sick else []))

    return learning(model, lambda p: SGD(p, 0.05, momentum=0.5), digits(), 400, loss=nn.CrossEntropyLoss())


@CASES.sick("output_mismatch", "stalled_training")
def softmax_in_the_forward_pass(sick: bool) -> Recipe:
    """The same as a function at the end of a convolutional network's forward pass."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3)
            self.fc = nn.Linear(256, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).flatten(1))
            return F.softmax(x, dim=1) if sick else x

    return learning(Net, lambda p: SGD(p, 0.03), images(), 400, batch=32)


@CASES.sick("output_mismatch", "stalled_training", "saturated_units")
def sigmoid_before_cross_entropy(sick: bool) -> Recipe:
    """Each class score between zero and one: no probability can pass a quarter."""

    def model() -> nn.Module:
        return nn.Sequential(*mlp(3), *([nn.Sigmoid()] if sick else []))

    return learning(model, lambda p: SGD(p, 0.05, momentum=0.5), digits(), 400)


def even(x: Tensor, y: Tensor) -> Evaluate:
    """The accuracy above a half of logits or of probabilities, whichever the model has at its end."""

    def evaluate(model: nn.Module) -> float:
        out = model(x)
        threshold = 0.5 if out.min() >= 0 and out.max() <= 1 else 0.0
        return bounded(2 * ((out > threshold) == (y > 0.5)).float().mean().item() - 1)

    return evaluate


def whether_three() -> tuple[Tensor, Tensor]:
    """The digits, and whether they are threes."""
    x, y = digits()
    return x, (y == 3).float()[:, None]


@CASES.sick("output_mismatch", "stalled_training", "saturated_units")
def sigmoid_before_logits_loss(sick: bool) -> Recipe:
    """A rare class, scored by likelihood: the loss that expects logits gets probabilities."""
    x, y = whether_three()
    held, truth = x[:400], y[:400]
    constant = F.binary_cross_entropy(truth.mean().expand_as(truth), truth).item()

    def evaluate(model: nn.Module) -> float:
        return bounded(1 - F.binary_cross_entropy_with_logits(model(held), truth).item() / constant)

    def model() -> nn.Module:
        return nn.Sequential(*mlp(2, outputs=1), *([nn.Sigmoid()] if sick else []))

    loss = nn.BCEWithLogitsLoss()
    return learning(model, lambda p: SGD(p, 0.3), (x, y), 300, loss=loss, evaluate=evaluate)


@CASES.sick("output_mismatch", "dead_units", "stalled_training")
def relu_output_for_negative_targets(sick: bool) -> Recipe:
    """A ReLU behind the last layer, and targets that are mostly negative."""
    x, y = table()

    def model() -> nn.Module:
        return nn.Sequential(*mlp(2, nn.ReLU, he(), inputs=8, outputs=1), *([nn.ReLU()] if sick else []))

    return learning(model, lambda p: Adam(p, 3e-3), (x, y - 3), 350)


@CASES.sick("output_mismatch", "saturated_units", "stalled_training")
def tanh_output_for_large_targets(sick: bool) -> Recipe:
    """A tanh at the end of a forward pass cannot reach targets of ten and fifty."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))
            return torch.tanh(x) if sick else x

    x, y = table()
    return learning(Net, lambda p: Adam(p, 1e-2), (x, 10 * y), 400)


@CASES.sick("output_mismatch", "saturated_units", "stalled_training")
def sigmoid_decoder_for_standardized_pixels(sick: bool) -> Recipe:
    """A convolutional autoencoder that ends in a sigmoid; its pixels lie between -0.8 and 1.9."""

    def model() -> nn.Module:
        down = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.GELU(), nn.Conv2d(12, 16, 3, 2, 1), nn.GELU())
        up = nn.Sequential(nn.ConvTranspose2d(16, 12, 4, 2, 1), nn.GELU(), nn.ConvTranspose2d(12, 1, 4, 2, 1))
        return nn.Sequential(down, up, *([nn.Sigmoid()] if sick else []))

    x, _ = images()
    return learning(model, lambda p: Adam(p, 5e-3), (x, x), 250, batch=32)


@CASES.sick("output_mismatch", "frozen_parameters", "vanishing_gradient", "stalled_training")
def softmax_over_one_output(sick: bool) -> Recipe:
    """The softmax of a single score is one whatever the score."""
    x, y = digits()
    target = (y % 2 == 0).float()[:, None]

    def model() -> nn.Module:
        return nn.Sequential(*mlp(2, outputs=1), nn.Softmax(1) if sick else nn.Sigmoid())

    evaluate = even(x[:400], target[:400])
    return learning(model, lambda p: SGD(p, 0.5), (x, target), 350, loss=F.mse_loss, evaluate=evaluate)


@CASES.sick("output_mismatch", "diverging_loss", "exploding_gradient", "nonfinite")
def likelihood_of_raw_scores(sick: bool) -> Recipe:
    """``nll_loss`` without ``log_softmax``: the loss falls below zero for ever, and nothing is compared."""

    def model() -> nn.Module:
        return nn.Sequential(*mlp(2), *([] if sick else [nn.LogSoftmax(1)]))

    return learning(model, lambda p: SGD(p, 0.1), digits(), 300, loss=nn.NLLLoss())


@CASES.sick("output_mismatch", "stalled_training", "saturated_units", "vanishing_gradient")
def likelihood_of_probabilities(sick: bool) -> Recipe:
    """``nll_loss`` on softmax, the logarithm was forgotten: the loss is minus the probability."""

    def model() -> nn.Module:
        return nn.Sequential(*mlp(4), nn.Softmax(1) if sick else nn.LogSoftmax(1))

    return learning(model, lambda p: SGD(p, 0.05, momentum=0.5), digits(), 400, loss=F.nll_loss)


@CASES.sick("output_mismatch", "stalled_training")
def column_against_row(sick: bool) -> Recipe:
    """Outputs ``(B, 1)`` and targets ``(B,)`` broadcast to a matrix: the mean is all it can learn."""
    x, y = table()
    target = y[:, 0]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output - (target if sick else target[:, None])).square().mean()

    return learning(lambda: mlp(2, inputs=8, outputs=1), lambda p: Adam(p, 3e-3), (x, target), 350, loss=loss)


@CASES.sick("output_mismatch", "saturated_units", "stalled_training")
def tanh_before_the_scores_of_a_language_model(sick: bool) -> Recipe:
    """Scores of a language model between -1 and 1: no character can have more than a fifth of the probability."""

    class Characters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.gru = nn.Embedding(24, 24), nn.GRU(24, 48, batch_first=True)
            self.head = nn.Linear(48, 24)

        def forward(self, tokens: Tensor) -> Tensor:
            scores = self.head(self.gru(self.embedding(tokens))[0])
            return scores.tanh() if sick else scores

    return language(Characters, lambda p: Adam(p, 1e-2), 260)
