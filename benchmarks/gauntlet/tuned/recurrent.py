"""Gradients through time, and recurrent networks that are well."""

from __future__ import annotations

from collections.abc import Callable

import torch
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, classifier, language, supervised
from torch import Tensor, nn

CASES = Cases()


class Loop(nn.Module):
    """A recurrent network written as a loop, its recurrent weights a multiple of the identity."""

    def __init__(
        self,
        gain: float,
        *,
        inputs: int = 1,
        outputs: int = 2,
        activation: Callable[[Tensor], Tensor] = torch.tanh,
    ) -> None:
        super().__init__()
        self.read, self.recur = nn.Linear(inputs, 32), nn.Linear(32, 32, bias=False)
        self.head = nn.Linear(32, outputs)
        nn.init.zeros_(self.read.bias)
        nn.init.eye_(self.recur.weight).data.mul_(gain)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), -1, self.read.in_features)
        h = x.new_zeros(len(x), 32)
        for t in range(x.shape[1]):
            h = self.activation(self.read(x[:, t]) + self.recur(h))
        return self.head(h)


class Last(nn.Module):
    """The last output of ``nn.RNN`` and its kin."""

    def __init__(self, recurrence: nn.Module, outputs: int) -> None:
        super().__init__()
        self.recurrence, self.head = recurrence, nn.Linear(recurrence.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrence(x.view(len(x), -1, self.recurrence.input_size))[0][:, -1])


def recall(steps: int, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """Sequences whose class is the sign of their first element; the rest is noise."""
    g = torch.Generator().manual_seed(4)
    x = noise * torch.randn(2000, steps, generator=g)
    y = torch.randint(2, (2000,), generator=g)
    x[:, 0] = 2.0 * y - 1
    return x, y


def thrice() -> tuple[Tensor, Tensor]:
    """The eight rows of every digit, three times over."""
    x, y = digits()
    return x.view(-1, 8, 8).repeat(1, 3, 1).flatten(1), y


def remembering(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple[Tensor, Tensor], steps: int
) -> Training:
    """Cross-entropy on ``recall``."""
    x, y = data
    score = accuracy(model, x[:500], y[:500], 2)
    return supervised(model, optimizer, data, nn.functional.cross_entropy, score, steps, batch=32)


@CASES.sick("vanishing_gradient", also=("stalled_training", "rank_collapse", "bad_initialization"))
def loop_of_fifty_steps_that_forgets(sick: bool) -> Training:
    """Recurrent weights of one half: nothing of the first step is left after fifty."""
    model = Loop(0.5 if sick else 1.0, activation=torch.tanh)
    return remembering(model, torch.optim.Adam(model.parameters(), 1e-3), recall(50, 0.1), 150)


@CASES.sick("vanishing_gradient", sites=r"^recurrence", also=("stalled_training", "rank_collapse"))
def plain_rnn_of_eighty_steps(sick: bool) -> Training:
    """``nn.RNN`` as torch initializes it, over eighty steps (Bengio et al., 1994)."""
    model = Last(nn.RNN(1, 32, batch_first=True), 2)
    if not sick:
        nn.init.eye_(model.recurrence.weight_hh_l0)
        nn.init.normal_(model.recurrence.weight_ih_l0, std=0.2)
        nn.init.zeros_(model.recurrence.bias_hh_l0)
        nn.init.zeros_(model.recurrence.bias_ih_l0)
    return remembering(model, torch.optim.Adam(model.parameters(), 1e-3), recall(80, 0.1), 200)


@CASES.sick(
    "exploding_gradient", "bad_initialization", also=("loss_spike", "nonfinite", "dead_units", "oscillating_loss")
)
def relu_loop_with_recurrent_weights_of_two(sick: bool) -> Training:
    """The state doubles in each of twenty-four steps."""
    model = Loop(2.0 if sick else 1.0, inputs=8, outputs=10, activation=torch.relu)
    return classifier(model, torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9), 250, data=thrice(), batch=32)


@CASES.sick(
    "exploding_gradient", "bad_initialization", sites=r"^recurrence", also=("loss_spike", "nonfinite", "dead_units")
)
def relu_rnn_drawn_too_large(sick: bool) -> Training:
    """``nn.RNN`` with ReLU whose recurrent weights are drawn with standard deviation 0.8 instead of the identity."""
    model = Last(nn.RNN(8, 32, nonlinearity="relu", batch_first=True), 10)
    if sick:
        nn.init.normal_(model.recurrence.weight_hh_l0, std=0.8)
    else:
        nn.init.eye_(model.recurrence.weight_hh_l0)
    return classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 250, data=thrice(), batch=32)


@CASES.healthy()
def rnn_over_rows() -> Training:
    """``nn.RNN`` over eight rows of pixels."""
    model = Last(nn.RNN(8, 32, batch_first=True), 10)
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 250)


@CASES.healthy()
def gru_over_rows() -> Training:
    """``nn.GRU`` over eight rows of pixels, two layers."""
    model = Last(nn.GRU(8, 32, num_layers=2, batch_first=True), 10)
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 200)


@CASES.healthy()
def hand_written_loop_over_rows() -> Training:
    """A tanh recurrence in plain operations."""
    model = Loop(1.0, inputs=8, outputs=10)
    return classifier(model, torch.optim.Adam(model.parameters(), 3e-3), 250)


@CASES.healthy()
def hand_written_lstm_cell() -> Training:
    """``nn.LSTMCell`` in a loop."""

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTMCell(8, 32), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for row in x.view(-1, 8, 8).unbind(1):
                state = self.cell(row, state)
            return self.head(state[0])

    model = Cell()
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 250)


@CASES.healthy()
def character_lstm() -> Training:
    """A language model with an LSTM and clipping at one."""

    class Characters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(24, 32)
            self.lstm = nn.LSTM(32, 64, batch_first=True)
            self.head = nn.Linear(64, 24)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(self.embedding(x))[0])

    model = Characters()
    return language(model, torch.optim.Adam(model.parameters(), 1e-2), 300, clip=1.0)
