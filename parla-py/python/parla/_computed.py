"""What operators and universal functions of NumPy give for PArrays: NumPy arrays that also have `array`, as in version 0.2."""

from __future__ import annotations

from typing import Any

import numpy

__all__ = ["Computed", "computed"]


class Computed(numpy.ndarray[Any, Any]):
    """A NumPy array that was computed from PArrays. Programs of version 0.2, where this was a PArray, ask for its `array`."""

    @property
    def array(self) -> numpy.ndarray[Any, Any]:
        """The same elements as a plain NumPy array."""
        return self.view(numpy.ndarray)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = True) -> Any:
        """What is computed from it is the same; single numbers are NumPy's."""
        return array.view(Computed) if array.ndim else array[()]

    def __repr__(self) -> str:
        return repr(self.array)


def computed(result: Any) -> Any:
    """The result of a universal function, with `array` where it is a NumPy array."""
    if type(result) is tuple:
        return tuple(map(computed, result))
    return result.view(Computed) if type(result) is numpy.ndarray else result
