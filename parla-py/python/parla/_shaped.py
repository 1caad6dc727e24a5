"""What follows from an array's shape and type alone."""

from __future__ import annotations

from math import prod
from typing import Any

__all__ = ["Shaped"]


class Shaped:
    """Something with a shape and a type of elements."""

    __slots__ = ("_dtype", "_shape")

    _shape: tuple[int, ...]
    _dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of indices along each dimension."""
        return self._shape

    @property
    def dtype(self) -> Any:
        """NumPy's description of the elements."""
        return self._dtype

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
