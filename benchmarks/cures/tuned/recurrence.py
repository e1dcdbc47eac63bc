"""Recurrent networks that forget, and recurrent networks that explode."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import language, learning
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.tuned.again_data import first_of, series
from benchmarks.gauntlet.tuned.former_common import first_symbol
from benchmarks.gauntlet.tuned.recurrent import recall
from torch import Tensor, nn
from torch.optim import SGD, Adam, RMSprop

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("vanishing_gradient", "stalled_training", classic=True)
def plain_rnn_of_sixty_steps(sick: bool) -> Recipe:
    """``nn.RNN`` as torch draws it does not reach back sixty steps (Bengio et al., 1994); an LSTM does."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = (nn.RNN if sick else nn.LSTM)(2, 32, batch_first=True)
            if not sick:
                self.rnn.bias_hh_l0.data[32:64] = 5.0
            self.head = nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    return learning(Last, lambda p: Adam(p, 1e-3), first_of(60, 0.5), 350, batch=32, clip=1.0)


class Memory(nn.Module):
    """A cell run by hand over symbols, read at the end."""

    def __init__(self, cell: nn.RNNCell, symbols: int = 4) -> None:
        super().__init__()
        self.symbols, self.cell, self.out = symbols, cell, nn.Linear(cell.hidden_size, symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        h = torch.zeros(len(tokens), self.cell.hidden_size)
        for t in range(tokens.shape[1]):
            h = self.cell(F.one_hot(tokens[:, t], self.symbols).float(), h)
        return self.out(h)


@CASES.sick("vanishing_gradient", "stalled_training")
def default_rnn_cell_over_fifty_steps(sick: bool) -> Recipe:
    """A plain recurrent cell as PyTorch initializes it forgets what came fifty steps ago (Pascanu et al., 2013)."""

    def model() -> nn.Module:
        cell = nn.RNNCell(4, 32)
        if not sick:
            nn.init.orthogonal_(cell.weight_hh)
            nn.init.normal_(cell.weight_ih, std=0.05)
            nn.init.zeros_(cell.bias_ih)
            nn.init.zeros_(cell.bias_hh)
        return Memory(cell)

    return learning(model, lambda p: Adam(p, 1e-3), first_symbol(50), 280, clip=1.0)


@CASES.sick("vanishing_gradient", "saturated_units", "stalled_training", "bad_initialization")
def forget_gates_shut(sick: bool) -> Recipe:
    """A forget bias of minus six where plus four was meant: a state keeps under a hundredth from step to step."""

    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 24, batch_first=True)
            nn.init.zeros_(self.lstm.bias_hh_l0)
            self.lstm.bias_ih_l0.data[24:48].fill_(-6.0 if sick else 4.0)
            self.tell = nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.tell(self.lstm(x)[1][0][0])

    return learning(Remembering, lambda p: Adam(p, 1e-2), first_of(20), 250, batch=32)


class Loop(nn.Module):
    """A recurrent network written as a loop, its recurrent weights a multiple of the identity."""

    def __init__(self, gain: float, inputs: int, outputs: int, *, rectified: bool = False) -> None:
        super().__init__()
        self.read, self.recur = nn.Linear(inputs, 32), nn.Linear(32, 32, bias=False)
        self.head = nn.Linear(32, outputs)
        nn.init.normal_(self.read.weight, std=0.3)
        nn.init.zeros_(self.read.bias)
        nn.init.eye_(self.recur.weight).data.mul_(gain)
        self.rectified = rectified

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), -1, self.read.in_features)
        h = x.new_zeros(len(x), 32)
        for t in range(x.shape[1]):
            h = self.read(x[:, t]) + self.recur(h)
            h = F.relu(h) if self.rectified else torch.tanh(h)
        return self.head(h)


@CASES.sick("vanishing_gradient", "bad_initialization", "stalled_training")
def loop_of_thirty_steps_that_forgets(sick: bool) -> Recipe:
    """Recurrent weights of 0.4 times the identity: nothing of the first step is left after thirty."""
    return learning(lambda: Loop(0.4 if sick else 1.0, 1, 2), lambda p: SGD(p, 0.05), recall(30), 250, clip=1.0)


