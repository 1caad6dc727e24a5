"""Views of arrays as plain numbers: what basic indexing selects, and the box of elements that it lies in.

An array has axes; a view takes from each axis the indices ``start, start + step, ...`` (`Axis`) and shows some of the
axes, in some order, beside axes of length 1 that NumPy calls new. Nothing here knows where any data is.
"""

from __future__ import annotations

from operator import index as as_index
from typing import Any

__all__ = ["NEW", "Axis", "Box", "box_of", "index", "is_basic", "pick", "shadow", "show", "transpose", "whole"]

#: First index, step, number of indices.
Axis = tuple[int, int, int]
#: Start and stop per axis of the array.
Box = tuple[tuple[int, int], ...]
#: Stands for an axis of the view that is none of the array.
NEW = -1

_ALL = slice(None)


def whole(shape: tuple[int, ...]) -> tuple[tuple[Axis, ...], tuple[int, ...]]:
    """The view of everything: its axes, and which of them it shows."""
    return tuple((0, 1, n) for n in shape), tuple(range(len(shape)))


def is_basic(key: tuple[Any, ...]) -> bool:
    """Whether an index consists of integers, slices, ``None`` and ``...`` only, so that it selects a view."""
    for part in key:
        kind = type(part)
        if kind is not int and kind is not slice and part is not None and part is not Ellipsis:
            if kind is bool or not hasattr(kind, "__index__") or getattr(part, "ndim", None):
                return False
            if hasattr(part, "dtype") and part.dtype.kind == "b":
                return False
    return True


def expand(key: tuple[Any, ...], n_dims: int) -> tuple[Any, ...]:
    """The index with ``...`` replaced by the slices that it stands for, one part per axis (and ``None``).

    Raises:
        IndexError: there are more parts than axes, or two ``...``.
    """
    n_axes, dots = 0, None
    for i, part in enumerate(key):
        if part is Ellipsis:
            if dots is not None:
                raise IndexError("an index can only have a single ellipsis ('...')")
            dots = i
        elif part is not None:
            n_axes += _consumed(part)
    if n_axes > n_dims:
        raise IndexError(f"too many indices for array: array is {n_dims}-dimensional, but {n_axes} were indexed")
    missing = (_ALL,) * (n_dims - n_axes)
    if dots is None:
        return key + missing
    return key[:dots] + missing + key[dots + 1 :]


def _consumed(part: Any) -> int:
    """How many axes a part of an index stands for: masks stand for as many as they have."""
    if isinstance(part, bool):
        return 0
    dtype = getattr(part, "dtype", None)
    if dtype is not None and dtype.kind == "b":
        return int(part.ndim)
    return 1


def index(
    axes: tuple[Axis, ...], shown: tuple[int, ...], shape: tuple[int, ...], key: tuple[Any, ...]
) -> tuple[tuple[Axis, ...], tuple[int, ...], tuple[int, ...]]:
    """The view that a basic index of a view selects: its axes, which of them it shows, and its shape.

    Raises:
        IndexError: an integer is out of bounds, or there are too many parts.
    """
    new_axes = list(axes)
    new_shown: list[int] = []
    new_shape: list[int] = []
    position = 0
    if len(key) != len(shape) or None in key or Ellipsis in key:
        key = expand(key, len(shape))
    for part in key:
        if part is None:
            new_shown.append(NEW)
            new_shape.append(1)
            continue
        axis, n = shown[position], shape[position]
        if type(part) is slice:
            first, stop, stride = part.indices(n)
            count = len(range(first, stop, stride))
            if axis >= 0:
                start, step, _ = axes[axis]
                new_axes[axis] = (start + first * step, stride * step, count) if count else (start, 1, 0)
            new_shown.append(axis)
            new_shape.append(count)
        else:
            i = as_index(part)
            if not -n <= i < n:
                raise IndexError(f"index {i} is out of bounds for axis {position} with size {n}")
            if axis >= 0:
                start, step, _ = axes[axis]
                new_axes[axis] = (start + (i + n if i < 0 else i) * step, 1, 1)
        position += 1
    return tuple(new_axes), tuple(new_shown), tuple(new_shape)


def box_of(axes: tuple[Axis, ...]) -> tuple[Box, bool]:
    """The smallest box that contains the view, and whether the view is all of it."""
    box, exact = [], True
    for start, step, count in axes:
        if count == 0:
            box.append((start, start))
        elif step > 0:
            box.append((start, start + (count - 1) * step + 1))
            exact = exact and (step == 1 or count == 1)
        else:
            box.append((start + (count - 1) * step, start + 1))
            exact = exact and (step == -1 or count == 1)
    return tuple(box), exact


