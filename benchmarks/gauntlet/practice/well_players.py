"""Well: agents and objectives whose loss is no measure of success."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.practice.well_common import freeze, loop, neighbours
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, explained, he, mlp, undisturbed
from torch import Tensor, nn

CASES = Cases()


SIDE = 5


def moved(place: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Steps on a square of 5x5 fields; 1 for reaching the last field, -0.02 otherwise."""
    row, column = place // SIDE, place % SIDE
    row = (row + (action == 0).long() - (action == 1).long()).clamp(0, SIDE - 1)
    column = (column + (action == 2).long() - (action == 3).long()).clamp(0, SIDE - 1)
    after = row * SIDE + column
    return after, torch.where(after == SIDE * SIDE - 1, 1.0, -0.02)


def seen(place: Tensor) -> Tensor:
    """The field as a one-hot vector."""
    return F.one_hot(place, SIDE * SIDE).float()


def arrivals(policy: nn.Module) -> float:
    """The share of fields from which the greedy policy reaches the goal in no more steps than are needed."""
    place = torch.arange(SIDE * SIDE - 1)
    needed = 2 * (SIDE - 1) - place // SIDE - place % SIDE
    arrived = torch.zeros(len(place), dtype=torch.bool)
    with undisturbed(policy):
        for k in range(1, 2 * SIDE - 1):
            place = torch.where(arrived, place, moved(place, policy(seen(place)).argmax(1))[0])
            arrived |= (place == SIDE * SIDE - 1) & (k <= needed)
    return arrived.float().mean().item()


@CASES.healthy(good=0.7)
def q_learning_on_a_square() -> Training:
    """Replay, a target copied every 25 steps, epsilon-greedy: the loss falls, grows as values spread, and falls."""
    g = torch.Generator().manual_seed(47)
    online = mlp(1, nn.ReLU, he(), width=64, inputs=SIDE * SIDE, outputs=4)
    target = copy.deepcopy(online)
    freeze(target.parameters())
    optimizer = torch.optim.Adam(online.parameters(), 5e-3)
    memory: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    place = [torch.randint(SIDE * SIDE - 1, (32,), generator=g)]

    def step(i: int) -> float:
        here = place[0]
        with torch.no_grad():
            action = online(seen(here)).argmax(1)
        explore = torch.rand(32, generator=g) < max(0.1, 1 - i / 200)
        action = torch.where(explore, torch.randint(4, (32,), generator=g), action)
        there, reward = moved(here, action)
        memory.append((here, action, there, reward))
        place[0] = torch.where(reward > 0, torch.randint(SIDE * SIDE - 1, (32,), generator=g), there)
        past = [memory[k] for k in torch.randint(len(memory), (8,), generator=g).tolist()]
        here, action, there, reward = (torch.cat(parts) for parts in zip(*past, strict=True))
        with torch.no_grad():
            goal = reward + 0.9 * target(seen(there)).amax(1) * (reward < 0)
        optimizer.zero_grad()
        loss = F.smooth_l1_loss(online(seen(here)).gather(1, action[:, None])[:, 0], goal)
        loss.backward()
        optimizer.step()
        if i % 25 == 24:
            target.load_state_dict(online.state_dict())
        return loss.item()

    return Training(online, optimizer, step, 400, lambda: arrivals(online))


