"""Parla: ``@spawn`` with ids from a ``TaskSpace``, as its documentation writes programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

from parla import Parla, TaskSpace, spawn

from systems.base import Body, Dependencies, System


class ParlaSystem(System):
    """Tasks named in a ``TaskSpace`` while running; pending ones without a name."""

    key = "parla"
    label = "Parla"
    experiments = frozenset({"fig13", "empty", "d50", "gil", "memory", "scale", "cholesky", "idle"})

    def open(self) -> None:
        self._runtime = Parla(workers=self.workers)
        self._runtime.__enter__()

    def close(self) -> None:
        self._runtime.__exit__(None, None, None)

    def run_independent(self, n: int, body: Body) -> float:
        start = perf_counter()
        space = TaskSpace("independent")
        for i in range(n):
            spawn(space[i])(body)
        return self._finish(start)

    def run_graph(
        self,
        dependencies: Dependencies,
        bodies: Sequence[Body],
        priorities: Sequence[int] | None = None,
    ) -> float:
        start = perf_counter()
        space = TaskSpace("graph")
        if priorities is None:
            for i, (before, body) in enumerate(zip(dependencies, bodies, strict=True)):
                spawn(space[i], [space[j] for j in before])(body)
        else:
            for i, (before, body) in enumerate(zip(dependencies, bodies, strict=True)):
                spawn(space[i], [space[j] for j in before], priority=priorities[i])(body)
        return self._finish(start)

    def _finish(self, start: float) -> float:
        """Wait as programs do, by leaving the runtime's block; the next one is not timed."""
        self.close()
        elapsed = perf_counter() - start
        self.open()
        return elapsed

    def spawn_pending(self, n: int, make_body: Callable[[int], Body], gate: Body) -> None:
        opened = spawn()(gate)
        for i in range(n):
            spawn(None, [opened])(make_body(i))


class NamedParlaSystem(ParlaSystem):
    """The same, each pending task under an id of a ``TaskSpace`` that the program keeps."""

    key = "parla_named"
    label = "Parla, named"
    experiments = frozenset({"memory"})

    def spawn_pending(self, n: int, make_body: Callable[[int], Body], gate: Body) -> None:
        opened = spawn()(gate)
        self._space = TaskSpace("pending")
        for i in range(n):
            spawn(self._space[i], [opened])(make_body(i))


SYSTEMS = [ParlaSystem, NamedParlaSystem]
