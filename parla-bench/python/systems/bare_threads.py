"""No task system at all: what the machine and the interpreter give to threads that share the work in advance."""

from __future__ import annotations

import threading
from time import perf_counter

from systems.base import Body, System


class BareThreads(System):
    """One thread per worker, each with its part of the bodies in a loop; the remainder goes to the first."""

    key = "bare"
    label = "bare threads"
    experiments = frozenset({"gil"})

    def open(self) -> None:
        """Nothing to start: a run makes its own threads."""

    def close(self) -> None:
        """Nothing to stop."""

    def run_independent(self, n: int, body: Body) -> float:
        def loop(times: int) -> None:
            for _ in range(times):
                body()

        share, rest = divmod(n, self.workers)
        parts = [share + (rest if k == 0 else 0) for k in range(self.workers)]
        threads = [threading.Thread(target=loop, args=(part,)) for part in parts]
        start = perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return perf_counter() - start


SYSTEMS = [BareThreads]