def transpose(n_dims: int, order: tuple[Any, ...]) -> tuple[int, ...]:
    """The order of axes that ``transpose(*order)`` means; no arguments reverse them.

    Raises:
        ValueError: it isn't a permutation.
    """
    if len(order) == 1 and (order[0] is None or isinstance(order[0], (tuple, list))):
        order = () if order[0] is None else tuple(order[0])
    if not order and n_dims:
        return tuple(reversed(range(n_dims)))
    numbers = [as_index(axis) for axis in order]
    if sorted(axis + n_dims if axis < 0 else axis for axis in numbers) != list(range(n_dims)):
        raise ValueError(f"axes {tuple(order)} don't match an array of {n_dims} dimensions")
    return tuple(axis % n_dims for axis in numbers)


def pick(shape: tuple[int, ...], key: tuple[Any, ...]) -> tuple[tuple[slice, ...], tuple[Any, ...]]:
    """Split an index with lists, arrays or masks in two: slices that select the box around all that it selects, and
    the index that selects the same in that box.

    Raises:
        IndexError: an index is out of bounds, or something is no index.
    """
    import numpy

    parts = expand(tuple(p if p is Ellipsis else _as_array(p) for p in key), len(shape))
    box: list[slice] = []
    inside: list[Any] = []
    for part in parts:
        if part is None or isinstance(part, bool):
            inside.append(part)
        elif isinstance(part, slice):
            n = shape[len(box)]
            first, stop, step = part.indices(n)
            chosen = range(first, stop, step)
            low, high = (min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1]) + 1) if len(chosen) else (0, 0)
            box.append(slice(low, high))
            inside.append(slice(None, None, step) if len(chosen) else slice(0, 0))
        elif isinstance(part, numpy.ndarray) and part.dtype.kind == "b":
            axis = len(box)
            if part.shape != shape[axis : axis + part.ndim]:
                wrong = next(i for i in range(part.ndim) if part.shape[i] != shape[axis + i])
                raise IndexError(
                    f"boolean index did not match indexed array along axis {axis + wrong}; "
                    f"size of axis is {shape[axis + wrong]} but size of corresponding boolean axis is {part.shape[wrong]}"
                )
            bounds = [slice(int(hit[0]), int(hit[-1]) + 1) if len(hit) else slice(0, 0) for hit in _hits(part)]
            box += bounds
            inside.append(part[tuple(bounds)] if part.ndim else part)
        else:
            numbers, n = numpy.asarray(part), shape[len(box)]
            outside = numbers[(numbers < -n) | (numbers >= n)]
            if outside.size:
                raise IndexError(f"index {outside.flat[0]} is out of bounds for axis {len(box)} with size {n}")
            positive = numpy.where(numbers < 0, numbers + n, numbers)
            low, high = (int(positive.min()), int(positive.max()) + 1) if positive.size else (0, 0)
            box.append(slice(low, high))
            inside.append(int(positive) - low if numbers.ndim == 0 and isinstance(part, int) else positive - low)
    return tuple(box), tuple(inside)


def _hits(mask: Any) -> list[Any]:
    """Per axis of a mask, the indices at which anything is selected."""
    return [
        mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)).nonzero()[0]
        if mask.ndim > 1
        else mask.nonzero()[0]
        for axis in range(mask.ndim)
    ]


def _as_array(part: Any) -> Any:
    """A part of an index as NumPy takes it: ``None``, a bool, an int, a slice, or an array of integers or bools."""
    import numpy

    if part is None or isinstance(part, (bool, int, slice)):
        return part
    if isinstance(part, numpy.bool_):
        return bool(part)
    a = numpy.asarray(part)
    if a.size == 0 and not isinstance(part, numpy.ndarray) and not hasattr(part, "dtype"):
        a = a.astype(numpy.intp)
    if a.dtype.kind == "b":
        return bool(a) if a.ndim == 0 else a
    if a.dtype.kind not in "iu":
        raise IndexError(
            "only integers, slices (`:`), ellipsis (`...`), None and integer or boolean arrays are valid indices, "
            f"not {type(part).__name__} of {a.dtype}"
        )
    return a.astype(numpy.intp, copy=False)


def shadow(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of this shape and type without memory of its own: indexing it shows what indexing does."""
    import numpy

    return numpy.broadcast_to(numpy.zeros((), dtype), shape)


def show(box: Box) -> str:
    """A box as text: ``[0:2, 3:4]``."""
    return f"[{', '.join(f'{start}:{stop}' for start, stop in box)}]"
