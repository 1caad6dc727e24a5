"""Blocked Cholesky factorisation as a list of tasks, to be run by any system.

The kernels are those of Parla's example program, which release the GIL.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import ModuleType

import numpy as np

Tiles = dict[tuple[int, int], np.ndarray]


def _example() -> ModuleType:
    path = Path(__file__).parents[2] / "parla-py/examples/cholesky.py"
    spec = importlib.util.spec_from_file_location("cholesky_example", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


example = _example()


@dataclass(frozen=True)
class Step:
    """One task: a kernel, the tiles it reads and then the one it changes, what it waits for."""

    kernel: Callable[..., None]
    tiles: tuple[tuple[int, int], ...]
    dependencies: tuple[int, ...]


def steps(n_tiles: int) -> list[Step]:
    """The right-looking factorisation of ``n_tiles`` x ``n_tiles`` tiles, in program order."""
    plan: list[Step] = []
    last_writer: dict[tuple[int, int], int] = {}

    def add(kernel: Callable[..., None], *tiles: tuple[int, int]) -> None:
        needed = sorted({last_writer[tile] for tile in tiles if tile in last_writer})
        last_writer[tiles[-1]] = len(plan)
        plan.append(Step(kernel, tiles, tuple(needed)))

    for k in range(n_tiles):
        add(example.potrf, (k, k))
        for i in range(k + 1, n_tiles):
            add(example.trsm, (k, k), (i, k))
        for i in range(k + 1, n_tiles):
            add(example.syrk, (i, k), (i, i))
            for j in range(k + 1, i):
                add(example.gemm, (i, k), (j, k), (i, j))
    return plan


def path_lengths(plan: list[Step]) -> list[int]:
    """For each task, how many tasks the longest path from it to the end has."""
    lengths = [1] * len(plan)
    for i in reversed(range(len(plan))):
        for j in plan[i].dependencies:
            lengths[j] = max(lengths[j], lengths[i] + 1)
    return lengths


def bodies(plan: list[Step], tiles: Tiles) -> list[Callable[[], None]]:
    """The plan's tasks as bodies that work on these tiles in place."""

    def bind(step: Step) -> Callable[[], None]:
        kernel, operands = step.kernel, tuple(tiles[tile] for tile in step.tiles)

        def body() -> None:
            kernel(*operands)

        return body

    return [bind(step) for step in plan]


def sequential(plan: list[Step], tiles: Tiles) -> float:
    """Run the plan in order in this thread; the sum of its kernels' seconds."""
    tasks = bodies(plan, tiles)
    start = perf_counter()
    for task in tasks:
        task()
    return perf_counter() - start
