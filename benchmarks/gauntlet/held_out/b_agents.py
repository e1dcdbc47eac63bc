"""Policies, values and games of two that are well."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.held_out.b_networks import dense
from benchmarks.gauntlet.held_out.common_b import bounded, fit, quiet
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@CASES.healthy(good=0.6)
def policy_gradient_with_a_baseline() -> Training:
    """REINFORCE on a bandit whose contexts are digits: one for the right action of ten, less the running mean."""
    x, y = digits()
    model = dense(64, 64, 10, activation=nn.Tanh)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    g = torch.Generator().manual_seed(3)
    state = {"baseline": 0.1}

    def loss(chosen: Tensor) -> Tensor:
        policy = torch.distributions.Categorical(logits=model(x[chosen]))
        action = torch.multinomial(policy.probs.detach(), 1, generator=g)[:, 0]
        reward = (action == y[chosen]).float()
        advantage = reward - state["baseline"]
        state["baseline"] += 0.05 * (reward.mean().item() - state["baseline"])
        return -(advantage * policy.log_prob(action)).mean() - 0.01 * policy.entropy().mean()

    def score() -> float:
        with quiet(model):
            return bounded(((model(x[:500]).argmax(1) == y[:500]).float().mean().item() - 0.1) / 0.9)

    return fit(model, optimizer, loss, len(x), 400, score, batch=128)


MOVES = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])


class ActorCritic(nn.Module):
    """Four moves and a value, from where the walker is."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.actor, self.critic = dense(25, 48, 48, activation=nn.Tanh), nn.Linear(48, 4), nn.Linear(48, 1)

    def forward(self, place: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(F.one_hot(place[:, 0] * 5 + place[:, 1], 25).float()).tanh()
        return self.actor(h), self.critic(h)[:, 0]


@CASES.healthy(good=0.6)
def actor_critic_in_a_small_room() -> Training:
    """Walks over five by five fields to a corner, in 64 rooms at once, eight moves a step."""
    model = ActorCritic()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    g = torch.Generator().manual_seed(5)
    now = {"place": torch.randint(5, (64, 2), generator=g)}

    def moved(place: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        place = (place + MOVES[action]).clamp(0, 4)
        return place, (place == 4).all(1)

    def step(_: int) -> float:
        chances, values, entropies, rewards, ends = [], [], [], [], []
        for _ in range(8):
            logits, value = model(now["place"])
            policy = torch.distributions.Categorical(logits=logits)
            action = torch.multinomial(policy.probs.detach(), 1, generator=g)[:, 0]
            place, done = moved(now["place"], action)
            now["place"] = torch.where(done[:, None], torch.randint(5, place.shape, generator=g), place)
            chances.append(policy.log_prob(action))
            entropies.append(policy.entropy())
            values.append(value)
            rewards.append(done.float())
            ends.append(done)
        with torch.no_grad():
            later = model(now["place"])[1]
        returns = []
        for reward, done in zip(reversed(rewards), reversed(ends), strict=True):
            later = reward + 0.9 * later * ~done
            returns.append(later)
        target, value = torch.stack(returns[::-1]), torch.stack(values)
        advantage = (target - value).detach()
        loss = -(torch.stack(chances) * advantage).mean() + 0.5 * (target - value).square().mean()
        loss = loss - 0.01 * torch.stack(entropies).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        return loss.item()

    def score() -> float:
        """The share of fields from which the likeliest moves lead to the corner on a shortest path."""
        place = torch.cartesian_prod(torch.arange(5), torch.arange(5))
        reached = torch.zeros(25, dtype=torch.bool)
        with quiet(model):
            for _ in range(8):
                place, done = moved(place, model(place)[0].argmax(1))
                reached |= done
        return reached.float().mean().item()

    return Training(model, optimizer, step, 150, score)


@CASES.healthy(good=0.6)
def values_learned_with_a_target_network() -> Training:
    """Q-learning off a fixed memory of random walks on a line of nine, with a target that follows slowly."""
    g = torch.Generator().manual_seed(6)
    states, actions = torch.randint(9, (3000,), generator=g), torch.randint(2, (3000,), generator=g)
    following = (states + 2 * actions - 1).clamp(0, 8)
    done = following == 8
    truth = torch.stack([0.9 ** (8 - torch.arange(8).sub(1).clamp(0)), 0.9 ** (7.0 - torch.arange(8))], 1)
    model, target = dense(9, 48, 48, 2), dense(9, 48, 48, 2)
    target.load_state_dict(model.state_dict())
    target.requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def loss(chosen: Tensor) -> Tensor:
        with torch.no_grad():
            for old, new in zip(target.parameters(), model.parameters(), strict=True):
                old.lerp_(new, 0.05)
            best = target(F.one_hot(following[chosen], 9).float()).amax(1)
            goal = done[chosen].float() + 0.9 * best * ~done[chosen]
        said = model(F.one_hot(states[chosen], 9).float()).gather(1, actions[chosen, None])[:, 0]
        return F.smooth_l1_loss(said, goal)

    def score() -> float:
        with quiet(model):
            error = (model(torch.eye(9)[:8]) - truth).square().mean()
        return bounded(1 - (error / truth.var()).item())

    memory = (states < 8).nonzero()[:, 0]
    states, actions, following, done = states[memory], actions[memory], following[memory], done[memory]
    return fit(model, optimizer, loss, len(memory), 500, score, batch=64)


def crescent(count: int, g: torch.Generator) -> Tensor:
    """Points on a bent line with some width."""
    a, b = torch.randn(count, generator=g), torch.randn(count, generator=g)
    return torch.stack([1.2 * a, 0.6 * a * a - 0.6 + 0.3 * b], 1)


@CASES.healthy(good=0.6)
def adversaries_in_balance() -> Training:
    """A small GAN with the non-saturating loss: points of a crescent; the loss of the discriminator hardly moves."""
    maker, judge = dense(4, 64, 64, 2, activation=nn.SiLU), dense(2, 64, 64, 1, activation=lambda: nn.LeakyReLU(0.2))
    makes = torch.optim.Adam(maker.parameters(), 2e-3, betas=(0.5, 0.99))
    judges = torch.optim.Adam(judge.parameters(), 2e-3, betas=(0.5, 0.99))
    g = torch.Generator().manual_seed(8)

    def step(_: int) -> float:
        real, made = crescent(128, g), maker(torch.randn(128, 4, generator=g))
        judges.zero_grad()
        loss = F.softplus(-judge(real)).mean() + F.softplus(judge(made.detach())).mean()
        loss.backward()
        judges.step()
        makes.zero_grad()
        F.softplus(-judge(made)).mean().backward()
        makes.step()
        return loss.item()

    def distance(a: Tensor, b: Tensor) -> Tensor:
        turns = torch.arange(8) * torch.pi / 8
        axes = torch.stack([turns.cos(), turns.sin()])
        return ((a @ axes).sort(0).values - (b @ axes).sort(0).values).abs().mean()

    def score() -> float:
        fixed = torch.Generator().manual_seed(2)
        real, noise = crescent(1000, fixed), torch.randn(1000, 4, generator=fixed)
        with quiet(maker):
            made = maker(noise)
        return bounded(1 - (distance(made, real) / distance(torch.zeros(1000, 2), real)).item())

    return Training({"maker": maker, "judge": judge}, [makes, judges], step, 400, score)


@CASES.healthy(good=0.5)
def contrast_of_two_noisy_views() -> Training:
    """InfoNCE between two noisy views of a digit; a nearest neighbour then knows its class."""
    x, y = digits()
    model = dense(64, 96, 96, 16)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    g = torch.Generator().manual_seed(4)
    draw = minibatches(96, len(x))

    def view(chosen: Tensor) -> Tensor:
        rows = x[chosen]
        kept = torch.rand(rows.shape, generator=g) > 0.25
        return F.normalize(model(rows * kept + 0.3 * torch.randn(rows.shape, generator=g)), dim=1)

    def step(_: int) -> float:
        chosen = draw()
        a, b = view(chosen), view(chosen)
        logits, own = a @ b.T / 0.2, torch.arange(len(chosen))
        loss = 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with quiet(model):
            z = F.normalize(model(x), dim=1)
        near = y[500:][(z[:500] @ z[500:].T).argmax(1)]
        seen = ((near == y[:500]).float().mean().item() - 0.1) / 0.9
        with quiet(model):
            noisy = x[:96] + 0.3 * torch.randn(96, 64, generator=torch.Generator().manual_seed(7))
            found = (F.normalize(model(noisy), dim=1) @ z[:96].T).argmax(1)
        return min(seen, (found == torch.arange(96)).float().mean().item())

    return Training(model, optimizer, step, 250, score)
