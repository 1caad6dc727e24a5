"""What makes a PArray look like a NumPy array to NumPy, to Python and to other libraries: all in terms of its local contents."""

from __future__ import annotations

import operator
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from parla import _dispatch, _reach
from parla._dispatch import localize
from parla._operators import ArrayOperators, declines
from parla._roots import to_numpy
from parla._shaped import Shaped

__all__ = ["NumPyLike"]

# Methods of NumPy's arrays that change the array; the others only read it.
_CHANGING = frozenset({"fill", "sort", "partition", "put", "setfield", "itemset", "byteswap"})
# Those that would change the local view alone, and what to do instead.
_REFUSED = {
    "resize": "update() gives an array another shape",
    "setflags": "make the NumPy array read-only before it becomes a PArray",
}


class NumPyLike(ArrayOperators, Shaped, ABC):
    """Operators, conversions and NumPy's functions for a class that gives its local contents."""

    __slots__ = ()

    _picked: Any

    # What the subclass has.

    @property
    @abstractmethod
    def array(self) -> Any:
        """The local view."""

    @abstractmethod
    def _read(self) -> Any:
        """The local contents, for reading."""

    @abstractmethod
    def _reach(self, access: str) -> Any:
        """The local view, before elements or fields are picked; `access` is as in `_reach.reach`."""

    @abstractmethod
    def __getitem__(self, key: Any) -> Any:
        """A part of it."""

    # NumPy.

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """The local contents for NumPy: read-only unless copied; from CUDA GPUs they are copied."""
        local = to_numpy(self._read(), copy=bool(copy))
        if dtype is not None and local.dtype != dtype:
            if copy is False:
                raise ValueError(f"a PArray of {local.dtype} can't be a NumPy array of {dtype} without a copy")
            local = local.astype(dtype)
        return local

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return _dispatch.call_ufunc(ufunc, method, inputs, options)

    # With what can't be compared NumPy's operators give an answer, and its functions an error.

    def __eq__(self, other: Any) -> Any:
        return self._compare("equal", operator.eq, other)

    def __ne__(self, other: Any) -> Any:
        return self._compare("not_equal", operator.ne, other)

    __hash__: Any = None

    def _compare(self, name: str, compare: Any, other: Any) -> Any:
        if declines(other):
            return NotImplemented
        local = self._read()
        if declines(local):  # it has no operators, and would be compared as an object
            import numpy

            return getattr(numpy, name)(self, other)
        from parla._computed import computed

        return computed(compare(local, localize(other)))

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        return _dispatch.call_function(function, arguments, options)

    def __getattr__(self, name: str) -> Any:
        """The methods and properties of NumPy's arrays, of the local contents."""
        if name.startswith("_"):
            raise AttributeError(f"PArray has no attribute {name!r}")
        if hasattr(type(self), name):
            return object.__getattribute__(self, name)  # a property that raised AttributeError: so that it is told which
        if name in _REFUSED:
            raise AttributeError(f"PArray has no attribute {name!r}: {_REFUSED[name]}")
        numpy = sys.modules.get("numpy")
        if numpy is None or not hasattr(numpy.ndarray, name):
            raise AttributeError(f"PArray has no attribute {name!r}")
        if not callable(getattr(numpy.ndarray, name)):
            return getattr(self._read(), name)

        def method(*arguments: Any, **options: Any) -> Any:
            local = self._reach("update") if name in _CHANGING and self._picked is None else self._read()
            if not hasattr(local, name):
                raise TypeError(f"{name} of an array on a CUDA GPU needs CuPy")
            return getattr(local, name)(*localize(arguments), **localize(options))

        method.__name__ = name
        return method

    def copy(self, order: str = "C") -> Any:
        """A copy of the local contents that shares nothing with this."""
        local = self._read()
        return local.copy(order=order) if hasattr(local, "flags") else local.copy_to_host()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        if not self.shape:
            raise TypeError("iteration over a 0-d array")
        if len(self.shape) == 1 or self._picked is not None:
            return iter(self._read())
        return (self[i] for i in range(self.shape[0]))

    def __contains__(self, value: Any) -> bool:
        return bool(localize(value) in self._read())

    def __bool__(self) -> bool:
        return bool(to_numpy(self._read()))

    def __int__(self) -> int:
        return int(to_numpy(self._read()))

    def __float__(self) -> float:
        return float(to_numpy(self._read()))

    def __complex__(self) -> complex:
        return complex(to_numpy(self._read()))

    def __index__(self) -> int:
        if self.shape:
            raise TypeError("only integer scalar arrays can be converted to a scalar index")
        return operator.index(to_numpy(self._read())[()])

    def __bytes__(self) -> bytes:
        """The elements as NumPy gives them, in the order of C."""
        return bytes(to_numpy(self._read()).tobytes())

    # Other libraries.

    def __dlpack__(self, **options: Any) -> Any:
        """The local view for libraries that speak DLPack; it can be written if the task may write it."""
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _reach.dlpack_device()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The local view for CUDA libraries; absent where the current device is no CUDA GPU."""
        if _reach.dlpack_device()[0] != _reach.DLPACK_CUDA:
            raise AttributeError("__cuda_array_interface__: the current device is not a CUDA GPU")
        interface: dict[str, Any] = self.array.__cuda_array_interface__
        return interface

    def __str__(self) -> str:
        """The contents, as NumPy writes them."""
        return str(to_numpy(self._read()))

    def __format__(self, spec: str) -> str:
        return format(to_numpy(self._read())[()] if not self.shape else str(self), spec)
