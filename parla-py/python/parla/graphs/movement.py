"""The data of a graph that runs: by whom they are moved, and stamps in them that tell whose bytes they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from parla.graphs.model import Graph

__all__ = ["Movement", "by_hand", "by_runtime"]

Array = Any


class Movement(ABC):
    """The data blocks of a graph while it runs. Block ``i`` is an array of shape (size, width)."""

    def __init__(self, graph: Graph, width: int, thorough: bool) -> None:
        """Make the arrays, on the CPU, with zeros in them."""
        self.host = [np.zeros((block.size, width), np.float32) for block in graph.data]
        self._thorough = thorough

    @abstractmethod
    def operands(self, reads: Sequence[int], writes: Sequence[int], readwrites: Sequence[int]) -> dict[str, Any]:
        """The keywords with which a task says what it uses."""

    @abstractmethod
    def enter(self, inputs: Sequence[int], outputs: Sequence[int]) -> dict[int, Array]:
        """The arrays of a task that is beginning, by block, where it runs; `inputs` have their newest contents."""

    @abstractmethod
    def finish(self) -> None:
        """All tasks are done; the runtime is still open."""

    def final(self) -> dict[int, int]:
        """The stamps that the CPU finds after the runtime has ended."""
        return {block: self.stamp_of(array) for block, array in enumerate(self.host)}

    def stamp_of(self, array: Array) -> int:
        """Whose contents an array has: a number that was put there, or -1 where there are several."""
        if not array.size:
            return 0
        some = array if self._thorough else array[_samples(array)]
        if not isinstance(some, np.ndarray):  # on a real GPU; on others `asnumpy` would wait for the kernel
            from parla.array import asnumpy

            some = asnumpy(some)
        first = some.flat[0]
        if not (some == first).all():
            return -1
        return int(first)

    def put_stamp(self, array: Array, stamp: int) -> None:
        """Make an array's contents those of `stamp`."""
        if array.size:
            array[... if self._thorough else _samples(array)] = stamp


def _samples(array: Array) -> tuple[slice, slice]:
    """The corners and what is half-way between them."""
    rows, columns = array.shape
    return slice(None, None, max(1, rows // 2)), slice(None, None, max(1, columns // 2))


class _ByRuntime(Movement):
    """PArrays, which tasks name as operands."""

    def __init__(self, graph: Graph, width: int, thorough: bool) -> None:
        super().__init__(graph, width, thorough)
        from parla.parray import asarray

        self._arrays = [asarray(array, name=f"data {i}") for i, array in enumerate(self.host)]

    def operands(self, reads: Sequence[int], writes: Sequence[int], readwrites: Sequence[int]) -> dict[str, Any]:
        roles = {"input": reads, "output": writes, "inout": readwrites}
        return {role: [self._arrays[block] for block in blocks] for role, blocks in roles.items() if blocks}

    def enter(self, inputs: Sequence[int], outputs: Sequence[int]) -> dict[int, Array]:
        return {block: self._arrays[block].array for block in (*inputs, *outputs)}

    def finish(self) -> None:
        pass


class _ByHand(Movement):
    """Plain arrays: one for each device that has used a block, and a list of which are up to date."""

    def __init__(self, graph: Graph, width: int, thorough: bool) -> None:
        super().__init__(graph, width, thorough)
        self._at: list[dict[str, Array]] = [{"cpu": array} for array in self.host]
        self._current: list[list[str]] = [["cpu"] for _ in self.host]

    def operands(self, reads: Sequence[int], writes: Sequence[int], readwrites: Sequence[int]) -> dict[str, Any]:
        return {}

    def enter(self, inputs: Sequence[int], outputs: Sequence[int]) -> dict[int, Array]:
        from parla.context import get_current_devices

        device = get_current_devices()[0]
        here = "cpu" if device.architecture.name == "cpu" else device.name
        views: dict[int, Array] = {}
        for block in dict.fromkeys((*inputs, *outputs)):
            views[block] = self._bring(block, here)
        for block in outputs:
            self._current[block] = [here]
        return views

    def _bring(self, block: int, here: str) -> Array:
        from parla.array import clone_here, copy

        at, current = self._at[block], self._current[block]
        if here in current:
            return at[here]
        newest = at[current[-1]]
        if here in at:
            copy(at[here], newest)
        else:
            at[here] = clone_here(newest)
        current.append(here)
        return at[here]

    def finish(self) -> None:
        from parla.array import copy

        for host, at, current in zip(self.host, self._at, self._current, strict=True):
            if "cpu" not in current:
                copy(host, at[current[0]])
            at.clear()


def by_runtime(graph: Graph, width: int, thorough: bool) -> Movement:
    """The runtime moves the data: they are operands of the tasks."""
    return _ByRuntime(graph, width, thorough)


def by_hand(graph: Graph, width: int, thorough: bool) -> Movement:
    """The bodies move the data."""
    return _ByHand(graph, width, thorough)