@CASES.healthy(good=0.7)
def advantage_actor_critic() -> Training:
    """Sixty-four walkers, five steps each, an entropy bonus; the sum of the three losses has no direction."""
    g = torch.Generator().manual_seed(48)
    actor, critic = (mlp(1, nn.Tanh, width=64, inputs=SIDE * SIDE, outputs=n) for n in (4, 1))
    model = nn.ModuleDict({"actor": actor, "critic": critic})
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    place = [torch.randint(SIDE * SIDE - 1, (64,), generator=g)]

    def loss(_: int) -> Tensor:
        logs, values, rewards, entropy = [], [], [], torch.zeros(())
        for _ in range(5):
            here = seen(place[0])
            log = actor(here).log_softmax(1)
            action = torch.multinomial(log.detach().exp(), 1, generator=g)
            there, reward = moved(place[0], action[:, 0])
            logs.append(log.gather(1, action)[:, 0])
            values.append(critic(here)[:, 0])
            rewards.append(reward)
            entropy = entropy - (log.exp() * log).sum(1).mean() / 5
            place[0] = torch.where(reward > 0, torch.randint(SIDE * SIDE - 1, (64,), generator=g), there)
        with torch.no_grad():
            gain = critic(seen(place[0]))[:, 0]
        total = torch.zeros(())
        for log, value, reward in zip(logs[::-1], values[::-1], rewards[::-1], strict=True):
            gain = torch.where(reward > 0, reward, reward + 0.95 * gain)
            advantage = gain - value
            total = total + (-(log * advantage.detach()) + 0.5 * advantage.square()).mean() / 5
        return total - 0.01 * entropy

    return loop(model, optimizer, loss, 300, lambda: arrivals(actor), clip=0.5)


@CASES.healthy(good=0.6)
def reinforce_on_guessed_digits() -> Training:
    """A bandit that only hears whether its guess was right, with a running baseline and an entropy bonus."""
    x, y = digits()
    model = mlp(1, nn.ReLU, width=96)
    g, draw, baseline = torch.Generator().manual_seed(49), minibatches(128, len(y)), [0.1]

    def loss(_: int) -> Tensor:
        chosen = draw()
        log = model(x[chosen]).log_softmax(1)
        guess = torch.multinomial(log.detach().exp(), 1, generator=g)[:, 0]
        reward = (guess == y[chosen]).float()
        gain = reward - baseline[0]
        baseline[0] = 0.95 * baseline[0] + 0.05 * reward.mean().item()
        entropy = -(log.exp() * log).sum(1).mean()
        return -(gain * log.gather(1, guess[:, None])[:, 0]).mean() - 0.05 * entropy

    return loop(model, torch.optim.Adam(model.parameters(), 5e-3), loss, 350, accuracy(model, x[:500], y[:500]))


class Variational(nn.Module):
    """An encoder to means and log-variances of twelve numbers, and a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(1, nn.ReLU, width=128, outputs=24)
        self.decoder = mlp(1, nn.ReLU, width=128, inputs=12, outputs=64)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x).chunk(2, 1)[0])


@CASES.healthy(good=0.4)
def variational_with_a_rising_weight_of_kl() -> Training:
    """The weight of the Kullback-Leibler term rises from 0 to 1 over 150 steps, and the loss with it."""
    x, y = digits()
    model = Variational()
    g, draw = torch.Generator().manual_seed(50), minibatches(64, len(y))

    def loss(i: int) -> Tensor:
        b = x[draw()]
        mean, log = model.encoder(b).chunk(2, 1)
        z = mean + (log / 2).exp() * torch.randn(mean.shape, generator=g)
        far = 0.5 * (mean.square() + log.exp() - log - 1).sum(1).mean()
        return 2 * (model.decoder(z) - b).square().sum(1).mean() + min(1.0, i / 150) * far

    return loop(model, torch.optim.Adam(model.parameters(), 2e-3), loss, 300, explained(model, x[:500], x[:500]))


@CASES.healthy(good=0.7)
def triplets_that_are_soon_satisfied() -> Training:
    """A triplet margin loss; after a while most triplets give neither loss nor gradient."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 16))
    members = [(y == k).nonzero()[:, 0] for k in range(10)]
    g = torch.Generator().manual_seed(51)

    def one_of(classes: Tensor) -> Tensor:
        u = torch.rand(len(classes), generator=g).tolist()
        return torch.stack([members[k][int(r * len(members[k]))] for k, r in zip(classes.tolist(), u, strict=True)])

    def loss(_: int) -> Tensor:
        same = torch.randint(10, (48,), generator=g)
        other = (same + torch.randint(1, 10, (48,), generator=g)) % 10
        a, p, n = (F.normalize(model(x[one_of(k)]), dim=1) for k in (same, same, other))
        return F.triplet_margin_loss(a, p, n, margin=0.4)

    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    return loop(model, optimizer, loss, 200, neighbours(model, x, y, model))