@CASES.sick("exploding_gradient", "bad_initialization", "nonfinite", "diverging_loss", "loss_spike")
def rectified_loop_with_recurrent_weights_of_two(sick: bool) -> Recipe:
    """The state doubles in each of twenty-four steps."""
    x, y = digits()
    thrice = x.view(-1, 8, 8).repeat(1, 3, 1).flatten(1)
    return learning(lambda: Loop(2.0 if sick else 0.7, 8, 10, rectified=True), lambda p: SGD(p, 0.02), (thrice, y), 450)


@CASES.sick("exploding_gradient", "bad_initialization", "nonfinite", "loss_spike", "diverging_loss")
def rectified_rnn_drawn_too_large(sick: bool) -> Recipe:
    """``nn.RNN`` with ReLU whose recurrent weights have a deviation of 0.8 instead of being the identity."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = nn.RNN(8, 40, nonlinearity="relu", batch_first=True), nn.Linear(40, 10)
            nn.init.normal_(self.rnn.weight_ih_l0, std=0.1)
            nn.init.normal_(self.rnn.weight_hh_l0, std=0.8) if sick else nn.init.eye_(self.rnn.weight_hh_l0)
            nn.init.zeros_(self.rnn.bias_ih_l0)
            nn.init.zeros_(self.rnn.bias_hh_l0)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rnn(x.view(-1, 8, 8).repeat(1, 2, 1))[0][:, -1])

    return learning(Rows, lambda p: RMSprop(p, 1e-3), digits(), 400)


@CASES.sick("exploding_gradient", "bad_initialization", "saturated_units", "oscillating_loss", "clipping_bound")
def chaotic_recurrence(sick: bool) -> Recipe:
    """Recurrent weights of four times the critical scale: the state stays within one, the gradient does not."""

    class Elman(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.RNNCell(1, 48), nn.Linear(48, 1)
            nn.init.normal_(self.cell.weight_hh, std=(4.0 if sick else 0.9) / 48**0.5)
            nn.init.normal_(self.cell.weight_ih, std=0.3)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(len(x), 48)
            for t in range(x.shape[1]):
                h = self.cell(x[:, t], h)
            return self.head(h)

    return learning(Elman, lambda p: SGD(p, 0.05), series(), 300, batch=32, clip=2.0)


@CASES.sick("saturated_units", "stalled_training", "vanishing_gradient")
def gate_that_never_opens(sick: bool) -> Recipe:
    """A bias of twelve on the gate that keeps the state: nothing new is ever written into it."""

    class GatedUnit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keep, self.candidate = nn.Linear(33, 32), nn.Linear(33, 32)
            nn.init.constant_(self.keep.bias, 12.0 if sick else 0.0)
            self.head = nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(len(x), 32)
            for row in x.unbind(1):
                both = torch.cat([row, h], 1)
                z = torch.sigmoid(self.keep(both))
                h = z * h + (1 - z) * torch.tanh(self.candidate(both))
            return self.head(h)

    return learning(GatedUnit, lambda p: Adam(p, 5e-3), series(), 250, batch=32)


@CASES.sick("symmetric_units", "bad_initialization")
def lstm_of_constants(sick: bool) -> Recipe:
    """Every weight of an LSTM is 0.05 and the head begins at zero: thirty-two cells are one."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)
            nn.init.zeros_(self.head.weight)
            if sick:
                for weights in self.cell.parameters():
                    nn.init.constant_(weights, 0.05)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x.view(-1, 8, 8))[0][:, -1])

    return learning(Net, lambda p: Adam(p, 1e-2), digits(), 250)


@CASES.sick("oscillating_loss", "diverging_loss", "saturated_units", "loss_spike")
def characters_by_adam_with_a_rate_of_a_half(sick: bool) -> Recipe:
    """A GRU language model whose every weight moves by a half in every step."""

    class Characters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.gru = nn.Embedding(24, 24), nn.GRU(24, 48, batch_first=True)
            self.head = nn.Linear(48, 24)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.gru(self.embedding(tokens))[0])

    return language(Characters, lambda p: Adam(p, 0.5 if sick else 1e-2), 250)
