"""A tree of sums: each level of the tree is named in one task space, and each task depends on two of the level below.

The leaves are spawned last, to show that the order of spawning does not matter.
"""

from parla import Parla, TaskSpace, spawn
from parla.cpu import cpu

LEVELS = 5
N_PER_LEAF = 10_000


def main() -> None:
    """Sum 0, 1, 2, ... in 2**LEVELS pieces."""
    n_leaves = 2**LEVELS
    partial: dict[tuple[int, int], int] = {}
    with Parla():
        tree = TaskSpace("sum")
        for level in range(1, LEVELS + 1):
            for node in range(n_leaves >> level):
                below = level - 1

                @spawn(tree[level, node], [tree[below, 2 * node : 2 * node + 2]], placement=cpu)
                def add():
                    partial[level, node] = partial.pop((below, 2 * node)) + partial.pop((below, 2 * node + 1))

        for leaf in range(n_leaves):

            @spawn(tree[0, leaf], placement=cpu)
            def sum_piece():
                partial[0, leaf] = sum(range(leaf * N_PER_LEAF, (leaf + 1) * N_PER_LEAF))

    n = n_leaves * N_PER_LEAF
    assert partial == {(LEVELS, 0): n * (n - 1) // 2}
    print(f"{len(tree)} tasks, sum of 0..{n - 1} = {partial[LEVELS, 0]}")


if __name__ == "__main__":
    main()
