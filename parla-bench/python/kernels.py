"""The bodies of the measured tasks, the same for every system: busy waits from Parla's wheel."""

from __future__ import annotations

from collections.abc import Callable

from parla import sleep_gil, sleep_nogil


def empty() -> None:
    """A task that does nothing."""


def spin(free_us: float, gil_us: float = 0) -> Callable[[], None]:
    """A body that computes ``free_us`` microseconds without the GIL, then ``gil_us`` with it.

    It busy-waits, so it keeps a core; nothing else is between the two parts.
    """
    if gil_us == 0:

        def body() -> None:
            sleep_nogil(free_us)

    elif free_us == 0:

        def body() -> None:
            sleep_gil(gil_us)

    else:

        def body() -> None:
            sleep_nogil(free_us)
            sleep_gil(gil_us)

    return body
