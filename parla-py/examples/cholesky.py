"""Blocked Cholesky factorisation A = L L^T of a symmetric positive definite matrix.

Each tile operation is a task: potrf factorises a tile on the diagonal, trsm solves with it below, syrk and gemm
update what is to the right. A task space per kernel names the tasks, and the names are the dependencies.

    python cholesky.py                       # n = 4000 in blocks of 500
    python cholesky.py --input matrix.npy --block 256 --workers 4 --repeat 5

Needs NumPy, SciPy and threadpoolctl. Ends with status 1 if the result is wrong, 2 if the input is.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from parla import Parla, TaskSpace, spawn
from parla.cpu import cpu
from scipy import LowLevelCallable
from scipy.linalg import cython_blas, cython_lapack
from threadpoolctl import threadpool_limits

Tiles = dict[tuple[int, int], np.ndarray]


def fortran(module: object, name: str, n_arguments: int) -> Callable[..., None]:
    """A BLAS or LAPACK routine of SciPy, called through ctypes: unlike SciPy's own wrapper it releases the GIL."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    routine = LowLevelCallable.from_cython(module, name)
    address = pointer(routine.function, routine.signature.encode())
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n_arguments)(address)


DPOTRF = fortran(cython_lapack, "dpotrf", 5)
DTRSM = fortran(cython_blas, "dtrsm", 11)
DSYRK = fortran(cython_blas, "dsyrk", 10)
DGEMM = fortran(cython_blas, "dgemm", 13)


def call(routine: Callable[..., None], *arguments: str | int | float | np.ndarray | ctypes.c_int) -> None:
    """Call a Fortran routine: every argument by reference; strings are single letters, arrays in Fortran order."""
    passed = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            passed.append(argument.ctypes.data_as(ctypes.c_void_p))
        elif isinstance(argument, str):
            passed.append(ctypes.byref(ctypes.c_char(argument.encode())))
        elif isinstance(argument, int):
            passed.append(ctypes.byref(ctypes.c_int(argument)))
        elif isinstance(argument, float):
            passed.append(ctypes.byref(ctypes.c_double(argument)))
        else:
            passed.append(ctypes.byref(argument))
    routine(*passed)


def potrf(a: np.ndarray) -> None:
    """Overwrite the lower triangle of `a` with its Cholesky factor."""
    info = ctypes.c_int()
    call(DPOTRF, "L", len(a), a, len(a), info)
    if info.value:
        raise np.linalg.LinAlgError("the matrix is not positive definite")


def trsm(factor: np.ndarray, a: np.ndarray) -> None:
    """Overwrite `a` with ``a @ inv(factor).T``."""
    m, n = a.shape
    call(DTRSM, "R", "L", "T", "N", m, n, 1.0, factor, n, a, m)


def syrk(left: np.ndarray, a: np.ndarray) -> None:
    """Subtract ``left @ left.T`` from the lower triangle of `a`."""
    n, k = left.shape
    call(DSYRK, "L", "N", n, k, -1.0, left, n, 1.0, a, n)


def gemm(left: np.ndarray, right: np.ndarray, a: np.ndarray) -> None:
    """Subtract ``left @ right.T`` from `a`."""
    (m, k), n = left.shape, len(right)
    call(DGEMM, "N", "T", m, n, k, -1.0, left, m, right, n, 1.0, a, m)


@dataclass
class KernelTimes:
    """When each kernel ran, and on which thread."""

    spans: list[tuple[float, float, int]] = field(default_factory=list)

    def run(self, kernel: Callable[..., None], *tiles: np.ndarray) -> None:
        """Run a kernel and note its time."""
        start = perf_counter()
        kernel(*tiles)
        self.spans.append((start, perf_counter(), threading.get_ident()))

    def total(self) -> float:
        """Seconds spent in kernels."""
        return sum(end - start for start, end, _ in self.spans)

    def finished(self) -> float:
        """When the last kernel ended."""
        return max(end for _, end, _ in self.spans)

    def n_threads(self) -> int:
        """How many threads ran kernels."""
        return len({thread for _, _, thread in self.spans})


def spawn_factorisation(tiles: Tiles, n_tiles: int, times: KernelTimes) -> int:
    """Spawn the tasks that overwrite the tiles with the factor; returns how many there are.

    Priorities follow the longest path to the end, so that the next diagonal tile is never waited for.
    """
    potrfs, trsms, syrks, gemms = TaskSpace("potrf"), TaskSpace("trsm"), TaskSpace("syrk"), TaskSpace("gemm")

    def urgency(column: int, step: int) -> int:
        return 3 * n_tiles - 2 * column - step

    # An index of -1 names no task, so the first step needs no special case.
    for k in range(n_tiles):

        @spawn(potrfs[k], [syrks[k, k - 1]], placement=cpu, priority=urgency(k, k) + 2)
        def factorise():
            times.run(potrf, tiles[k, k])

        for i in range(k + 1, n_tiles):

            @spawn(trsms[i, k], [potrfs[k], gemms[i, k, k - 1]], placement=cpu, priority=urgency(k, k) + 1)
            def solve():
                times.run(trsm, tiles[k, k], tiles[i, k])

        for i in range(k + 1, n_tiles):

            @spawn(syrks[i, k], [trsms[i, k], syrks[i, k - 1]], placement=cpu, priority=urgency(i, k))
            def update_diagonal():
                times.run(syrk, tiles[i, k], tiles[i, i])

            for j in range(k + 1, i):

                @spawn(
                    gemms[i, j, k],
                    [trsms[i, k], trsms[j, k], gemms[i, j, k - 1]],
                    placement=cpu,
                    priority=urgency(j, k),
                )
                def update():
                    times.run(gemm, tiles[i, k], tiles[j, k], tiles[i, j])

    return sum(map(len, (potrfs, trsms, syrks, gemms)))


