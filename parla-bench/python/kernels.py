"""The bodies of the measured tasks, the same for every system: busy waits that know nothing of the system that runs them.

They are C functions called through ctypes, which lets go of the GIL and takes it back as NumPy and other libraries do. Parla's own
``sleep_nogil`` would flatter it: on its way back it tells Parla's workers that it wants the GIL.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from parla import sleep_gil, sleep_nogil

_Wait = Callable[[float], object]
_chosen: tuple[_Wait, _Wait] | None = None


def use(kernel: str) -> None:
    """Take the busy waits of ``c`` (the default) or those of ``parla`` in this process."""
    global _chosen
    _chosen = (sleep_nogil, sleep_gil) if kernel == "parla" else None


def empty() -> None:
    """A task that does nothing."""


def spin(free_us: float, gil_us: float = 0) -> Callable[[], None]:
    """A body that computes ``free_us`` microseconds without the GIL, then ``gil_us`` with it.

    It busy-waits, so it keeps a core; nothing else is between the two parts.
    """
    _functions()  # compiled now, not in the first task
    if gil_us == 0:

        def body() -> None:
            compute(free_us)

    elif free_us == 0:

        def body() -> None:
            hold(gil_us)

    else:

        def body() -> None:
            compute(free_us)
            hold(gil_us)

    return body


def _functions() -> tuple[_Wait, _Wait]:
    return _chosen or _compiled()


def compute(us: float) -> None:
    """Keep the core busy for ``us`` microseconds with the GIL released."""
    _functions()[0](us)


def hold(us: float) -> None:
    """Keep the core busy for ``us`` microseconds and the GIL with it."""
    _functions()[1](us)


@functools.cache
def _compiled() -> tuple[_Wait, _Wait]:
    """The busy wait without the GIL and with it: compiled once per process, also in Dask's."""
    source = Path(__file__).with_name("spin.c")
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory) / "spin.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        pair = ctypes.CDLL(str(library)).spin_us, ctypes.PyDLL(str(library)).spin_us
    for function in pair:
        function.argtypes, function.restype = [ctypes.c_double], None
    return pair
