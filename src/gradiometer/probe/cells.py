"""The recurrent layers of torch.nn written out: their states, and the gradient that goes back from step to step.

Each class is one layer in one direction. It computes what torch computes (see the formulas of ``nn.LSTM``, ``nn.GRU``
and ``nn.RNN``) and goes back by hand, without autograd: nobody's hooks hear of it, and a step costs a few operations.

Inputs, hidden states and their gradients are ``(steps, examples, units)``, one step of them ``(examples, units)``. The
units of all gates lie side by side, in torch's order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Parts = tuple[Tensor, ...]
"""Of a state: the hidden state and, of an LSTM, the cell."""


class Part(NamedTuple):
    """``log10`` of what one operation does to the gradient in each step but the first; zero where it is not on the way.

    The way is the one that carries most, as in ``ledger.through_time``.
    """

    label: str
    change: Tensor


class Through(NamedTuple):
    """The gradient norms at the states, what each step but the first passes on over what it gets, and who does it."""

    gradients: Tensor
    gains: Tensor
    parts: list[Part]


class Weights(NamedTuple):
    """Those of one layer in one direction; ``name`` is that of the recurrent matrix."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    w_hr: Tensor | None
    name: str


class Lstm:
    """``c' = f c + i n``, ``h' = o tanh(c')``; the gates are sigmoids, the candidate ``n`` is a tanh."""

    def __init__(self, w: Weights) -> None:
        """Nothing is computed yet."""
        self._w = w

    def forward(self, x: Tensor, start: Parts) -> tuple[Tensor, Parts]:
        """The hidden states of all steps, and the last state."""
        w = self._w
        given = F.linear(x, w.w_ih, w.b_ih) + (0.0 if w.b_hh is None else w.b_hh)
        h, c = start
        back, before, kept = w.w_hh.T, [], []
        states: list[Tensor] = []
        for row in given:
            z = torch.addmm(row, h, back)
            i, f, _, o = torch.sigmoid(z).chunk(4, 1)
            n = torch.tanh(z.chunk(4, 1)[2])
            before.append(c)
            c = torch.addcmul(f * c, i, n)
            squashed = torch.tanh(c)
            h = o * squashed if w.w_hr is None else F.linear(o * squashed, w.w_hr)
            kept.append((i, f, n, o, squashed))
            states.append(h)
        self._i, self._f, self._n, self._o, self._squashed = (torch.stack(v) for v in zip(*kept, strict=True))
        self._before = torch.stack(before)
        return torch.stack(states), (h, c)

    def backward(self, arriving: Tensor, last: Parts) -> tuple[Tensor, Through]:
        """The gradient of the input, and what was measured; ``last`` is what comes to the last state by itself."""
        w, (i, f, n, o, t) = self._w, (self._i, self._f, self._n, self._o, self._squashed)
        inner = (n, self._before, i, t)  # what each gate is multiplied with, and so the factor of its gradient
        slopes = (i * (1 - i), f * (1 - f), 1 - n * n, o * (1 - o))
        factor = torch.cat([a * b for a, b in zip(inner, slopes, strict=True)], -1)
        to_cell = o * (1 - t * t)
        dh, dc = last
        rows: list[Parts] = []
        for at in range(len(arriving) - 1, -1, -1):
            g_h, g_c = arriving[at] + dh, dc  # of the cell's, what does not come by way of the hidden state
            g_y = g_h if w.w_hr is None else g_h @ w.w_hr
            whole = torch.addcmul(dc, g_y, to_cell[at])
            dz = torch.cat((whole, whole, whole, g_y), 1) * factor[at]
            dh, dc = dz @ w.w_hh, whole * f[at]
            rows.append((g_h, g_c, g_y, whole, dz, dh, dc))
        g_h, g_c, g_y, whole, dz, dh, dc = _stacked(rows)
        gradients = torch.hypot(_norms(g_h), _norms(g_c))
        sent_h, sent_c = _norms(dh)[1:], _norms(dc)[1:]
        by_cell = sent_c >= sent_h
        entering = [_norms(whole)[1:]] * 3 + [_norms(g_y)[1:]]
        parts = [Part("forget gate", _log(sent_c, entering[0]))]
        came, sizes = [whole, whole, whole, g_y], [_norms(part)[1:] for part in dz.chunk(4, -1)]
        gates = [_norms(a * b)[1:] for a, b in zip(came, inner, strict=True)]
        whole_size = _norms(dz)[1:]
        by_hidden = [
            Part(w.name, _log(sent_h, whole_size)),
            *_through_gates(whole_size, sizes, gates, entering, ("sigmoid", "sigmoid", "tanh", "sigmoid"), _LSTM_BY),
        ]
        parts += [Part(label, torch.where(by_cell, 0.0, change)) for label, change in by_hidden]
        return dz @ w.w_ih, Through(gradients, torch.hypot(sent_h, sent_c) / gradients[1:], parts)


