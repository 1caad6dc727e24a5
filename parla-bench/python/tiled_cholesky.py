"""Blocked Cholesky factorisation as a list of tasks, to be run by any system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from scipy.linalg import blas, lapack

Tiles = dict[tuple[int, int], np.ndarray]


def potrf(a: np.ndarray) -> None:
    """Overwrite ``a`` with its lower Cholesky factor."""
    factor, info = lapack.dpotrf(a, lower=1, clean=1)
    if info:
        raise np.linalg.LinAlgError(f"not positive definite (potrf info {info})")
    a[...] = factor


def trsm(factor: np.ndarray, a: np.ndarray) -> None:
    """Overwrite ``a`` with ``a @ inv(factor).T``."""
    a[...] = blas.dtrsm(1.0, factor, a, side=1, lower=1, trans_a=1)


def syrk(left: np.ndarray, a: np.ndarray) -> None:
    """Subtract ``left @ left.T`` from ``a``."""
    a -= left @ left.T


def gemm(left: np.ndarray, right: np.ndarray, a: np.ndarray) -> None:
    """Subtract ``left @ right.T`` from ``a``."""
    a -= left @ right.T


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
        add(potrf, (k, k))
        for i in range(k + 1, n_tiles):
            add(trsm, (k, k), (i, k))
        for i in range(k + 1, n_tiles):
            add(syrk, (i, k), (i, i))
            for j in range(k + 1, i):
                add(gemm, (i, k), (j, k), (i, j))
    return plan


def bodies(plan: list[Step], tiles: Tiles) -> list[Callable[[], None]]:
    """The plan's tasks as bodies that work on these tiles in place."""

    def bind(step: Step) -> Callable[[], None]:
        kernel, operands = step.kernel, tuple(tiles[tile] for tile in step.tiles)

        def body() -> None:
            kernel(*operands)

        return body

    return [bind(step) for step in plan]


def positive_definite(n: int, seed: int = 0) -> np.ndarray:
    """A dense symmetric positive definite matrix of order ``n``."""
    random = np.random.default_rng(seed).random((n, n))
    return (random + random.T) / 2 + n * np.eye(n)


def split(matrix: np.ndarray, block: int) -> Tiles:
    """Contiguous copies of the lower triangle's tiles of order ``block``."""
    n_tiles, rest = divmod(len(matrix), block)
    if rest:
        raise ValueError(f"a matrix of order {len(matrix)} has no whole blocks of {block}")
    return {
        (i, j): matrix[i * block : (i + 1) * block, j * block : (j + 1) * block].copy()
        for i in range(n_tiles)
        for j in range(i + 1)
    }


def residual(matrix: np.ndarray, tiles: Tiles) -> float:
    """Relative Frobenius norm of ``L @ L.T - matrix`` for the factor in the tiles."""
    block = len(tiles[0, 0])
    factor = np.zeros_like(matrix)
    for (i, j), tile in tiles.items():
        factor[i * block : (i + 1) * block, j * block : (j + 1) * block] = tile
    factor = np.tril(factor)
    return float(np.linalg.norm(factor @ factor.T - matrix) / np.linalg.norm(matrix))


def sequential(plan: list[Step], tiles: Tiles) -> float:
    """Run the plan in order in this thread; the sum of its kernels' seconds."""
    tasks = bodies(plan, tiles)
    start = perf_counter()
    for task in tasks:
        task()
    return perf_counter() - start
