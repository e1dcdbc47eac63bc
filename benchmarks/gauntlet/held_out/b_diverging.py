"""Losses that grow away."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.held_out.b_networks import RecurrentText, dense
from benchmarks.gauntlet.held_out.common_b import accuracy, bounded, explained, fit, language, quiet
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


class SevenStates(nn.Module):
    """Baird's linear values: each of six states is 2 w_i + w_7, the seventh w_6 + 2 w_7."""

    def __init__(self) -> None:
        super().__init__()
        features = torch.zeros(7, 8)
        features[:6, :6] = 2 * torch.eye(6)
        features[:6, 7], features[6, 6], features[6, 7] = 1, 1, 2
        self.register_buffer("features", features)
        self.value = nn.Linear(8, 1, bias=False)
        self.value.weight.data.copy_(torch.tensor([[1.0, 1, 1, 1, 1, 1, 10, 1]]))

    def forward(self, states: Tensor) -> Tensor:
        return self.value(self.features[states])[:, 0]


@CASES.sick("diverging_loss", also=("stalled_training", *GROWTH))
def temporal_differences_off_policy_with_linear_values(sick: bool) -> Training:
    """Baird's counterexample: bootstrapped values of the solid action under uniform states; the twin learns
    from observed returns instead.
    """
    model = SevenStates()
    optimizer = torch.optim.SGD(model.parameters(), 0.03)
    start = torch.ones(7) * 3
    start[6] = 12
    g = torch.Generator().manual_seed(4)
    rewards, returns = 0.1 * torch.randn(700, generator=g), 0.7 * torch.randn(700, generator=g)
    draw = minibatches(32, 700)

    def step(_: int) -> float:
        seen = draw()
        states, target = seen % 7, returns[seen]
        if sick:
            with torch.no_grad():
                target = rewards[seen] + 0.99 * model(torch.full_like(states, 6))
        optimizer.zero_grad()
        loss = F.mse_loss(model(states), target)
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with quiet(model):
            return bounded(1 - (model(torch.arange(7)).norm() / start.norm()).item())

    return Training(model, optimizer, step, 400, score)


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
