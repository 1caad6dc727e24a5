"""Which threads of the program may still spawn: before a deadlock is declared, the runtime asks."""

from __future__ import annotations

import threading
from collections.abc import Collection
from weakref import WeakSet


def snapshot() -> WeakSet[threading.Thread]:
    """The threads alive now, when a runtime opens: whatever runs beside the program (a notebook's kernel, a progress bar)."""
    return WeakSet(threading.enumerate())


def may_still_spawn(before: WeakSet[threading.Thread], waiting: Collection[int]) -> bool:
    """Whether a thread started since `before` runs and isn't among those (by ident) that wait for tasks themselves."""
    me = threading.get_ident()
    return any(
        thread.ident != me
        and thread.ident not in waiting
        and thread not in before
        and not isinstance(thread, threading._DummyThread)
        and not thread.name.startswith("parla-")
        for thread in threading.enumerate()
    )