def split(matrix: np.ndarray, block: int) -> Tiles:
    """Copies of the tiles on and below the diagonal, in Fortran order; the last ones may be smaller."""
    edges = range(0, len(matrix), block)
    return {
        (i, j): np.array(matrix[row : row + block, column : column + block], order="F")
        for i, row in enumerate(edges)
        for j, column in enumerate(edges)
        if i >= j
    }


def residual(matrix: np.ndarray, tiles: Tiles, block: int) -> float:
    """``||L L^T - A|| / ||A||`` in the Frobenius norm."""
    factor = np.zeros_like(matrix)
    for (i, j), tile in tiles.items():
        rows, columns = tile.shape
        lower = np.tril(tile) if i == j else tile
        factor[i * block : i * block + rows, j * block : j * block + columns] = lower
    return float(np.linalg.norm(factor @ factor.T - matrix) / np.linalg.norm(matrix))


def positive_definite(n: int, seed: int) -> np.ndarray:
    """A dense symmetric matrix that is positive definite because its diagonal dominates."""
    random = np.random.default_rng(seed).random((n, n))
    return (random + random.T) / 2 + n * np.eye(n)


def load(path: str) -> np.ndarray:
    """Read a matrix from a .npy file.

    Raises:
        ValueError: it is not a real, finite, symmetric square matrix.
        OSError: the file can't be read.
    """
    matrix = np.load(path, allow_pickle=False)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"expected a square matrix, got an array of shape {matrix.shape}")
    if matrix.dtype.kind not in "fiu":
        raise ValueError(f"expected real numbers, got {matrix.dtype}")
    precision = np.finfo(matrix.dtype).eps if matrix.dtype.kind == "f" else 0.0
    matrix = np.ascontiguousarray(matrix, dtype=np.float64)
    if not np.isfinite(matrix).all():
        raise ValueError("the matrix has infinite or undefined elements")
    asymmetry = np.abs(matrix - matrix.T).max()
    if asymmetry > 100 * precision * np.abs(matrix).max():
        raise ValueError(f"the matrix is not symmetric: mirrored elements differ by up to {asymmetry:.3g}")
    return matrix


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Blocked Cholesky factorisation with Parla tasks.")
    parser.add_argument("--n", type=int, default=4000, help="order of the generated matrix (default 4000)")
    parser.add_argument("--block", type=int, default=500, help="order of the tiles (default 500)")
    parser.add_argument("--workers", type=int, help="worker threads (default: the cores of this machine)")
    parser.add_argument("--input", metavar="A.npy", help="factorise this matrix instead of a generated one")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated matrix (default 0)")
    parser.add_argument("--repeat", type=int, default=1, help="factorise so many times (default 1)")
    arguments = parser.parse_args()
    for name in ("n", "block", "repeat", "workers"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    if arguments.seed < 0:
        parser.error(f"--seed can't be negative, got {arguments.seed}")
    try:
        arguments.matrix = load(arguments.input) if arguments.input else positive_definite(arguments.n, arguments.seed)
    except (ValueError, OSError, EOFError) as error:
        parser.error(f"{arguments.input}: {error}")
    return arguments


def main() -> int:
    """Factorise, check and report; returns the exit status."""
    arguments = parse_arguments()
    matrix, block = arguments.matrix, arguments.block
    n = len(matrix)
    tolerance = 10 * n * np.finfo(np.float64).eps
    seconds, ratios, worst = [], [], 0.0
    for run in range(arguments.repeat):
        tiles, times = split(matrix, block), KernelTimes()
        # One BLAS thread per task: the tasks are what runs in parallel.
        with threadpool_limits(1, user_api="blas"), Parla(workers=arguments.workers) as runtime:
            start = perf_counter()
            n_tasks = spawn_factorisation(tiles, -(-n // block), times)
        workers = runtime.stats()["workers"]
        elapsed, ideal = times.finished() - start, times.total() / workers
        seconds.append(elapsed)
        ratios.append(elapsed / ideal)
        error = residual(matrix, tiles, block)
        worst = max(worst, error)
        if run == 0:
            print(f"Cholesky factorisation, n = {n}, block = {block}, {n_tasks} tasks")
        print(
            f"time {elapsed:.3f} s, ideal {ideal:.3f} s (sum of kernel times / workers), "
            f"time/ideal {elapsed / ideal:.2f}, workers {workers}, workers used {times.n_threads()}, "
            f"residual {error:.1e}"
        )
    if arguments.repeat > 1:
        time, ratio = statistics.median(seconds), statistics.median(ratios)
        print(f"median of {arguments.repeat}: time {time:.3f} s, time/ideal {ratio:.2f}")
    if not worst <= tolerance:
        print(f"wrong: the residual ||L L^T - A|| / ||A|| is above {tolerance:.1e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except np.linalg.LinAlgError as failure:
        sys.exit(f"cholesky.py: {failure}")
