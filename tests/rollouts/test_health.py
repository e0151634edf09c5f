"""The states of engines, under any order of what may happen to them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from blade_dist.rollouts.health import STRIKES, Health, Life, State

READY_S = 100.0
ALIVE = (State.STALE, State.PUSHING, State.SERVING, State.ASLEEP)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def started(places: int) -> tuple[Health, list[Life]]:
    health = Health(places, READY_S, Clock())
    lives = health.living(State.STARTING)
    for life in lives:
        health.answered(life)
    return health, lives


class Engines(RuleBasedStateMachine):
    """Anything may happen to any life, also to one that is over, and words about a push may come too late."""

    @initialize(places=st.integers(1, 3))
    def start(self, places: int) -> None:
        self.clock = Clock()
        self.health = Health(places, READY_S, self.clock)
        self.lives = self.health.living(State.STARTING)
        self.answering: set[Life] = set()
        self.pushes: list[set[Life]] = []
        self.proved: set[Life] = set()
        """Lives that took part in the newest push and were proved since it began."""

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        life = data.draw(st.sampled_from(self.lives))
        self.health.answered(life)
        if self.health.state(life) is not None:
            self.answering.add(life)

    @rule(step=st.integers(0, 5))
    def push(self, step: int) -> None:
        number, lives = self.health.begin_push(step)
        assert set(lives) == {life for life in self.answering if self.health.state(life) is not None}
        self.pushes.append(set(lives))
        self.proved = set()
        assert number == len(self.pushes)

    @rule(data=st.data(), back=st.integers(0, 2))
    def prove(self, data: st.DataObject, back: int) -> None:
        lives = data.draw(st.sets(st.sampled_from(self.lives)))
        number = len(self.pushes) - back
        self.health.proven(number, lives)
        if back == 0 and self.pushes:
            self.proved |= lives & self.pushes[-1]

    @rule(data=st.data())
    def sleep(self, data: st.DataObject) -> None:
        lives = data.draw(st.lists(st.sampled_from(self.lives)))
        self.health.slept(lives)
        assert not set(lives) & set(self.health.living(State.SERVING))
        self.proved -= set(lives)

    @rule(data=st.data(), failure=st.sampled_from(["died", "silent"]))
    def die(self, data: st.DataObject, failure: str) -> None:
        life = data.draw(st.sampled_from(self.lives))
        was = self.health.state(life)
        new = self.health.died(life, failure)
        assert self.health.state(life) is None
        if was is None:
            assert new is None
        elif new is not None:
            assert new == Life(life.place, life.number + 1)
            assert self.health.state(new) is State.STARTING
            self.lives.append(new)

    @rule(seconds=st.floats(0, READY_S))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def serves_only_what_holds_the_current_weights(self) -> None:
        if not hasattr(self, "health"):
            return
        for life in self.health.living(State.SERVING):
            assert life in (self.proved if self.pushes else self.answering)

    @invariant()
    def every_place_has_one_life(self) -> None:
        if hasattr(self, "health"):
            lives = self.health.living(*State)
            assert [life.place for life in lives] == sorted({life.place for life in self.lives})


TestEngines = Engines.TestCase
TestEngines.settings = settings(max_examples=60, stateful_step_count=30)


def test_a_new_process_waits_for_the_next_push_and_its_proof() -> None:
    health, (first, second) = started(2)
    assert health.living(State.SERVING) == [first, second]  # nothing was pushed: they hold what they started from
    push, _ = health.begin_push(1)
    assert health.living(State.SERVING) == []
    assert health.serving_comes()
    health.proven(push, [first, second])
    new = health.died(second, "died")
    assert new is not None
    health.answered(new)
    health.proven(push, [new])
    assert (health.living(State.SERVING), health.state(new)) == ([first], State.STALE)
    push, lives = health.begin_push(2)
    assert lives == [first, new]
    health.proven(push, [new])
    assert health.living(State.SERVING) == [new]


def test_where_all_died_only_a_push_helps() -> None:
    health, (life,) = started(1)
    push, _ = health.begin_push(0)
    health.proven(push, [life])
    new = health.died(life, "died")
    assert new is not None
    assert not health.serving_comes()
    health.answered(new)
    assert not health.serving_comes()


def test_before_the_first_push_a_new_process_serves_what_it_starts_from() -> None:
    health, (life,) = started(1)
    new = health.died(life, "died")
    assert new is not None
    assert health.serving_comes()
    health.answered(new)
    assert health.living(State.SERVING) == [new]


@given(st.lists(st.sampled_from(["died", "silent", "step"]), max_size=20))
def test_the_same_failure_in_a_row_without_a_step_ends_it(events: list[str]) -> None:
    health, (life,) = started(1)
    row: list[str] = []
    for step, event in enumerate(events):
        health.answered(life)
        push, _ = health.begin_push(step)
        if event == "step":
            health.proven(push, [life])
            row = []
            continue
        row = [*row, event] if row[-1:] == [event] else [event]
        new = health.died(life, event)
        assert (new is None) == (len(row) == STRIKES)
        if new is None:
            assert health.given_up == (life, event)
            return
        life = new
    assert health.given_up is None


def test_a_step_that_is_done_again_is_no_progress() -> None:
    health, (life,) = started(1)
    for _ in range(STRIKES):
        push, _ = health.begin_push(7)
        health.proven(push, [life])
        new = health.died(life, "died")
        if new is not None:
            life = new
            health.answered(life)
    assert health.given_up is not None


@pytest.mark.parametrize(("seconds", "late"), [(READY_S, False), (READY_S + 1, True)])
def test_a_start_has_a_limit(seconds: float, late: bool) -> None:
    clock = Clock()
    health = Health(2, READY_S, clock)
    first, second = health.living(State.STARTING)
    health.answered(first)
    clock.now = seconds
    assert health.late() == ([second] if late else [])
