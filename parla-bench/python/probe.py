"""Measures one system in a process of its own: memory, pending tasks, an idle runtime.

``overhead.py`` calls :func:`main` in a new interpreter with the arguments WHAT SYSTEM WORKERS N;
it prints one JSON object.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import systems
from kernels import empty
from measure import settle_memory
from systems import Body, System

GATE_TIMEOUT = 600.0


class Gate:
    """A body that reports that it runs and blocks until it is opened."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def body(self) -> Body:
        """The task body; a function, because not every system takes other callables."""

        def wait_at_gate() -> None:
            self._reached.set()
            self._opened.wait()

        return wait_at_gate

    def open(self) -> None:
        """Let the gate tasks, and so everything behind them, go on."""
        self._opened.set()

    def wait_reached(self) -> None:
        """Return once a gate task runs: from then on all others are pending."""
        if not self._reached.wait(GATE_TIMEOUT):
            raise TimeoutError(f"the gate task did not start within {GATE_TIMEOUT} s")


class Tally:
    """Bodies, each a closure of its own, that record that they ran."""

    def __init__(self) -> None:
        self._ran: list[int] = []

    def body(self, i: int) -> Body:
        """A closure over ``i``; the user's own part of a pending task's memory."""
        ran = self._ran

        def task() -> None:
            ran.append(i)

        return task

    def check(self, n: int) -> None:
        """Raise unless each of ``n`` bodies ran once."""
        if sorted(self._ran) != list(range(n)):
            raise RuntimeError(f"{len(self._ran)} of {n} tasks ran, or some ran twice")


def closures(n: int) -> dict[str, float]:
    """Resident bytes of ``n`` closures that wait in a list."""
    tally = Tally()
    before = resident_bytes()
    kept = [tally.body(i) for i in range(n)]
    return {"bytes": resident_bytes() - before, "n": len(kept)}


def memory(system: System, n: int) -> dict[str, float]:
    """Resident bytes that ``n`` pending tasks and their closures take."""
    gate, tally = Gate(), Tally()
    with system:
        system.run_independent(100, empty)
        before = resident_bytes()
        system.spawn_pending(n, tally.body, gate.body())
        gate.wait_reached()
        taken = resident_bytes() - before
        gate.open()
    tally.check(n)
    return {"bytes": taken, "n": n}


def pending(system: System, n: int) -> dict[str, float]:
    """Seconds to spawn ``n`` tasks behind a gate, and then to finish them."""
    gate = Gate()
    with system:
        system.run_independent(100, empty)
        gc.collect()
        start = time.perf_counter()
        system.spawn_pending(n, make_empty, gate.body())
        gate.wait_reached()
        spawned = time.perf_counter()
        gate.open()
    finished = time.perf_counter()
    return {"spawn_s": spawned - start, "finish_s": finished - spawned, "n": n}


def idle(system: System, milliseconds: int) -> dict[str, float]:
    """CPU seconds of the whole process while an open system has nothing to do."""
    with system:
        system.run_independent(1000, empty)
        time.sleep(0.2)  # spinning before sleep is allowed, for a moment
        before = time.process_time()
        time.sleep(milliseconds / 1000)
        used = time.process_time() - before
    return {"cpu_s": used, "wall_s": milliseconds / 1000}


def make_empty(i: int) -> Body:
    """An empty body that is a closure of its own, as a decorated function in a loop is."""

    def task() -> None:
        i  # noqa: B018 - makes it a closure

    return task


def resident_bytes() -> int:
    """Resident memory of this process, after collecting garbage."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


PROBES: dict[str, Callable[[System, int], dict[str, float]]] = {
    "memory": memory,
    "pending": pending,
    "idle": idle,
}


def main() -> None:
    """Measure what the command line names."""
    what, key, workers, n = sys.argv[1:]
    if what == "closures":
        settle_memory()
        found = closures(int(n))
    else:
        system = systems.find(key)(int(workers))
        settle_memory()
        found = PROBES[what](system, int(n))
    print(json.dumps(found))
