"""Jacobi's method for Laplace's equation on several GPUs: neighbours exchange the rows at their borders, by overlapping slices.

Every GPU has a band of rows. A step reads the band and one row on each side (`input`), and writes the band of the other array
(`output`). That the rows on the sides are the neighbour's new ones is the runtime's business: it moves them, and nothing else.

    PARLA_SIM_GPUS=4 python jacobi.py        # without a GPU: four simulated ones; without those, the CPU

Ends with status 1 if the result is not the same as NumPy's, or if more bytes moved than had to.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
from parla import Parla, TaskSpace, spawn
from parla.devices import cpu, gpu
from parla.parray import asarray


def smooth(old: Any, new: Any, first: int) -> None:
    """Write the means of the neighbours in `old` into `new`, whose first row is row `first` of `old`; borders stay as they are."""
    n = len(new)
    new[...] = old[first : first + n]
    top, bottom = (1 if first == 0 else 0), (n - 1 if first + n == len(old) else n)
    rows = slice(first + top, first + bottom)
    above, below = slice(rows.start - 1, rows.stop - 1), slice(rows.start + 1, rows.stop + 1)
    new[top:bottom, 1:-1] = 0.25 * (old[above, 1:-1] + old[below, 1:-1] + old[rows, :-2] + old[rows, 2:])


def spawn_steps(u: Any, v: Any, n_steps: int, places: list[Any]) -> None:
    """Spawn all steps; odd ones write `v`, even ones `u`."""
    n, n_bands = len(u), len(places)
    edges = [n * band // n_bands for band in range(n_bands + 1)]
    steps = TaskSpace("step")
    for step in range(n_steps):
        old, new = (u, v) if step % 2 == 0 else (v, u)
        for band, place in enumerate(places):
            start, stop = edges[band], edges[band + 1]
            halo = max(start - 1, 0)
            around, inside = old[halo : min(stop + 1, n)], new[start:stop]

            # Bands -1 and n_bands name no task in this space.
            @spawn(
                steps[step, band],
                [steps[step - 1, near] for near in (band - 1, band, band + 1) if near < n_bands],
                placement=place,
                input=[around],
                output=[inside],
            )
            def sweep():
                smooth(around.array, inside.array, start - halo)


def in_numpy(grid: np.ndarray, n_steps: int) -> np.ndarray:
    """The same steps, one after the other."""
    old, new = grid.copy(), grid.copy()
    for _ in range(n_steps):
        smooth(old, new, 0)
        old, new = new, old
    return old


def least_bytes(grid: np.ndarray, n_steps: int, n_bands: int) -> int:
    """What has to be moved: the bands and their sides to the GPUs once, then two rows per border and step, and in the end both arrays back."""
    row, n_rows = grid.nbytes // len(grid), len(grid)
    there = n_rows + 2 * (n_bands - 1) * n_steps
    back = n_rows * min(n_steps, 2)
    return (there + back) * row


def bytes_moved(memories: list[dict[str, Any]]) -> int:
    """What went from one memory to another; copies inside one are not counted."""
    return sum(n for memory in memories for source, n in memory["bytes_from"].items() if source != memory["name"])


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Jacobi's method on several GPUs.")
    parser.add_argument("--n", type=int, default=1000, help="rows and columns of the grid (default 1000)")
    parser.add_argument("--steps", type=int, default=20, help="number of steps (default 20)")
    parser.add_argument("--gpus", type=int, help="how many GPUs to use (default: all)")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps must be at least 1, got {arguments.steps}")
    if arguments.gpus is not None and not 1 <= arguments.gpus <= len(gpu):
        parser.error(f"--gpus {arguments.gpus}: there are {len(gpu)}")
    n_bands = max(1, arguments.gpus or len(gpu))
    if arguments.n < max(3, n_bands):
        parser.error(f"--n must be at least {max(3, n_bands)}, got {arguments.n}")
    return arguments


def main() -> int:
    """Solve, check and report; returns the exit status."""
    arguments = parse_arguments()
    places = list(gpu.devices[: arguments.gpus]) if len(gpu) else [cpu(0)]
    grid = np.zeros((arguments.n, arguments.n))
    grid[0] = 1.0
    u, v = grid.copy(), np.empty_like(grid)
    moving_u, moving_v = asarray(u, name="u"), asarray(v, name="v")
    with Parla() as runtime:
        spawn_steps(moving_u, moving_v, arguments.steps, places)
    result = u if arguments.steps % 2 == 0 else v
    moved = bytes_moved(runtime.stats()["memories"])
    least = least_bytes(grid, arguments.steps, len(places)) if len(gpu) else 0
    names = ", ".join(place.name for place in places)
    print(f"{arguments.steps} steps on a grid of {arguments.n} x {arguments.n}, bands on {names}")
    print(f"moved {moved} bytes, the least possible is {least}")
    if not np.array_equal(result, in_numpy(grid, arguments.steps)):
        print("wrong: NumPy has another result", file=sys.stderr)
        return 1
    if moved > least:
        print("wrong: more was moved than had to be", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
