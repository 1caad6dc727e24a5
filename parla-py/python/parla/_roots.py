"""Whole arrays: the host's buffer, checked, and the native array over it."""

from __future__ import annotations

import itertools
from typing import Any
from weakref import WeakValueDictionary

from parla import _native

__all__ = ["Root", "checked", "root_of", "to_numpy"]

_NEW_NAMES = itertools.count()


class Root:
    """A whole array: the host's buffer and the native array over it."""

    __slots__ = ("__weakref__", "dtype", "host", "name", "native", "operand", "shape", "writable")

    def __init__(self, host: Any, name: str | None) -> None:
        self.host = host
        self.name = f"array_{next(_NEW_NAMES)}" if name is None else name
        self.writable = bool(host.flags.writeable) and not _may_overlap_itself(host)
        if not self.writable and host.flags.writeable:
            host = host.view()
            host.flags.writeable = False
            self.host = host
        self.native = _native.Array(host, self.name)
        self.shape: tuple[int, ...] = host.shape
        self.dtype = host.dtype
        self.operand = (self.native, tuple((0, n) for n in host.shape), True)


#: The arrays by the buffer that they stand for, so that the same buffer is the same array.
_roots: WeakValueDictionary[tuple[Any, ...], Root] = WeakValueDictionary()


def root_of(host: Any, name: str | None) -> Root:
    host = checked(host)
    # Without strides of axes that don't matter: NumPy puts anything there.
    strides = tuple(stride if n > 1 else 0 for n, stride in zip(host.shape, host.strides))
    key = (host.__array_interface__["data"], host.shape, strides, host.dtype)
    root = _roots.get(key) if host.nbytes else None
    if root is None or root.dtype != host.dtype:
        root = Root(host, name)
        if host.nbytes:
            _roots[key] = root
    return root


def checked(host: Any) -> Any:
    """A NumPy array whose elements are bytes and nothing else.

    Raises:
        TypeError: they aren't; the text names the type.
    """
    import numpy

    if host.dtype.hasobject or not isinstance(host.dtype, numpy.dtype) or host.dtype.kind not in "?biufcmMSUVO":
        raise TypeError(
            f"an array of {host.dtype} can't be a PArray: its elements are references to Python objects, which can't be "
            "moved to another memory"
        )
    return host if type(host) is numpy.ndarray else numpy.asarray(host)


def _may_overlap_itself(host: Any) -> bool:
    """Whether two elements may be at the same place, as in broadcast arrays and sliding windows."""
    if host.flags.forc or host.size == 0:
        return False
    reached = int(host.dtype.itemsize)
    for stride, n in sorted((abs(stride), n) for n, stride in zip(host.shape, host.strides) if n > 1):
        if stride < reached:
            return True
        reached = stride * n
    return False


def to_numpy(value: Any, copy: bool = False) -> Any:
    """A NumPy array of what another library, or NumPy itself, made."""
    import numpy
    from parla import array as arrays

    if not isinstance(value, numpy.ndarray):
        if arrays.is_array(value) and not hasattr(type(value), "__parla_operand__"):
            value = arrays.asnumpy(value)
        else:
            return numpy.asarray(value)
    return value.copy(order="K") if copy else value
