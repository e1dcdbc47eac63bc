"""Autoencoders, adversaries, contrastive embeddings and flows that are well."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import bounded, explained, he, mlp, supervised, undisturbed
from torch import Tensor, nn

CASES = Cases()


def unit_digits() -> Tensor:
    """The digits between zero and one."""
    x = digits()[0]
    return (x - x.min()) / (x.max() - x.min())


@CASES.healthy(good=0.4)
def autoencoder_with_sigmoid_output() -> Training:
    """Eight numbers in the middle; a sigmoid and the cross-entropy at the end."""
    x = unit_digits()
    model = nn.Sequential(mlp(1, outputs=8), mlp(1, inputs=8, outputs=64), nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    score = explained(model, x[:500], x[:500])
    return supervised(model, optimizer, (x, x), F.binary_cross_entropy, score, 350)


class Variational(nn.Module):
    """A variational autoencoder with sixteen latent numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(1, outputs=32), mlp(1, inputs=16, outputs=64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(z), mean, log_variance


@CASES.healthy(good=0.3)
def variational_autoencoder() -> Training:
    """Reconstruction and the divergence from the prior."""
    x = unit_digits()
    model = Variational()
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    draw = minibatches(64, len(x))

    def step(_: int) -> float:
        b = x[draw()]
        r, mean, log_variance = model(b)
        likelihood = F.binary_cross_entropy_with_logits(r, b, reduction="none").sum(1).mean()
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        loss = likelihood + 0.3 * divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def reconstruct(b: Tensor) -> Tensor:
        return model.decoder(model.encoder(b).chunk(2, 1)[0]).sigmoid()

    return Training(model, optimizer, step, 400, explained(reconstruct, x[:500], x[:500], model))


def adversaries(wasserstein: bool) -> Training:
    """A generator that has to find a distant cloud of points."""
    generator, critic = mlp(2, inputs=4, outputs=2), mlp(2, nn.LeakyReLU, inputs=2, outputs=1)
    rate, betas = (1e-3, (0.0, 0.9)) if wasserstein else (1e-3, (0.5, 0.99))
    generate = torch.optim.Adam(generator.parameters(), rate, betas=betas)
    criticize = torch.optim.Adam(critic.parameters(), rate, betas=betas)
    centre = torch.tensor([1.5, -1.0])
    real, fake = torch.ones(64, 1), torch.zeros(64, 1)

    def step(_: int) -> float:
        x = centre + 0.3 * torch.randn(64, 2)
        z = generator(torch.randn(64, 4)).detach()
        criticize.zero_grad()
        if wasserstein:
            between = (x + torch.rand(64, 1) * (z - x)).requires_grad_()
            (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            penalty = (slope.norm(dim=1) - 1).square().mean()
            loss = critic(z).mean() - critic(x).mean() + penalty
        else:
            loss = F.binary_cross_entropy_with_logits(critic(x), real)
            loss = loss + F.binary_cross_entropy_with_logits(critic(z), fake)
        loss.backward()
        criticize.step()
        generate.zero_grad()
        opinion = critic(generator(torch.randn(64, 4)))
        loss = -opinion.mean() if wasserstein else F.binary_cross_entropy_with_logits(opinion, real)
        loss.backward()
        generate.step()
        return loss.item()

    def score() -> float:
        with undisturbed(generator):
            away = (generator(torch.randn(500, 4)).mean(0) - centre).norm() / centre.norm()
        return bounded(1 - away.item())

    return Training({"generator": generator, "critic": critic}, [criticize, generate], step, 350, score)


@CASES.healthy()
def adversarial_network() -> Training:
    """The non-saturating loss, two optimizers, two losses that do not fall."""
    return adversaries(wasserstein=False)


@CASES.healthy()
def wasserstein_with_gradient_penalty() -> Training:
    """A critic without bound and a gradient in its loss."""
    return adversaries(wasserstein=True)


def neighbours(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """How often the nearest of the others is of the same class, above chance."""
    with undisturbed(model):
        e = F.normalize(model(x), dim=1)
    right = (y[(e @ e.T - 9 * torch.eye(len(x))).argmax(1)] == y).float().mean().item()
    return (right - 0.1) / 0.9


@CASES.healthy(good=0.75)
def siamese_embedding() -> Training:
    """Pairs of the same digit together, others apart; two calls of one network in a step."""
    x, y = digits()
    model = mlp(2, nn.ReLU, he(), outputs=8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        a, b = draw(), draw()
        same = (y[a] == y[b]).float()
        distance = (model(x[a]) - model(x[b])).square().sum(1).add(1e-6).sqrt()
        loss = (same * distance.square() + (1 - same) * F.relu(2 - distance).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 300, lambda: neighbours(model, x[:400], y[:400]))


@CASES.healthy(good=0.7)
def contrast_of_two_views() -> Training:
    """InfoNCE with a temperature of 0.1 between two noisy views of each digit."""
    x, y = digits()
    model = mlp(1, nn.ReLU, he(), width=128, outputs=24)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        b = x[draw()]
        u, v = (F.normalize(model(b + 0.5 * torch.randn_like(b)), dim=1) for _ in range(2))
        loss = F.cross_entropy(u @ v.T / 0.1, torch.arange(64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 250, lambda: neighbours(model, x[:400], y[:400]))


@CASES.healthy(good=0.4)
def denoising_with_a_zero_head() -> Training:
    """Predicting the noise of a diffusion step; the last layer begins at zero."""
    x = digits()[0]
    model = mlp(2, nn.SiLU, inputs=65, outputs=64, width=128)
    nn.init.zeros_(model[-1].weight)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    draw = minibatches(128, len(x))

    def noisy(b: Tensor) -> tuple[Tensor, Tensor]:
        t, e = torch.rand(len(b), 1) * 0.8 + 0.2, torch.randn_like(b)
        return torch.cat([(1 - t) * b + t * e, t], 1), e

    def step(_: int) -> float:
        inputs, noise = noisy(x[draw()])
        optimizer.zero_grad()
        loss = F.mse_loss(model(inputs), noise)
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with undisturbed(model):
            inputs, noise = noisy(x[:500])
            return bounded(1 - F.mse_loss(model(inputs), noise).item())

    return Training(model, optimizer, step, 400, score)