_LSTM_BY = ("cell candidate", "mul", "input gate", "mul")
"""What the input gate, the forget gate, the candidate and the output gate are multiplied with, by its name."""


class Gru:
    """``h' = u h + (1 - u) n`` with the candidate ``n = tanh(z_n + r m_n)``; ``m`` is what the state contributes."""

    def __init__(self, w: Weights) -> None:
        """Nothing is computed yet."""
        self._w = w

    def forward(self, x: Tensor, start: Parts) -> tuple[Tensor, Parts]:
        """The hidden states of all steps, and the last state."""
        w, (h,) = self._w, start
        before, kept = [], []
        states: list[Tensor] = []
        for z in F.linear(x, w.w_ih, w.b_ih):
            (z_r, z_u, z_n), (m_r, m_u, m_n) = z.chunk(3, 1), F.linear(h, w.w_hh, w.b_hh).chunk(3, 1)
            r, u = torch.sigmoid(z_r + m_r), torch.sigmoid(z_u + m_u)
            n = torch.tanh(torch.addcmul(z_n, r, m_n))
            before.append(h)
            h = torch.addcmul(n, u, h - n)
            kept.append((r, u, n, m_n))
            states.append(h)
        self._r, self._u, self._n, self._m = (torch.stack(v) for v in zip(*kept, strict=True))
        self._before = torch.stack(before)
        return torch.stack(states), (h,)

    def backward(self, arriving: Tensor, last: Parts) -> tuple[Tensor, Through]:
        """The gradient of the input, and what was measured; ``last`` is what comes to the last state by itself."""
        w, (r, u, n, m) = self._w, (self._r, self._u, self._n, self._m)
        candidate = (1 - u) * (1 - n * n)
        to_r, to_u = candidate * m * r * (1 - r), (self._before - n) * u * (1 - u)
        factor = torch.cat((to_r, to_u, candidate * r), -1)
        (dh,) = last
        rows: list[Parts] = []
        for at in range(len(arriving) - 1, -1, -1):
            g = arriving[at] + dh
            dm = torch.cat((g, g, g), 1) * factor[at]
            kept, made = g * u[at], dm @ w.w_hh
            dh = kept + made
            rows.append((g, dm, kept, made, dh))
        g, dm, kept, made, dh = _stacked(rows)
        gradients, entering = _norms(g), _norms(g)[1:]
        sent_kept, sent_made, whole_size = _norms(kept)[1:], _norms(made)[1:], _norms(dm)[1:]
        by_kept = sent_kept >= sent_made
        sizes = [_norms(part)[1:] for part in dm.chunk(3, -1)]
        squashed = _norms(g * candidate)[1:]
        gates = [_norms(g * candidate * m)[1:], _norms(g * (self._before - n))[1:], squashed]
        came = [squashed, entering, squashed]
        by_update = torch.stack(sizes).argmax(0) == 1
        by_made = [
            Part(w.name, _log(sent_made, whole_size)),
            *_through_gates(whole_size, sizes, gates, came, ("sigmoid", "sigmoid", "reset gate"), _GRU_BY),
            Part("tanh", torch.where(by_update, 0.0, _log(squashed, entering))),
        ]
        parts = [Part("update gate", torch.where(by_kept, _log(sent_kept, entering), 0.0))]
        parts += [Part(label, torch.where(by_kept, 0.0, change)) for label, change in by_made]
        d_input = torch.cat((dm[..., : -u.shape[-1]], g * candidate), -1)
        return d_input @ w.w_ih, Through(gradients, _norms(dh)[1:] / gradients[1:], parts)


