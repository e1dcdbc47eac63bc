"""Recurrent networks that read a sequence and answer at its end."""

from __future__ import annotations

from torch import Tensor, nn

_CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(nn.Module):
    """A recurrent layer and a linear one on its last output."""

    def __init__(self, recurrent: nn.RNNBase, outputs: int) -> None:
        """``recurrent`` has the batch first."""
        super().__init__()
        self.recurrent = recurrent
        self.output = nn.Linear(recurrent.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Of a sequence ``(batch, time, inputs)`` the outputs ``(batch, outputs)``."""
        return self.output(self.recurrent(x)[0][:, -1])


def recurrent(inputs: int, width: int, outputs: int, cell: str = "rnn", layers: int = 1) -> Recurrent:
    """A recurrent network for a whole sequence: tanh units, LSTM or GRU, initialized as PyTorch does.

    Formula: ``h_t = tanh(W x_t + b + U h_{t-1} + c)``, and the cells of LSTM and GRU; ``y = V h_T``.

    Args:
        inputs, width, outputs: numbers of input units, hidden units, output units.
        cell: ``"rnn"``, ``"lstm"`` or ``"gru"``.
        layers: recurrent layers on top of each other.

    Returns:
        A module with ``recurrent`` and ``output``.

    Raises:
        KeyError: for another cell.

    Example:
        >>> import torch
        >>> recurrent(3, 16, 10, "gru")(torch.randn(4, 60, 3)).shape
        torch.Size([4, 10])

    Source:
        Elman, Finding structure in time (1990); Hochreiter and Schmidhuber, Long short-term memory (1997); Cho et al.,
        Learning phrase representations using RNN encoder-decoder (2014).
    """
    return Recurrent(_CELLS[cell](inputs, width, layers, batch_first=True), outputs)
