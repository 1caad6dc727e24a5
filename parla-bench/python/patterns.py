"""Task graphs as lists of dependencies, in an order in which every task follows what it needs."""

from __future__ import annotations

STENCIL_WIDTH = 16


def chain(n: int) -> list[list[int]]:
    """Each task after the one before."""
    return [[i - 1] if i else [] for i in range(n)]


def stencil(n: int, width: int = STENCIL_WIDTH) -> list[list[int]]:
    """Rows of ``width`` tasks, each after its three neighbours of the row before, periodic.

    ``n`` is rounded up to whole rows.
    """
    n_rows = -(-n // width)
    graph: list[list[int]] = [[] for _ in range(width)]
    for row in range(1, n_rows):
        above = (row - 1) * width
        graph.extend(
            [above + (column + shift) % width for shift in (-1, 0, 1)] for column in range(width)
        )
    return graph


def tree(n: int) -> list[list[int]]:
    """A binary tree from its root outwards: each task after its parent."""
    return [[(i - 1) // 2] if i else [] for i in range(n)]


GRAPHS = {"chain": chain, "stencil": stencil, "tree": tree}
