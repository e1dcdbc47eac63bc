"""Losses that grow away."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits
from benchmarks.gauntlet.held_out.b_networks import RecurrentText, dense
from benchmarks.gauntlet.held_out.common_b import accuracy, explained, fit, language
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()
GROWTH = ("exploding_gradient", "nonfinite", "loss_spike", "oscillating_loss")


@CASES.sick("diverging_loss", also=("stalled_training", "saturated_units", *GROWTH))
def gru_language_model_that_maximizes(sick: bool) -> Training:
    """``maximize=True`` is left in the optimizer: the cross-entropy is climbed."""
    model = RecurrentText(nn.GRU)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3, maximize=sick)
    return language(model, optimizer, 200)


@CASES.sick("diverging_loss", "output_mismatch", also=("stalled_training", "dead_units", "saturated_units", *GROWTH))
def log_likelihood_without_its_minus(sick: bool) -> Training:
    """A log-likelihood written by hand, which is minimized because its minus was forgotten."""
    x, y = digits()
    model = dense(64, 96, 96, 10)
    optimizer = torch.optim.RMSprop(model.parameters(), 1e-3)

    def loss(chosen: Tensor) -> Tensor:
        picked = model(x[chosen]).log_softmax(1).gather(1, y[chosen, None]).mean()
        return picked if sick else -picked

    return fit(model, optimizer, loss, len(x), 200, accuracy(model, x[:500], y[:500]))


@CASES.sick(
    "diverging_loss", "oscillating_loss", "nonfinite", "exploding_gradient", "loss_spike", also=("stalled_training",)
)
def deconvolution_with_a_step_beyond_stability(sick: bool) -> Training:
    """A linear filter fitted by gradient descent with a rate above two over the largest curvature."""
    g = torch.Generator().manual_seed(9)
    signal = torch.randn(300, 1, 64, generator=g)
    taps = torch.tensor([0.1, -0.4, 0.9, 0.5, -0.2]).view(1, 1, 5)
    received = F.conv1d(signal, taps) + 0.1 * torch.randn(300, 1, 60, generator=g)
    model = nn.Conv1d(1, 1, 5)
    optimizer = torch.optim.SGD(model.parameters(), 1.06 if sick else 0.1)

    def loss(chosen: Tensor) -> Tensor:
        return F.mse_loss(model(signal[chosen]), received[chosen])

    return fit(model, optimizer, loss, 300, 80, explained(model, signal, received, model), batch=50)


@CASES.sick("diverging_loss", also=("stalled_training", *GROWTH))
def autoencoder_rewarded_for_its_error(sick: bool) -> Training:
    """Gradients whose sign was turned by hand: steps along that of the reconstruction error, not against it."""
    x, _ = digits()
    model = dense(64, 48, 12, 48, 64, activation=nn.ELU)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def uphill() -> None:
        if sick:
            for weight in model.parameters():
                weight.grad.neg_()

    def loss(chosen: Tensor) -> Tensor:
        return F.mse_loss(model(x[chosen]), x[chosen])

    return fit(model, optimizer, loss, len(x), 300, explained(model, x[:500], x[:500], model), between=uphill)
