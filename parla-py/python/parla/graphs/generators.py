"""Task graphs of the usual shapes, in any size.

Every generator takes `work`, the cost of a task on each target: a `Work` for any GPU, or a dict of them by target. With `n_gpus`
tasks are given to GPUs 0 ... n_gpus - 1 in a way that suits the shape (what a user would do by hand), at the cost that `work` has for
any GPU. `size` is the number of elements of each data block; 0 makes graphs without data.
"""

from __future__ import annotations

import random as _random
from collections.abc import Iterator, Mapping

from parla.graphs.model import ANY_GPU, DataBlock, Graph, GraphError, GraphTask, Target, TaskKey, Work, gpu_location

__all__ = ["independent", "random", "reduction", "reduction_scatter", "serial", "stencil", "tree"]

Costs = Work | Mapping[Target, Work]


def independent(n: int, work: Costs, *, size: int = 0, n_gpus: int | None = None) -> Graph:
    """Tasks that have nothing to do with each other; each changes a block of its own. By hand: dealt out in turns."""
    _at_least(1, n=n)
    place = _Placed(work, n_gpus)
    tasks = [GraphTask(TaskKey((i,)), place.on(i), readwrites=(i,) if size else ()) for i in range(n)]
    return Graph.of(tasks, _blocks(n, size))


def serial(
    steps: int, work: Costs, *, chains: int = 1, dependencies: int = 1, size: int = 0, n_gpus: int | None = None, own_data: bool = False
) -> Graph:
    """Chains, each task after the `dependencies` before it.

    All tasks of a chain change one block; with `own_data` each task reads a block of its own instead, so that all of them can be
    brought early. By hand: step ``i`` of chain ``j`` goes to GPU ``i + j``, in turns.
    """
    _at_least(1, steps=steps, chains=chains, dependencies=dependencies)
    place = _Placed(work, n_gpus)
    tasks = []
    for i in range(steps):
        for j in range(chains):
            before = tuple(TaskKey((i - k, j)) for k in range(1, min(i, dependencies) + 1))
            reads = (i * chains + j,) if size and own_data else ()
            changes = (j,) if size and not own_data else ()
            tasks.append(GraphTask(TaskKey((i, j)), place.on(i + j), before, reads=reads, readwrites=changes))
    return Graph.of(tasks, _blocks(steps * chains if own_data else chains, size))


def reduction(levels: int, branch: int, work: Costs, *, size: int = 0, n_gpus: int | None = None) -> Graph:
    """A tree towards its root: ``branch ** levels`` leaves, then each task combines the blocks of `branch` tasks into the first of them.

    By hand: contiguous parts of each level.
    """
    _at_least(0, levels=levels)
    _at_least(1, branch=branch)
    place = _Placed(work, n_gpus)
    return Graph.of(_towards_root(levels, branch, place, size), _blocks(branch**levels, size))


def reduction_scatter(width: int, rounds: int, work: Costs, *, size: int = 0, n_gpus: int | None = None) -> Graph:
    """`rounds` times `width` tasks with a block each, and after each round one task that reads them all; the next round waits for it.

    By hand: contiguous parts of each round; the task in the middle on the first GPU.
    """
    _at_least(1, width=width, rounds=rounds)
    place = _Placed(work, n_gpus)
    tasks: list[GraphTask] = []
    for r in range(rounds):
        after = (TaskKey((r - 1,), "bridge"),) if r else ()
        bulk = [TaskKey((r, j), "bulk") for j in range(width)]
        tasks += [
            GraphTask(key, place.part(j, width), after, readwrites=(j,) if size else ()) for j, key in enumerate(bulk)
        ]
        reads = tuple(range(width)) if size else ()
        tasks.append(GraphTask(TaskKey((r,), "bridge"), place.on(0), tuple(bulk), reads=reads))
    return Graph.of(tasks, _blocks(width, size))


