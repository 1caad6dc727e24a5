"""What follows from an array's shape and type alone."""

from __future__ import annotations

from math import prod
from typing import Any

__all__ = ["Shaped"]


class Shaped:
    """Something with a shape and a type of elements."""

    __slots__ = ()

    shape: tuple[int, ...]
    dtype: Any

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return int(self.dtype.itemsize)
