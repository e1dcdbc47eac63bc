"""Agents that learn: a corridor by actor and critic, a cliff by double Q-learning, a pole by whole episodes."""

from __future__ import annotations

import copy
import random

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import bounded, undisturbed
from benchmarks.gauntlet.tuned.more_tasks import generator, trained
from torch import Tensor, nn

CASES = Cases()

SIDE = 4


def moved(position: Tensor, action: Tensor) -> Tensor:
    """A step on a square board, not beyond its edge; positions ``(B, 2)``."""
    steps = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])
    return (position + steps[action]).clamp(0, SIDE - 1)


def seen(position: Tensor) -> Tensor:
    """One number per square of the board."""
    return F.one_hot(position[:, 0] * SIDE + position[:, 1], SIDE * SIDE).float()


@CASES.healthy()
def actor_and_critic_on_a_board() -> Training:
    """Eight steps towards a corner, returns to go, a bonus for entropy, two losses of different size."""

    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(SIDE * SIDE, 48), nn.Tanh())
            self.actor, self.critic = nn.Linear(48, 4), nn.Linear(48, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.trunk(x)
            return self.actor(h), self.critic(h)[:, 0]

    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), 5e-3)

    def episodes(g: torch.Generator, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        position, kept = torch.zeros(batch, 2, dtype=torch.long), []
        for _ in range(8):
            z, value = agent(seen(position))
            action = torch.multinomial(z.softmax(1), 1, generator=g)
            position = moved(position, action[:, 0])
            reward = (position == SIDE - 1).all(1).float()
            log_p = z.log_softmax(1)
            kept.append((log_p.gather(1, action)[:, 0], value, reward, -(log_p.exp() * log_p).sum(1)))
        log_p, value, reward, entropy = (torch.stack(part) for part in zip(*kept, strict=True))
        return log_p, value, reward, entropy

    g = generator(1)

    def loss(_: int) -> Tensor:
        log_p, value, reward, entropy = episodes(g, 24)
        returns = reward.flip(0).cumsum(0).flip(0)
        advantage = (returns - value).detach()
        return -(log_p * advantage).mean() + 0.5 * F.mse_loss(value, returns) - 0.01 * entropy.mean()

    def score() -> float:
        with undisturbed(agent):
            return bounded(episodes(generator(2), 200)[2].sum(0).mean().item() / 3)

    return trained(agent, optimizer, loss, score, 160)


@CASES.healthy()
def double_q_with_a_slow_copy() -> Training:
    """Transitions of a random walk, targets from a copy that follows slowly, the Huber loss."""
    g = generator(3)
    start = torch.randint(SIDE, (3000, 2), generator=g)
    action = torch.randint(4, (3000,), generator=g)
    end = moved(start, action)
    done = (end == SIDE - 1).all(1).float()
    online = nn.Sequential(nn.Linear(SIDE * SIDE, 64), nn.ReLU(), nn.Linear(64, 4))
    target = copy.deepcopy(online).requires_grad_(False)
    optimizer = torch.optim.Adam(online.parameters(), 5e-3)
    distance = 2 * (SIDE - 1) - torch.cartesian_prod(*[torch.arange(SIDE)] * 2).sum(1)
    truth = (0.9 ** (distance - 1)).float()[:-1]

    def loss(_: int) -> Tensor:
        i = torch.randint(3000, (64,), generator=g)
        with torch.no_grad():
            best = online(seen(end[i])).argmax(1, keepdim=True)
            aim = done[i] + 0.9 * (1 - done[i]) * target(seen(end[i])).gather(1, best)[:, 0]
        return F.smooth_l1_loss(online(seen(start[i])).gather(1, action[i, None])[:, 0], aim)

    def follow(_: int) -> None:
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
                slow.lerp_(fast, 0.05)

    def score() -> float:
        with undisturbed(online):
            value = online(torch.eye(SIDE * SIDE)).amax(1)[:-1]
        return bounded(1 - ((value - truth).square().mean() / truth.var()).item())

    return trained(online, optimizer, loss, score, 400, after=follow)


@CASES.healthy()
def noisy_bandit_with_context() -> Training:
    """REINFORCE with returns that are standardized in the batch, rewards as noisy as they are informative."""
    g = generator(4)
    policy = nn.Sequential(nn.Linear(6, 40), nn.ELU(), nn.Linear(40, 5))
    arms = torch.randn(6, 5, generator=generator(5))
    held = torch.randn(400, 6, generator=generator(6))

    def loss(_: int) -> Tensor:
        x = torch.randn(200, 6, generator=g)
        log_p = policy(x).log_softmax(1)
        arm = torch.multinomial(log_p.detach().exp(), 1, generator=g)
        reward = (x @ arms).gather(1, arm) + 2 * torch.randn(200, 1, generator=g)
        advantage = (reward - reward.mean()) / reward.std()
        return -(log_p.gather(1, arm) * advantage).mean()

    def score() -> float:
        value = held @ arms
        with undisturbed(policy):
            got = (policy(held).softmax(1) * value).sum(1).mean()
        return bounded(((got - value.mean()) / (value.amax(1).mean() - value.mean())).item())

    return trained(policy, torch.optim.Adam(policy.parameters(), 5e-3), loss, score, 300)


@CASES.healthy()
def clipped_policy_steps_from_a_buffer() -> Training:
    """PPO on a game of matching numbers: four passes over each batch, one network for each part, two optimizers."""
    actor = nn.Sequential(nn.Linear(8, 48), nn.Tanh(), nn.Linear(48, 8))
    critic = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 1), nn.Flatten(0))
    first = torch.optim.Adam(actor.parameters(), 5e-3)
    second = torch.optim.Adam(critic.parameters(), 1e-2)
    g, matching = generator(7), random.Random(8).sample(range(8), 8)
    right, buffer = torch.tensor(matching), {}

    def collect() -> None:
        s = torch.randint(8, (128,), generator=g)
        x = F.one_hot(s, 8).float()
        with torch.no_grad():
            log_p, value = actor(x).log_softmax(1), critic(x)
        a = torch.multinomial(log_p.exp(), 1, generator=g)
        reward = 1.0 - (a[:, 0] - right[s]).abs() / 4
        buffer.update(x=x, a=a, old=log_p.gather(1, a), reward=reward, gain=(reward - value)[:, None])

    def step(i: int) -> float:
        if i % 4 == 0:
            collect()
        ratio = (actor(buffer["x"]).log_softmax(1).gather(1, buffer["a"]) - buffer["old"]).exp()
        gain = buffer["gain"]
        policy = -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
        error = F.mse_loss(critic(buffer["x"]), buffer["reward"])
        for optimizer in (first, second):
            optimizer.zero_grad()
        (policy + error).backward()
        for optimizer in (first, second):
            optimizer.step()
        return (policy + error).item()

    def score() -> float:
        with undisturbed(actor):
            p = actor(torch.eye(8)).softmax(1)[torch.arange(8), right].mean().item()
        return bounded((p - 1 / 8) * 8 / 7)

    return Training({"actor": actor, "critic": critic}, [first, second], step, 400, score)