def stencil(
    width: int, steps: int, work: Costs, *, radius: int = 1, periodic: bool = False, size: int = 0, n_gpus: int | None = None
) -> Graph:
    """`steps` rows of `width` tasks, each after its neighbours within `radius` in the row before.

    Task ``(t, j)`` reads the blocks that its neighbours wrote and writes its own; two blocks for each column take turns. By hand:
    contiguous parts of each row.
    """
    _at_least(1, width=width, steps=steps)
    _at_least(0, radius=radius)
    place = _Placed(work, n_gpus)
    tasks = []
    for t in range(steps):
        for j in range(width):
            columns = range(j - radius, j + radius + 1)
            near = dict.fromkeys(k % width for k in columns) if periodic else [k for k in columns if 0 <= k < width]
            before = tuple(TaskKey((t - 1, k)) for k in near) if t else ()
            old, new = (t % 2) * width, ((t + 1) % 2) * width
            reads = tuple(old + k for k in near) if size else ()
            tasks.append(GraphTask(TaskKey((t, j)), place.part(j, width), before, reads, (new + j,) if size else ()))
    return Graph.of(tasks, _blocks(2 * width, size))


def tree(levels: int, branch: int, work: Costs, *, size: int = 0, n_gpus: int | None = None) -> Graph:
    """A tree from its root: each task reads its parent's block and writes its own. By hand: contiguous parts of each level."""
    _at_least(0, levels=levels)
    _at_least(1, branch=branch)
    place = _Placed(work, n_gpus)
    tasks = []
    first = 0  # the block of the level's first task
    for level in range(levels + 1):
        n = branch**level
        for j in range(n):
            before = (TaskKey((level - 1, j // branch)),) if level else ()
            reads = (first - branch ** (level - 1) + j // branch,) if size and level else ()
            tasks.append(GraphTask(TaskKey((level, j)), place.part(j, n), before, reads, (first + j,) if size else ()))
        first += n
    return Graph.of(tasks, _blocks(first, size))


def random(n: int, work: Costs, *, seed: int = 0, most_dependencies: int = 3, size: int = 0, n_gpus: int | None = None) -> Graph:
    """Each task depends on up to `most_dependencies` earlier ones, reads their blocks and writes its own; the same for the same seed.

    By hand: dealt out at random.
    """
    _at_least(1, n=n)
    _at_least(0, most_dependencies=most_dependencies)
    place = _Placed(work, n_gpus)
    dice = _random.Random(seed)
    tasks = []
    for i in range(n):
        before = sorted(dice.sample(range(i), dice.randint(0, min(i, most_dependencies))))
        tasks.append(
            GraphTask(
                TaskKey((i,)),
                place.on(dice.randrange(n)),
                tuple(TaskKey((k,)) for k in before),
                tuple(before) if size else (),
                (i,) if size else (),
            )
        )
    return Graph.of(tasks, _blocks(n, size))


def _towards_root(levels: int, branch: int, place: _Placed, size: int) -> Iterator[GraphTask]:
    for height in range(levels + 1):
        n = branch ** (levels - height)
        for j in range(n):
            below = range(branch * j, branch * (j + 1)) if height else ()
            before = tuple(TaskKey((height - 1, k)) for k in below)
            # The block of the first leaf below a task is the one that it combines the others into.
            firsts = [k * branch ** (height - 1) for k in below]
            reads = tuple(firsts[1:]) if size else ()
            changes = (j * branch**height,) if size else ()
            yield GraphTask(TaskKey((height, j)), place.part(j, n), before, reads=reads, readwrites=changes)


class _Placed:
    """The costs of tasks, with the GPU that a user would choose where one is asked for."""

    def __init__(self, work: Costs, n_gpus: int | None) -> None:
        self._work: dict[Target, Work] = {(ANY_GPU,): work} if isinstance(work, Work) else dict(work)
        if n_gpus is None:
            self._chosen: list[dict[Target, Work]] = []
            return
        _at_least(1, n_gpus=n_gpus)
        if (ANY_GPU,) not in self._work:
            raise GraphError("n_gpus= needs the cost of a task on any GPU: work[(ANY_GPU,)]")
        self._chosen = [{(gpu_location(i),): self._work[(ANY_GPU,)]} for i in range(n_gpus)]

    def on(self, i: int) -> dict[Target, Work]:
        """In turns."""
        return dict(self._chosen[i % len(self._chosen)] if self._chosen else self._work)

    def part(self, j: int, n: int) -> dict[Target, Work]:
        """The first part of `n` on the first GPU, and so on."""
        return self.on(j * len(self._chosen) // n)


def _blocks(n: int, size: int) -> list[DataBlock]:
    return [DataBlock(size)] * n if size else []


def _at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise GraphError(f"{name}={number}: expected {least} or more")
