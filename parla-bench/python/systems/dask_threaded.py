"""Dask's threaded scheduler: through ``dask.delayed``, and with the graph written out by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import dask
import dask.threaded

from systems.base import Body, Dependencies, System


class DaskDelayedSystem(System):
    """What Dask's documentation shows: ``delayed`` functions, then one ``compute``."""

    key = "dask_delayed"
    label = "Dask threaded (delayed)"
    experiments = frozenset({"fig13", "empty", "d50", "gil", "memory", "scale", "cholesky", "idle"})
    largest_pending = 10_000
    largest_graph = 1_000

    def open(self) -> None:
        self._pool = ThreadPoolExecutor(self.workers)
        self._pending: threading.Thread | None = None

    def close(self) -> None:
        if self._pending is not None:
            self._pending.join()
        self._pool.shutdown(wait=True)

    def run_independent(self, n: int, body: Body) -> float:
        start = perf_counter()
        task = dask.delayed(body, pure=False)
        self._compute([task() for _ in range(n)])
        return perf_counter() - start

    def run_graph(
        self,
        dependencies: Dependencies,
        bodies: Sequence[Body],
        priorities: Sequence[int] | None = None,
    ) -> float:
        sinks = _sinks(dependencies)
        start = perf_counter()
        nodes: list[object] = []
        for before, body in zip(dependencies, bodies, strict=True):
            task = dask.delayed(_run_after, pure=False, traverse=False)
            nodes.append(task(body, *[nodes[j] for j in before]))
        self._compute([nodes[i] for i in sinks])
        return perf_counter() - start

    def spawn_pending(self, n: int, make_body: Callable[[int], Body], gate: Body) -> None:
        task = dask.delayed(_run_after, pure=False, traverse=False)
        opened = dask.delayed(gate, pure=False)()
        nodes = [task(make_body(i), opened) for i in range(n)]
        self._compute_aside(lambda: self._compute(nodes))

    def _compute(self, nodes: list[object]) -> None:
        dask.compute(*nodes, scheduler="threads", pool=self._pool)

    def _compute_aside(self, compute: Callable[[], None]) -> None:
        """Dask computes in the calling thread, so a blocked graph needs one of its own."""
        self._pending = threading.Thread(target=compute)
        self._pending.start()


class DaskGraphSystem(DaskDelayedSystem):
    """The same scheduler given a dictionary of tuples: no ``delayed`` objects, no optimisation."""

    key = "dask_graph"
    label = "Dask threaded (raw graph)"
    experiments = frozenset({"empty", "d50", "gil", "memory", "scale", "cholesky", "idle"})
    largest_pending = 100_000
    largest_graph = 10_000

    def run_independent(self, n: int, body: Body) -> float:
        start = perf_counter()
        graph = {("task", i): (body,) for i in range(n)}
        dask.threaded.get(graph, list(graph), pool=self._pool)
        return perf_counter() - start

    def run_graph(
        self,
        dependencies: Dependencies,
        bodies: Sequence[Body],
        priorities: Sequence[int] | None = None,
    ) -> float:
        sinks = _sinks(dependencies)
        start = perf_counter()
        graph = {
            ("task", i): (_run_after, body, *[("task", j) for j in before])
            for i, (before, body) in enumerate(zip(dependencies, bodies, strict=True))
        }
        dask.threaded.get(graph, [("task", i) for i in sinks], pool=self._pool)
        return perf_counter() - start

    def spawn_pending(self, n: int, make_body: Callable[[int], Body], gate: Body) -> None:
        graph: dict[object, tuple[object, ...]] = {"gate": (gate,)}
        for i in range(n):
            graph["task", i] = (_run_after, make_body(i), "gate")
        keys = list(graph)
        self._compute_aside(lambda: dask.threaded.get(graph, keys, pool=self._pool))


def _run_after(body: Body, *_: object) -> None:
    body()


def _sinks(dependencies: Dependencies) -> list[int]:
    """The tasks nobody waits for: asking for these runs them all."""
    waited_for = {j for before in dependencies for j in before}
    return [i for i in range(len(dependencies)) if i not in waited_for]


SYSTEMS = [DaskDelayedSystem, DaskGraphSystem]
