"""Dask's worker processes: a ``distributed.LocalCluster`` with one thread per process."""

from __future__ import annotations

import logging
from time import perf_counter

import dask
from distributed import Client, LocalCluster

from systems.base import Body, System


class DaskProcessesSystem(System):
    """What the paper's figure 13 calls Dask processes."""

    key = "dask_processes"
    label = "Dask processes"
    experiments = frozenset({"fig13"})

    def open(self) -> None:
        self._cluster = LocalCluster(
            n_workers=self.workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.ERROR,
        )
        self._client = Client(self._cluster)

    def close(self) -> None:
        self._client.close()
        self._cluster.close()

    def run_independent(self, n: int, body: Body) -> float:
        start = perf_counter()
        task = dask.delayed(body, pure=False)
        dask.compute(*[task() for _ in range(n)], scheduler=self._client)
        return perf_counter() - start


SYSTEMS = [DaskProcessesSystem]