_GRU_BY = ("mul", "mul", "tanh")
"""Where the reset gate, the update gate and the candidate's sum end up, by the names the ledger has for these.

The ``1 - u`` that the candidate is weighed with counts with its tanh: a fork counts with the operation it is one of."""


class Rnn:
    """``h' = f(z)``, ``f`` tanh or ReLU."""

    def __init__(self, w: Weights, activation: str) -> None:
        """Nothing is computed yet."""
        self._w, self._activation = w, activation

    def forward(self, x: Tensor, start: Parts) -> tuple[Tensor, Parts]:
        """The hidden states of all steps, and the last state."""
        w, (h,) = self._w, start
        given = F.linear(x, w.w_ih, w.b_ih) + (0.0 if w.b_hh is None else w.b_hh)
        squash, back = torch.tanh if self._activation == "tanh" else torch.relu, w.w_hh.T
        states: list[Tensor] = []
        for z in given:
            h = squash(torch.addmm(z, h, back))
            states.append(h)
        self._h = torch.stack(states)
        return self._h, (h,)

    def backward(self, arriving: Tensor, last: Parts) -> tuple[Tensor, Through]:
        """The gradient of the input, and what was measured; ``last`` is what comes to the last state by itself."""
        w, h = self._w, self._h
        slope = 1 - h * h if self._activation == "tanh" else (h > 0).to(h.dtype)
        (dh,) = last
        rows: list[Parts] = []
        for at in range(len(arriving) - 1, -1, -1):
            g = arriving[at] + dh
            dz = g * slope[at]
            dh = dz @ w.w_hh
            rows.append((g, dz, dh))
        g, dz, dh = _stacked(rows)
        gradients, size, sent = _norms(g), _norms(dz)[1:], _norms(dh)[1:]
        parts = [Part(w.name, _log(sent, size)), Part(self._activation, _log(size, gradients[1:]))]
        return dz @ w.w_ih, Through(gradients, sent / gradients[1:], parts)


def _through_gates(
    whole: Tensor,
    sizes: list[Tensor],
    gates: list[Tensor],
    entering: list[Tensor],
    squashed: tuple[str, ...],
    by: tuple[str, ...],
) -> list[Part]:
    """The way from a sum for all gates (``whole``) through the one that sends most, to what it entered from.

    ``sizes`` are the norms before the gates' activations, ``gates`` those behind them, ``entering`` those before what
    they are multiplied with.
    """
    strongest = torch.stack(sizes).argmax(0)
    parts: list[Part] = []
    for nr, (size, gate, came, activation, other) in enumerate(zip(sizes, gates, entering, squashed, by, strict=True)):
        for label, change in (("split", _log(whole, size)), (activation, _log(size, gate)), (other, _log(gate, came))):
            parts.append(Part(label, torch.where(strongest == nr, change, 0.0)))
    return parts


def _stacked(rows: list[Parts]) -> list[Tensor]:
    return [torch.stack(column[::-1]) for column in zip(*rows, strict=True)]


def _norms(x: Tensor) -> Tensor:
    """Of each step, by way of the largest element: the squares of what has vanished would be zero."""
    peak = x.abs().amax((1, 2)).clamp_min(torch.finfo(x.dtype).tiny)
    return (x / peak[:, None, None]).square().sum((1, 2)).sqrt() * peak


def _log(after: Tensor, before: Tensor) -> Tensor:
    """``log10`` of a gain; minus infinity where nothing is passed on, also of nothing."""
    return torch.where(after > 0, torch.log10(after / before), -torch.inf)
