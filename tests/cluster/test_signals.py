"""A signal ends a command by one exception; in training the first one asks, the second one ends."""

import signal

import pytest

from blade_dist.cluster.signals import Stopped, first_signal_asks, kept_handlers, signals_raise


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_raises_and_handlers_are_put_back(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    what = f"stopped by {number.name}: what was finished is kept; the same"
    with pytest.raises(Stopped, match=what) as stopped, signals_raise():
        signal.raise_signal(number)
    assert stopped.value.exit_code == code
    assert signal.getsignal(number) is before


def test_the_first_signal_asks_and_the_second_raises() -> None:
    asked: list[str] = []
    with first_signal_asks(lambda: asked.append("to end")) as heard:
        assert heard.number is None
        signal.raise_signal(signal.SIGTERM)
        assert (asked, heard.number) == (["to end"], signal.SIGTERM)
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGINT)
    assert asked == ["to end"]


def wait_as_ray_does() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)
    except Stopped:
        raise KeyboardInterrupt from None


def test_what_ray_raises_while_it_waits_keeps_the_signal() -> None:
    with pytest.raises(Stopped, match="SIGTERM") as stopped, signals_raise():
        wait_as_ray_does()
    assert stopped.value.exit_code == 143


def test_a_handler_that_a_library_sets_is_replaced_again() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with kept_handlers():
        signal.signal(signal.SIGTERM, lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) is before
