"""Well: generators and critics, whose losses hover about those of a draw."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import minibatches
from benchmarks.gauntlet.practice.well_common import likeness
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import mlp
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

CASES = Cases()


def arc(count: int, seed: int) -> Tensor:
    """Points near three quarters of a circle."""
    g = torch.Generator().manual_seed(seed)
    t = torch.rand(count, generator=g) * 1.5 * torch.pi
    return torch.stack([t.cos(), t.sin()], 1) * 1.5 + 0.1 * torch.randn(count, 2, generator=g)


@CASES.healthy(good=0.7)
def gan_with_the_classic_loss() -> Training:
    """Goodfellow's game with one-sided label smoothing; both losses hover near those of a draw."""
    data, noise = arc(4000, 41), torch.Generator().manual_seed(42)
    generator = mlp(2, nn.ReLU, inputs=4, outputs=2)
    critic = mlp(2, lambda: nn.LeakyReLU(0.2), inputs=2, outputs=1)
    optimizers = [torch.optim.Adam(m.parameters(), 2e-3, betas=(0.5, 0.99)) for m in (generator, critic)]
    draw = minibatches(128, len(data))

    def step(_: int) -> float:
        real, fake = data[draw()], generator(torch.randn(128, 4, generator=noise))
        optimizers[1].zero_grad()
        says = critic(real)
        loss = F.binary_cross_entropy_with_logits(says, torch.full_like(says, 0.9))
        loss = loss + F.softplus(critic(fake.detach())).mean()
        loss.backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        F.softplus(-critic(fake)).mean().backward()
        optimizers[0].step()
        return loss.item()

    def samples() -> Tensor:
        return generator(torch.randn(4000, 4, generator=torch.Generator().manual_seed(43)))

    model = {"generator": generator, "critic": critic}
    return Training(model, optimizers, step, 400, likeness(samples, data, generator))


@CASES.healthy(good=0.7)
def hinge_gan_under_spectral_norm() -> Training:
    """Spectral norm in every layer of the critic, hinge losses, two critic steps for one of the generator."""
    data, noise = arc(4000, 44), torch.Generator().manual_seed(45)
    generator = mlp(2, nn.ReLU, inputs=4, outputs=2)
    critic = nn.Sequential(
        *[spectral_norm(m) if isinstance(m, nn.Linear) else m for m in mlp(2, nn.LeakyReLU, inputs=2, outputs=1)]
    )
    optimizers = [torch.optim.Adam(m.parameters(), 2e-3, betas=(0.0, 0.9)) for m in (generator, critic)]
    draw = minibatches(128, len(data))

    def step(_: int) -> float:
        for _ in range(2):
            optimizers[1].zero_grad()
            fake = generator(torch.randn(128, 4, generator=noise)).detach()
            loss = F.relu(1 - critic(data[draw()])).mean() + F.relu(1 + critic(fake)).mean()
            loss.backward()
            optimizers[1].step()
        optimizers[0].zero_grad()
        (-critic(generator(torch.randn(128, 4, generator=noise))).mean()).backward()
        optimizers[0].step()
        return loss.item()

    def samples() -> Tensor:
        return generator(torch.randn(4000, 4, generator=torch.Generator().manual_seed(46)))

    model = {"generator": generator, "critic": critic}
    return Training(model, optimizers, step, 300, likeness(samples, data, generator))
