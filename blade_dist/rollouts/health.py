"""Which engines may serve: a pure state machine, with the clock handed in.

    starting ---> stale ---> pushing ---> serving ---> asleep
        |           ^           ^           |            |
        |  (1)      | (2)       +-----------+------------+      every push takes all that answer
        +---------> serving

From every state an engine may die; a new process then takes its place, in its first state.

1. Only before the first push, when the weights that an engine starts from are the current ones.
2. An engine that begins to answer during a push waits for the next one.

**The transition that must not exist:** from *starting* or *stale* to *serving* once there was a push. An engine comes
to serve by :meth:`Health.proven` alone, of the newest push, and of those that took part in it from its beginning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum

STRIKES = 3
"""How often in a row, without a step between, an engine's place may see the same failure."""


class State(Enum):
    """Of an engine's process."""

    STARTING = "starting"
    """Does not answer yet."""
    STALE = "stale"
    """Answers, but holds other weights than the current ones."""
    PUSHING = "pushing"
    """Takes part in a push, or in the probe after it."""
    SERVING = "serving"
    """Holds the current weights, proved: may be asked for lists."""
    ASLEEP = "asleep"
    """Gave its memory back, and its weights with it; a push brings them."""


@dataclass(frozen=True)
class Life:
    """One process in an engine's place."""

    place: int
    """Number of the engine, from 0."""
    number: int
    """Of the process, from 1."""


@dataclass
class _Place:
    life: Life
    state: State
    since: float
    failure: str = ""
    """The last one."""
    strikes: int = 0
    """How often it came in a row."""


@dataclass
class _Push:
    number: int = 0
    """Of the push, from 1; 0 before the first."""
    step: int = 0
    """Whose weights it brings."""
    taking_part: set[Life] = field(default_factory=set)


class Health:
    """The state of every engine. What is said of a life that is over changes nothing."""

    def __init__(self, places: int, ready_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``ready_s``: how long a process may take until it answers, by ``clock``."""
        self._ready_s = ready_s
        self._clock = clock
        self._places = [_Place(Life(number, 1), State.STARTING, clock()) for number in range(places)]
        self._push = _Push()
        self._furthest = -1
        self._given_up: tuple[Life, str] | None = None

    @property
    def given_up(self) -> tuple[Life, str] | None:
        """The life whose failure was one too many, and the failure; None while there is hope."""
        return self._given_up

    def state(self, life: Life) -> State | None:
        """None where the life is over."""
        place = self._places[life.place]
        return place.state if place.life == life else None

    def living(self, *states: State) -> list[Life]:
        """Those in one of the states, by place."""
        return [place.life for place in self._places if place.state in states]

    def late(self) -> list[Life]:
        """Those that should have answered by now."""
        now = self._clock()
        return [
            place.life for place in self._places if place.state is State.STARTING and now - place.since > self._ready_s
        ]

    def serving_comes(self) -> bool:
        """Whether an engine will serve without another push."""
        return bool(self.living(State.PUSHING)) or (self._push.number == 0 and bool(self.living(State.STARTING)))

    def answered(self, life: Life) -> None:
        """The process has started."""
        if self.state(life) is State.STARTING:
            self._enter(life, State.STALE if self._push.number else State.SERVING)

    def begin_push(self, step: int) -> tuple[int, list[Life]]:
        """The push's number, and who takes part: all that answer. Nobody serves until :meth:`proven`.

        ``step``: whose weights it brings.
        """
        lives = self.living(State.STALE, State.PUSHING, State.SERVING, State.ASLEEP)
        for life in lives:
            self._enter(life, State.PUSHING)
        self._push = _Push(self._push.number + 1, step, set(lives))
        return self._push.number, lives

    def proven(self, push: int, lives: Collection[Life]) -> None:
        """They hold the weights of the push, and have passed the probe. What is said of an older push is ignored."""
        if push != self._push.number:
            return
        for life in self._push.taking_part.intersection(lives):
            if self.state(life) is State.PUSHING:
                self._enter(life, State.SERVING)
        if lives and self._push.step > self._furthest:
            self._furthest = self._push.step
            for place in self._places:
                place.failure, place.strikes = "", 0

    def slept(self, lives: Sequence[Life]) -> None:
        """They gave their memory back."""
        for life in lives:
            if self.state(life) is State.SERVING:
                self._enter(life, State.ASLEEP)

    def died(self, life: Life, failure: str) -> Life | None:
        """The life that takes its place; None where the life was over already, or the failure is one too many.

        ``failure``: what happened, in words that are the same when it happens again.
        """
        place = self._places[life.place]
        if place.life != life:
            return None
        place.strikes = place.strikes + 1 if failure == place.failure else 1
        place.failure = failure
        place.life = Life(life.place, life.number + 1)
        self._enter(place.life, State.STARTING)
        if place.strikes >= STRIKES:
            self._given_up = life, failure
        return None if self._given_up else place.life

    def _enter(self, life: Life, state: State) -> None:
        place = self._places[life.place]
        place.state, place.since = state, self._clock()
