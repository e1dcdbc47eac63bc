"""Generative, contrastive, adversarial and reinforcement learning, and unusual loops, without a fault."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.former_common import accuracy, at_rest, explained, fit, surface
from torch import Tensor, nn

CASES = Cases()


def mlp(a: int, h: int, b: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(a, h), act(), nn.Linear(h, b))


@CASES.healthy(good=0.5)
def adversarial_pair() -> Training:
    """A generator and a discriminator on a ring of points, two optimizers: neither loss falls, and it works."""
    g = torch.Generator().manual_seed(17)
    generator, discriminator = mlp(4, 64, 2), mlp(2, 64, 1, nn.SiLU)
    og = torch.optim.Adam(generator.parameters(), 2e-3, betas=(0.5, 0.9))
    od = torch.optim.Adam(discriminator.parameters(), 4e-3, betas=(0.5, 0.9))

    def real(n: int) -> Tensor:
        t = 2 * math.pi * torch.rand(n, generator=g)
        return torch.stack([2 + t.cos(), 1 + t.sin()], 1)

    def step(_: int) -> float:
        x, fake = real(128), generator(torch.randn(128, 4, generator=g))
        x = x.requires_grad_()
        out = discriminator(x)
        slope = torch.autograd.grad(out.sum(), x, create_graph=True)[0].pow(2).sum(1).mean()
        loss_d = F.softplus(-out).mean() + F.softplus(discriminator(fake.detach())).mean() + 0.1 * slope
        od.zero_grad()
        loss_d.backward()
        od.step()
        loss_g = F.softplus(-discriminator(fake)).mean()
        og.zero_grad()
        loss_g.backward()
        og.step()
        return loss_g.item()

    def score() -> float:
        noise = torch.randn(500, 4, generator=torch.Generator().manual_seed(18))
        with torch.no_grad():
            radius = (generator(noise) - torch.tensor([2.0, 1.0])).norm(dim=1)
        return 1 - (radius - 1).pow(2).mean().item()

    return Training({"generator": generator, "discriminator": discriminator}, [og, od], step, 400, score)


@CASES.healthy(good=0.6)
def policy_gradient() -> Training:
    """REINFORCE with a running baseline on digits: the reward is one for the right class; the loss says nothing."""
    x, y = digits()
    policy = mlp(64, 64, 10, nn.Tanh)
    optimizer = torch.optim.Adam(policy.parameters(), 5e-3)
    draw, g, baseline = minibatches(256, len(y)), torch.Generator().manual_seed(19), 0.1

    def step(_: int) -> float:
        nonlocal baseline
        chosen = draw()
        logp = policy(x[chosen]).log_softmax(1)
        action = torch.multinomial(logp.exp().detach(), 1, generator=g)
        reward = (action[:, 0] == y[chosen]).float()
        loss = -((reward - baseline) * logp.gather(1, action)[:, 0]).mean()
        baseline = 0.9 * baseline + 0.1 * reward.mean().item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(policy, optimizer, step, 400, lambda: accuracy(policy, x[:500], y[:500]))


class Vae(nn.Module):
    """A variational autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU())
        self.mu = nn.Linear(96, 8)
        self.logvar = nn.Linear(96, 8)
        self.decoder = mlp(8, 96, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp() if self.training else mu
        return self.decoder(z), mu, logvar


@CASES.healthy(good=0.5)
def variational_autoencoder() -> Training:
    """A bound of two terms, summed over pixels; some latent units stay unused by design."""
    x, _ = digits()
    model = Vae()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def loss(out: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
        rebuilt, mu, logvar = out
        divergence = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean()
        return 2 * F.mse_loss(rebuilt, target, reduction="sum") / len(target) + divergence

    score = lambda: explained(model, x[:500], x[:500], lambda v: model(v)[0])  # noqa: E731
    return fit(model, optimizer, 300, x, x, score, loss=loss)


def neighbours(encoder: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy above chance of the nearest other example's class."""
    with at_rest(encoder):
        z = F.normalize(encoder(x), dim=1)
    near = (z @ z.T).fill_diagonal_(-2).argmax(1)
    return ((y[near] == y).float().mean().item() - 0.1) / 0.9


@CASES.healthy(good=0.7)
def contrast_at_a_low_temperature() -> Training:
    """InfoNCE between a digit and another of its class, scores divided by 0.07: the softmax is sharp."""
    x, y = digits()
    encoder = mlp(64, 96, 16)
    optimizer = torch.optim.Adam(encoder.parameters(), 3e-3)
    g = torch.Generator().manual_seed(20)
    members = [(y == c).nonzero()[:, 0] for c in range(10)]

    def step(_: int) -> float:
        pairs = torch.stack([m[torch.randint(len(m), (2,), generator=g)] for m in members])
        a, b = (F.normalize(encoder(x[pairs[:, k]]), dim=1) for k in (0, 1))
        loss = F.cross_entropy(a @ b.T / 0.07, torch.arange(10))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(encoder, optimizer, step, 250, lambda: neighbours(encoder, x[:500], y[:500]))


@CASES.healthy(good=0.6)
def adversarial_training() -> Training:
    """Trained on examples that a gradient step on the input has made harder."""
    x, y = images()
    model = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), mlp(108, 48, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        attacked = x[chosen].clone().requires_grad_()
        slope = torch.autograd.grad(F.cross_entropy(model(attacked), y[chosen]), attacked)[0]
        attacked = (attacked + 0.3 * slope.sign()).detach()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(attacked), y[chosen])
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 200, lambda: accuracy(model, x[:500], y[:500]))


@CASES.healthy(good=0.8)
def gradients_accumulated_over_four() -> Training:
    """Four small batches before each step of the optimizer."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    draw = minibatches(8, len(y))

    def step(i: int) -> float:
        chosen = draw()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        (loss / 4).backward()
        if i % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    return Training(model, optimizer, step, 400, lambda: accuracy(model, x[:500], y[:500]))


@CASES.healthy(good=0.8)
def scaler_that_finds_its_scale() -> Training:
    """Autocast to float16 with a first scale far too high: the first steps overflow and are skipped, as they should."""
    x, y = digits()
    model = mlp(64, 64, 10)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**26)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(x[chosen]), y[chosen])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return Training(model, optimizer, step, 200, lambda: accuracy(model, x[:500], y[:500]))


@CASES.healthy(good=0.7)
def student_and_its_moving_average() -> Training:
    """A teacher that is the student's moving average and gets no gradient; a few labels and many without."""
    x, y = digits()
    student = mlp(64, 64, 10)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), 0.1, momentum=0.9)
    labelled, draw, g = minibatches(32, 200), minibatches(64, len(y), seed=2), torch.Generator().manual_seed(21)

    def step(_: int) -> float:
        some, many = labelled(), draw()
        with torch.no_grad():
            goal = teacher(x[many]).softmax(1)
        noisy = x[many] + 0.2 * torch.randn(x[many].shape, generator=g)
        loss = F.cross_entropy(student(x[some]), y[some]) + F.mse_loss(student(noisy).softmax(1), goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for a, b in zip(teacher.parameters(), student.parameters(), strict=True):
                a.lerp_(b, 0.05)
        return loss.item()

    score = lambda: accuracy(teacher, x[500:1000], y[500:1000])  # noqa: E731
    return Training({"student": student, "teacher": teacher}, optimizer, step, 250, score)


@CASES.healthy(good=0.9)
def physics_by_second_derivatives() -> Training:
    """A network made to satisfy u'' = -u with its values at both ends given."""
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    g = torch.Generator().manual_seed(22)
    ends, values = torch.tensor([[0.0], [math.pi / 2]]), torch.tensor([[0.0], [1.0]])

    def step(_: int) -> float:
        t = (math.pi / 2 * torch.rand(64, 1, generator=g)).requires_grad_()
        u = net(t)
        du = torch.autograd.grad(u.sum(), t, create_graph=True)[0]
        ddu = torch.autograd.grad(du.sum(), t, create_graph=True)[0]
        loss = (ddu + u).pow(2).mean() + 10 * F.mse_loss(net(ends), values)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    t = torch.linspace(0, math.pi / 2, 100)[:, None]
    return Training(net, optimizer, step, 400, lambda: explained(net, t, t.sin()))


class Experts(nn.Module):
    """Four experts of which each example is sent to one."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 4)
        self.experts = nn.ModuleList(mlp(6, 48, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        p, chosen = self.gate(x).softmax(1).max(1)
        out = torch.zeros(len(x), 1)
        for k, expert in enumerate(self.experts):
            mine = (chosen == k).nonzero()[:, 0]
            if len(mine):
                out = out.index_add(0, mine, p[mine, None] * expert(x[mine]))
        return out


@CASES.healthy(good=0.7)
def one_expert_for_each() -> Training:
    """A mixture of experts, routed hard; some expert may get little for a while."""
    x, y = surface()
    model = Experts()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    return fit(model, optimizer, 300, x, y, lambda: explained(model, x, y), loss=F.mse_loss)
