"""``concurrent.futures.ThreadPoolExecutor``, with dependencies counted by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from systems.base import Body, Dependencies, System


class ThreadPoolSystem(System):
    """Every task is one ``submit``; the worker that ends its last dependency submits it."""

    key = "threadpool"
    label = "ThreadPoolExecutor"
    experiments = frozenset({"fig13", "empty", "d50", "gil", "memory", "scale", "cholesky", "idle"})

    def open(self) -> None:
        self._pool = ThreadPoolExecutor(self.workers)
        # Threads start on demand; a barrier makes sure that all of them have.
        started = threading.Barrier(self.workers)
        list(self._pool.map(lambda _: started.wait(), range(self.workers)))

    def close(self) -> None:
        self._pool.shutdown(wait=True)

    def run_independent(self, n: int, body: Body) -> float:
        start = perf_counter()
        submit = self._pool.submit
        for _ in range(n):
            submit(body)
        # Leaving the pool's block is the cheapest way to wait: no wake-up per future.
        self._pool.shutdown(wait=True)
        elapsed = perf_counter() - start
        self.open()
        return elapsed

    def run_graph(
        self,
        dependencies: Dependencies,
        bodies: Sequence[Body],
        priorities: Sequence[int] | None = None,
    ) -> float:
        start = perf_counter()
        run = _CountedGraph(self._pool, dependencies, bodies)
        run.start()
        run.wait()
        return perf_counter() - start

    def spawn_pending(self, n: int, make_body: Callable[[int], Body], gate: Body) -> None:
        submit = self._pool.submit
        for _ in range(self.workers):  # one gate per worker: nothing overtakes it
            submit(gate)
        for i in range(n):
            submit(make_body(i))


class _CountedGraph:
    """A graph run on a pool: a join counter per task, one lock, an event for the end."""

    def __init__(
        self, pool: ThreadPoolExecutor, dependencies: Dependencies, bodies: Sequence[Body]
    ) -> None:
        self._submit = pool.submit
        self._bodies = bodies
        self._open = [len(before) for before in dependencies]
        self._successors: list[list[int]] = [[] for _ in bodies]
        for i, before in enumerate(dependencies):
            for j in before:
                self._successors[j].append(i)
        self._remaining = len(bodies)
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._error: BaseException | None = None

    def start(self) -> None:
        # All roots are known before the first runs: a running task lowers the counters.
        for i in [i for i, n_open in enumerate(self._open) if n_open == 0]:
            self._submit(self._run, i)

    def wait(self) -> None:
        self._finished.wait()
        if self._error is not None:
            raise self._error

    def _run(self, i: int) -> None:
        try:
            self._bodies[i]()
        except BaseException as error:  # an executor would keep it in a future nobody reads
            self._error = error
            self._finished.set()
            return
        with self._lock:
            ready = []
            for successor in self._successors[i]:
                self._open[successor] -= 1
                if self._open[successor] == 0:
                    ready.append(successor)
            self._remaining -= 1
            last = self._remaining == 0
        for successor in ready:
            self._submit(self._run, successor)
        if last:
            self._finished.set()


SYSTEMS = [ThreadPoolSystem]
