"""What a task system must offer to be measured: open, run, hold tasks back, close."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

Body = Callable[[], object]
"""A task's work: takes nothing, and what it returns is ignored."""

Dependencies = Sequence[Sequence[int]]
"""For each task the indices of the earlier tasks that it waits for."""


class System(ABC):
    """One task system with a fixed number of workers, open inside its ``with`` block.

    The ``run_*`` methods return seconds from just before the first spawn until every task is
    complete, as ``time.perf_counter`` sees it. Starting and stopping workers is not part of it.
    """

    key: ClassVar[str]
    """Short name, for options and JSON."""

    label: ClassVar[str]
    """Name in tables and figures."""

    experiments: ClassVar[frozenset[str]]
    """What this system takes part in: ``fig13`` and the sections of ``overhead.py``."""

    largest_pending: ClassVar[int] = 1_000_000
    """The most tasks this system holds pending within a sensible time and memory."""

    largest_graph: ClassVar[int] = 1_000_000
    """The most tasks to give ``run_graph`` in one call, for systems slow enough to need it."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __enter__(self) -> System:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @abstractmethod
    def open(self) -> None:
        """Start the workers."""

    @abstractmethod
    def close(self) -> None:
        """Wait for everything that was spawned and stop the workers."""

    @abstractmethod
    def run_independent(self, n: int, body: Body) -> float:
        """Run ``body`` in ``n`` tasks that depend on nothing; seconds."""

    def run_graph(
        self,
        dependencies: Dependencies,
        bodies: Sequence[Body],
        priorities: Sequence[int] | None = None,
    ) -> float:
        """Run one task per entry, each after its dependencies; seconds.

        ``priorities``, the higher the sooner, are for systems that take them.
        """
        raise NotImplementedError(f"{self.label} runs independent tasks only")

    def spawn_pending(self, n: int, make_body: Callable[[int], Body], gate: Body) -> None:
        """Spawn ``gate`` and behind it ``n`` tasks ``make_body(i)``, keeping no handles.

        ``gate`` blocks until the caller opens it; :meth:`close` then waits for all.
        """
        raise NotImplementedError(f"{self.label} does not hold tasks pending")
