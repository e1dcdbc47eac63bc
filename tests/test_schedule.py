"""The schedule, in simulated time: nothing here waits or measures."""

import random

import pytest

from gradiometer.probe.schedule import Schedule

ALLOWANCE = 0.05


def simulate(
    schedule: Schedule, steps: int, step: float, cost: float, *, noise: float = 0.0, pauses: float = 0.0, seed: int = 0
) -> tuple[list[int], float, float]:
    """Trains: the steps that were sampled, the true cost of sampling them, and the time all of it took."""
    generator = random.Random(seed)
    now = spent = 0.0
    sampled = []
    for i in range(steps):
        due = schedule.due(i, now)
        length = step * (1 + noise * generator.random()) + (generator.random() < pauses) * 100 * step
        if due:
            price = cost * (1 + noise * generator.random())
            schedule.sampled(length + price, inside=0.8 * price)
            sampled.append(i)
            spent += price
            length += price
        else:
            schedule.plain(length)
        now += length
    return sampled, spent, now


@pytest.mark.parametrize("budget", [0.001, 0.01, 0.1, 0.5])
@pytest.mark.parametrize(("step", "cost"), [(0.001, 0.0005), (0.001, 0.01), (0.1, 0.05), (0.1, 1.0), (5.0, 20.0)])
def test_cost_stays_within_the_budget(budget, step, cost):
    sampled, spent, now = simulate(Schedule(budget), 3000, step, cost)
    first = cost  # whatever it costs: what is broken from birth is seen there
    assert sampled[0] == 0
    assert spent <= budget * now + ALLOWANCE + first + 1e-9
    affordable = budget * now / cost  # and what may be spent is
    assert len(sampled) >= min(3000, affordable) * 0.8 - 2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("noise", "pauses"), [(0.5, 0.0), (2.0, 0.0), (0.2, 0.02)])
def test_noise_does_not_break_the_budget(noise, pauses, seed):
    _, spent, now = simulate(Schedule(0.01), 20_000, 0.01, 0.01, noise=noise, pauses=pauses, seed=seed)
    assert spent <= 0.012 * now + ALLOWANCE + 0.03
    assert spent >= 0.002 * now


def test_a_pause_inside_a_sampled_step_is_not_its_cost():
    schedule = Schedule(0.01)
    for _ in range(5):
        schedule.plain(0.01)
    schedule.sampled(length=60.01, inside=0.01)  # an evaluation fell into it
    assert schedule.due(3, now=11.0)


def test_a_cost_that_only_shows_in_the_length_of_the_step_counts():
    schedule = Schedule(0.01)
    for _ in range(5):
        schedule.plain(0.1)
    schedule.sampled(length=0.5, inside=0.1)  # 0.4 s longer than a plain one
    assert not schedule.due(3, now=79.0)
    assert schedule.due(3, now=81.0)


def test_a_short_training_has_more_than_one_reading():
    sampled, _, _ = simulate(Schedule(0.01), 300, 0.003, 0.002)
    assert sampled[:6] == [0, 1, 2, 4, 8, 16]


def test_a_cost_that_changes_is_followed():
    schedule = Schedule(0.1)
    _, _, _ = simulate(schedule, 100, 0.1, 0.001)
    sampled, spent, now = simulate(schedule, 1000, 0.1, 1.0)
    assert spent <= 0.1 * now + 5 * 1.0  # the price is known after the median of five has turned
    assert len(sampled) > 5


@pytest.mark.parametrize("every", [1, 2, 7, 100])
def test_every_is_exact_whatever_it_costs(every):
    sampled, _, _ = simulate(Schedule(0.01, every), 500, 0.001, 10.0)
    assert sampled == list(range(0, 500, every))


def test_a_fixed_interval_stays_as_it_is():
    schedule = Schedule(every=50)
    schedule.demand()
    assert [step for step in range(101) if schedule.due(step, 1.0)] == [0, 50, 100]


def test_a_demanded_step_is_sampled_once():
    schedule = Schedule(1e-6)
    assert schedule.due(0, 0.0)
    schedule.sampled(0.1, 0.1)
    assert not schedule.due(3, 1.0)
    schedule.demand()
    schedule.demand()
    assert schedule.due(4, 1.1)
    schedule.sampled(0.1, 0.1)
    assert not schedule.due(5, 1.2)


def test_demands_have_an_allowance_of_their_own():
    schedule = Schedule(1e-6)
    assert schedule.due(0, 0.0)
    schedule.sampled(0.2, 0.2)
    for _ in range(2):
        schedule.demand()
        assert schedule.due(7, 1.0) is (schedule._spent + schedule._price <= 0.5)
        schedule.sampled(0.2, 0.2)
    schedule.demand()
    assert not schedule.due(8, 1.0)
