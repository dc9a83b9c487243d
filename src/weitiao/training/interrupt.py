"""Ctrl-C that waits for the end of a step, so that what is saved is whole."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stop:
    """``asked`` says whether Ctrl-C was pressed."""

    asked = False


@contextlib.contextmanager
def stop_between_steps() -> Iterator[Stop]:
    """Take note of a first Ctrl-C instead of breaking off; a second one breaks off at once.

    Without this, Ctrl-C could fall into the optimizer, and half-updated weights would be saved as a step's.
    Only the main thread can do this; in another, Ctrl-C stays what it was.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Within it Ctrl-C waits for the end, and is raised then: in the midst of a commit it would break a database off.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    with stop_between_steps() as stop:
        yield
    if stop.asked:
        raise KeyboardInterrupt
