"""The synthetic graphs of the paper's figure 9: reduction, independent and serial tasks of 16 ms over several GPUs.

Writes ``fig9-synthetic.json``, ``.png`` and ``.svg``. See parla-bench/README.md.
"""

from __future__ import annotations

import argparse

import synthetic_figure
from parla import graphs
from synthetic import Case, Node

TASK_MS = 16.0
N, D = 6250, 1000
MEGABYTES = N * D * 4 / 1e6
"""A block of N rows of d float32."""


def cases(node: Node, chosen: argparse.Namespace) -> list[Case]:
    """The three shapes on each number of GPUs."""
    levels, n_independent, n_serial = (3, 24, 12) if chosen.quick else (8, 300, 150)
    work = graphs.Work(TASK_MS * 1000)
    size = node.rows(MEGABYTES)
    found = []
    for n_gpus in chosen.gpus:
        shapes = {
            f"reduction, {levels} levels, branch 2": graphs.reduction(levels, 2, work, size=size, n_gpus=n_gpus),
            f"{n_independent} independent tasks": graphs.independent(n_independent, work, size=size, n_gpus=n_gpus),
            f"{n_serial} tasks in a row": graphs.serial(n_serial, work, size=size, n_gpus=n_gpus),
        }
        for section, graph in shapes.items():
            name = f"{n_gpus} GPU{'s'[: n_gpus != 1]}"
            found.append(Case.of(node, section, name, n_gpus, MEGABYTES, TASK_MS, graph))
    return found


if __name__ == "__main__":
    synthetic_figure.main("fig9-synthetic", __doc__.splitlines()[0], cases)
