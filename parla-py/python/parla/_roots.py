"""Whole arrays: the host's buffer, checked, and the native array over it."""

from __future__ import annotations

import itertools
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from parla import _native

__all__ = ["Root", "checked", "inside", "root_of", "to_numpy"]

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
#: The arrays by (the id of) what owns their memory, which they keep alive: those that could overlap.
_by_owner: dict[int, WeakSet[Root]] = {}


def root_of(host: Any, name: str | None) -> tuple[Root, Any]:
    """The array that a buffer is, or is a part of, and the index that selects the part (None: it is all of it).

    Raises:
        ValueError: it shares elements with an array that it is no part of.
    """
    host = checked(host)
    if not host.nbytes:
        return Root(host, name), None
    # Without strides of axes that don't matter: NumPy puts anything there.
    strides = tuple(stride if n > 1 else 0 for n, stride in zip(host.shape, host.strides))
    key = (host.__array_interface__["data"], host.shape, strides, host.dtype)
    root = _roots.get(key)
    if root is not None and root.dtype == host.dtype:
        return root, None
    owner = _owner(host)
    neighbours = _by_owner.get(owner, ())
    for other in list(neighbours):
        writes = host.flags.writeable, other.host.flags.writeable
        if any(writes) and _overlap(host, other.host):
            part = inside(host, other.host) if writes[1] else None
            if part is None:
                raise ValueError(
                    f"this array of shape {host.shape} and type {host.dtype} shares elements with the PArray {other.name} of "
                    f"shape {other.shape} and type {other.dtype}, and is no slice of it: two PArrays of the same bytes would not "
                    "be kept coherent. Make one PArray of the whole and slice that"
                )
            return other, part
    root = Root(host, name)
    _roots[key] = root
    if not neighbours:
        _forget_the_dead()
        neighbours = _by_owner.setdefault(owner, WeakSet())
    neighbours.add(root)
    return root, None


def _owner(host: Any) -> int:
    owner = host
    while getattr(owner, "base", None) is not None:  # NumPy has other objects than arrays in between
        owner = owner.base
    return id(owner)


def _forget_the_dead() -> None:
    """Drop entries of owners none of whose arrays is left, once there are many."""
    if len(_by_owner) > 64 + 2 * len(_roots):
        for owner in [owner for owner, roots in list(_by_owner.items()) if not roots]:
            _by_owner.pop(owner, None)


def _overlap(one: Any, other: Any) -> bool:
    """Whether two arrays share elements; where that is too hard to tell, whether they may."""
    import numpy

    try:
        return bool(numpy.shares_memory(one, other, max_work=10_000))  # type: ignore[arg-type]
    except numpy.exceptions.TooHardError if hasattr(numpy, "exceptions") else numpy.TooHardError:  # type: ignore[attr-defined]
        return True


def inside(part: Any, whole: Any) -> tuple[tuple[Any, ...], tuple[int, ...]] | None:
    """How to get `part` as a view of `whole`: the index, of integers, slices and None, and the order of axes after that.

    Both are NumPy arrays. None: it is no such view, or `whole` has strides that are not positive.
    """
    if part.dtype != whole.dtype:
        return None
    by_stride = sorted(range(part.ndim), key=lambda axis: -abs(part.strides[axis]))
    if whole.flags.f_contiguous and not whole.flags.c_contiguous:
        by_stride.reverse()
    for axes in (range(part.ndim), by_stride):
        index = _index_of(part.transpose(axes), whole)
        if index is not None:
            return index, tuple(sorted(range(part.ndim), key=lambda axis: axes[axis]))
    return None


def _index_of(part: Any, whole: Any) -> tuple[Any, ...] | None:
    """The index that gives `part` as a view of `whole` with its axes in this order, if there is one."""
    data = part.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    starts = [0] * whole.ndim
    for axis in sorted(range(whole.ndim), key=lambda axis: -whole.strides[axis]):
        if whole.shape[axis] > 1:
            if whole.strides[axis] <= 0:
                return None
            starts[axis], data = divmod(data, whole.strides[axis])
    index: list[Any] = []
    axis = 0
    for n, stride in zip(part.shape, part.strides):
        if n == 1:
            index.append(None)
            continue
        while axis < whole.ndim and not _is_step(stride, n, whole, axis):
            index.append(starts[axis])
            axis += 1
        if axis == whole.ndim:
            return None
        first, step = starts[axis], stride // whole.strides[axis]
        stop = first + step * n
        index.append(slice(first, stop if stop >= 0 else None, step))
        axis += 1
    index += starts[axis:]
    found = tuple(index)
    try:
        view = whole[found]
    except IndexError:
        return None
    same_place = view.__array_interface__["data"][0] == part.__array_interface__["data"][0]
    strides = [(a, b) for a, b, n in zip(view.strides, part.strides, part.shape) if n > 1]
    return found if same_place and view.shape == part.shape and all(a == b for a, b in strides) else None


def _is_step(stride: int, n: int, whole: Any, axis: int) -> bool:
    """Whether an axis of `n` elements that are `stride` bytes apart can be one of `whole`."""
    return (
        whole.shape[axis] >= n
        and stride % whole.strides[axis] == 0
        and abs(stride // whole.strides[axis]) * (n - 1) < whole.shape[axis]
    )


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
