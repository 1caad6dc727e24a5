"""With ``Parla(check=True)``: does a body leave its inputs as they are?

The view of an input is read-only, but a body can write past it: through the user's own buffer, an address, another view. So the
bytes are summed up before the body and after it, and around each wait, during which others may write them.
"""

from __future__ import annotations

import threading
import zlib
from typing import Any

from parla import _reach
from parla.errors import InputError

Box = tuple[tuple[int, int], ...]
Place = tuple[int, tuple[int, ...], tuple[int, ...], int, Any]
"""Address, shape, strides, bytes per element, what keeps the memory."""
Input = tuple[int, str, int, Box, Place]
"""Which operand of the task it is part of, name, array, box, and where it is."""
Changed = list[tuple[int, Box]]
"""Boxes that are not to be trusted any more, with the operands that they are parts of."""

_lock = threading.Lock()
_active: set[Watch] = set()


class Watch:
    """Sees to it that the body of a task leaves its inputs as they are."""

    def __init__(self, task: str) -> None:
        """Watch for a task, which messages call that."""
        self._task = task
        self._inputs: list[Input] = []
        self._outputs: list[tuple[int, Box]] = []
        self._sums: list[int] = []
        self._disturbed: set[int] = set()
        """The inputs that bodies of other tasks may have written meanwhile: their changes are not this body's."""
        self._changed: dict[str, None] = {}

    def begin(self, inputs: list[Input], outputs: list[tuple[int, Box]]) -> Changed:
        """The body begins or goes on, with these arrays. As `end` for those it had before."""
        changed = self.end()
        self._inputs, self._outputs = inputs, outputs
        with _lock:
            self._disturbed = set()
            for other in _active:
                other._disturb(self)
                self._disturb(other)
            _active.add(self)
        self._sums = [_sum(place) for *_, place in inputs]
        return changed

    def _disturb(self, writer: Watch) -> None:
        for i, (_, _, array, box, _) in enumerate(self._inputs):
            if any(array == written and _overlap(box, other) for written, other in writer._outputs):
                self._disturbed.add(i)

    def end(self) -> Changed:
        """The body has ended, or lets go of its arrays for a while. Returns what it has changed meanwhile."""
        sums = [_sum(place) for *_, place in self._inputs] if self._sums else []
        with _lock:
            _active.discard(self)
        changed = []
        for i, (before, after) in enumerate(zip(self._sums, sums)):
            if before != after and i not in self._disturbed:
                operand, name, _, box, _ = self._inputs[i]
                self._changed[name] = None
                changed.append((operand, box))
        self._inputs, self._outputs, self._sums = [], [], []
        return changed

    def check(self) -> None:
        """Raise what has been found so far.

        Raises:
            InputError: the body has changed inputs.
        """
        if self._changed:
            names = " and ".join(self._changed)
            raise InputError(
                f"{self._task} has {names} as an input only, but while its body ran the contents changed, which are not to be trusted "
                "any more: name what it writes in output or inout, and let nobody write the buffer of an array that tasks use"
            )


def _overlap(a: Box, b: Box) -> bool:
    return all(x[0] < y[1] and y[0] < x[1] for x, y in zip(a, b))


def _sum(place: Place) -> int:
    """A checksum of the bytes at a place."""
    import numpy

    address, shape, strides, item, keep = place
    # In the order of memory, each element once.
    axes = sorted(range(len(shape)), key=lambda axis: -abs(strides[axis]))
    shape = tuple(shape[axis] if strides[axis] else min(shape[axis], 1) for axis in axes)
    a = _reach.over_host(
        address, (*shape, item), numpy.dtype(numpy.uint8), (*(strides[i] for i in axes), 1), keep, False
    )
    return zlib.crc32(numpy.ascontiguousarray(a).data)
