"""The paper's figure 11: what prefetching hides, in a chain of tasks over several GPUs.

Writes ``fig11.json``, ``fig11.png`` and ``fig11.svg``. See parla-bench/README.md.
"""

from __future__ import annotations

import argparse

import synthetic_figure
from parla import graphs
from synthetic import Case, Node

MEGABYTES = (32, 64, 640)
TASK_MS = (20, 50)


def cases(node: Node, chosen: argparse.Namespace) -> list[Case]:
    """Chains whose tasks take turns on the GPUs; each needs a block of its own, or the one that the task before it has changed."""
    steps = 6 if chosen.quick else 20
    found = []
    for n_gpus in chosen.gpus:
        title = f"A block for each task, {n_gpus} GPU{'s'[: n_gpus != 1]}"
        for task_ms in TASK_MS:
            for megabytes in MEGABYTES:
                work = graphs.Work(task_ms * 1000.0)
                graph = graphs.serial(steps, work, size=node.rows(megabytes), n_gpus=n_gpus, own_data=True)
                found.append(Case.of(node, title, f"{megabytes} MB\n{task_ms} ms", n_gpus, megabytes, task_ms, graph))
    for megabytes in MEGABYTES:
        if 2 in chosen.gpus:
            graph = graphs.serial(steps, graphs.Work(20_000.0), size=node.rows(megabytes), n_gpus=2)
            found.append(Case.of(node, "One block handed on, 2 GPUs", f"{megabytes} MB\n20 ms", 2, megabytes, 20, graph))
    return found


if __name__ == "__main__":
    synthetic_figure.main("fig11", __doc__.splitlines()[0], cases)
