"""Blocked Cholesky factorisation A = L L^T of a matrix that moves by itself, on CPUs and GPUs together.

The matrix is one PArray over NumPy's memory. A task names the tiles that it reads (`input`) and changes (`inout`); the runtime
chooses where it runs and has the tiles there when it starts. Nothing here copies.

    PARLA_SIM_GPUS=4 python cholesky_parray.py                    # without a GPU: four simulated ones
    python cholesky_parray.py --n 4000 --block 500 --on gpu

Needs NumPy, SciPy and threadpoolctl, with CUDA GPUs CuPy too. Ends with status 1 if the result is wrong.
"""

from __future__ import annotations

import argparse
import sys
from time import perf_counter
from typing import Any

import numpy as np
import scipy.linalg
from parla import Parla, TaskSpace, spawn
from parla.array import get_array_module
from parla.devices import cpu, gpu
from parla.parray import PArray, asarray
from threadpoolctl import threadpool_limits


def spawn_factorisation(a: PArray, block: int, placement: list[Any]) -> int:
    """Spawn the tasks that overwrite the lower triangle of `a` with its factor; returns how many there are."""
    n_tiles = -(-len(a) // block)
    potrfs, trsms, updates = TaskSpace("potrf"), TaskSpace("trsm"), TaskSpace("update")

    def tile(i: int, j: int) -> PArray:
        return a[i * block : (i + 1) * block, j * block : (j + 1) * block]

    # Priorities follow the longest path to the end, so that the next diagonal tile is never waited for.
    def urgency(column: int, step: int) -> int:
        return 3 * n_tiles - 2 * column - step

    # An index of -1 names no task, so the first step needs no special case.
    for k in range(n_tiles):
        diagonal = tile(k, k)

        @spawn(potrfs[k], [updates[k, k, k - 1]], placement=placement, inout=[diagonal], priority=urgency(k, k) + 2)
        def factorise():
            tile = diagonal.array
            tile[...] = get_array_module(tile).linalg.cholesky(tile)

        for i in range(k + 1, n_tiles):
            below = tile(i, k)

            @spawn(
                trsms[i, k],
                [potrfs[k], updates[i, k, k - 1]],
                placement=placement,
                input=[diagonal],
                inout=[below],
                priority=urgency(k, k) + 1,
            )
            def solve():
                solve_behind(diagonal.array, below.array)

        for i in range(k + 1, n_tiles):
            for j in range(k + 1, i + 1):
                left, right, target = tile(i, k), tile(j, k), tile(i, j)

                @spawn(
                    updates[i, j, k],
                    [trsms[i, k], trsms[j, k], updates[i, j, k - 1]],
                    placement=placement,
                    input=[left, right] if i != j else [left],
                    inout=[target],
                    priority=urgency(j, k),
                )
                def update():
                    tile = target.array
                    tile -= left.array @ right.array.T

    return len(potrfs) + len(trsms) + len(updates)


def solve_behind(factor: Any, tile: Any) -> None:
    """Overwrite `tile` with ``tile @ inv(factor).T``."""
    if get_array_module(tile) is np:
        linalg = scipy.linalg
    else:
        import cupyx.scipy.linalg as linalg
    tile[...] = linalg.solve_triangular(factor, tile.T, lower=True).T


def positive_definite(n: int, seed: int) -> np.ndarray:
    """A dense symmetric matrix that is positive definite because its diagonal dominates."""
    random = np.random.default_rng(seed).random((n, n))
    return (random + random.T) / 2 + n * np.eye(n)


def report(stats: dict[str, Any]) -> None:
    """Print what each device did and what each memory got."""
    print(f"{'device':8} {'tasks':>6} {'busy s':>8}")
    for device in stats["devices"]:
        print(f"{device['name']:8} {device['tasks']:6} {device['busy_s']:8.3f}")
    print(f"{'memory':8} {'copies':>6} {'evictions':>9} {'peak MB':>8}  MB moved here")
    for memory in stats["memories"]:
        moved = ", ".join(f"{n / 1e6:.1f} from {name}" for name, n in memory["bytes_from"].items() if n) or "none"
        print(f"{memory['name']:8} {memory['copies']:6} {memory['evictions']:9} {memory['peak'] / 1e6:8.1f}  {moved}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Blocked Cholesky factorisation over one PArray.")
    parser.add_argument("--n", type=int, default=2000, help="order of the matrix (default 2000)")
    parser.add_argument("--block", type=int, default=250, help="order of the tiles (default 250)")
    parser.add_argument("--on", choices=["cpu", "gpu", "both"], help="devices (default: both, cpu where there is no GPU)")
    parser.add_argument("--workers", type=int, help="worker threads (default: the cores of this machine)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the matrix (default 0)")
    arguments = parser.parse_args()
    for name in ("n", "block", "workers"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    if arguments.seed < 0:
        parser.error(f"--seed can't be negative, got {arguments.seed}")
    if arguments.on is None:
        arguments.on = "both" if len(gpu) else "cpu"
    elif arguments.on != "cpu" and not len(gpu):
        parser.error(f"--on {arguments.on}: {gpu.unavailable}")
    return arguments


def main() -> int:
    """Factorise, check and report; returns the exit status."""
    arguments = parse_arguments()
    n = arguments.n
    matrix = positive_definite(n, arguments.seed)
    result = matrix.copy()
    moving = asarray(result, name="A")
    placement = {"cpu": [cpu], "gpu": [gpu], "both": [cpu, gpu]}[arguments.on]
    # One BLAS thread per task: the tasks are what runs in parallel.
    with threadpool_limits(1, user_api="blas"):
        start = perf_counter()
        with Parla(workers=arguments.workers) as runtime:
            n_tasks = spawn_factorisation(moving, arguments.block, placement)
        elapsed = perf_counter() - start
    # Leaving the block brought everything back into the NumPy array.
    factor = np.tril(result)
    error = float(np.linalg.norm(factor @ factor.T - matrix) / np.linalg.norm(matrix))
    print(f"Cholesky factorisation of a PArray, n = {n}, block = {arguments.block}, {n_tasks} tasks on {arguments.on}")
    print(f"time {elapsed:.3f} s, residual {error:.1e}")
    report(runtime.stats())
    tolerance = 10 * n * np.finfo(np.float64).eps
    if not error <= tolerance:
        print(f"wrong: the residual ||L L^T - A|| / ||A|| is above {tolerance:.1e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
