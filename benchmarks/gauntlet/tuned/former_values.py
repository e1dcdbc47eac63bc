"""Values that are learned from values; a case of the held-out half that was looked at."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import minibatches
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


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


@CASES.sick(
    "diverging_loss", also=("stalled_training", "exploding_gradient", "nonfinite", "loss_spike", "oscillating_loss")
)
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
        with torch.no_grad():
            return max(-1.0, 1 - (model(torch.arange(7)).norm() / start.norm()).nan_to_num(1e9).item())

    return Training(model, optimizer, step, 400, score)
