"""Logical devices: arrangements of parts of the data, mapped onto the physical devices there are.

    mapper = LDeviceSequenceBlocked(8, placement=gpu)      # eight parts on however many GPUs
    parts = mapper.partition_tensor(a)                     # each part in the memory of its device

Indices of logical devices count from 0 and end before the number of logical devices, and so do the slices: everything
here excludes its end.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import index as as_index
from typing import Any
from warnings import warn

from parla import _placement
from parla.array import clone_here, copy, get_memory, is_array
from parla.device import Architecture, Device, DeviceRequirement, Memory, MemoryKind, get_all_devices
from parla.errors import PlacementError

__all__ = [
    "LDeviceCollection",
    "LDeviceGrid",
    "LDeviceGridBlocked",
    "LDeviceGridRaveled",
    "LDeviceSequence",
    "LDeviceSequenceBlocked",
    "PartitionedTensor",
    "PerformanceWarning",
]


class PerformanceWarning(RuntimeWarning):
    """Something works, but not as fast as it could."""


def _physical_devices(placement: Any) -> tuple[Device, ...]:
    """All devices that a placement names, each once, in its order; None stands for all there are.

    Raises:
        PlacementError: it names none.
        TypeError: it isn't a placement.
    """
    found: dict[Device, None] = {}
    for part in (
        get_all_devices() if placement is None else placement if isinstance(placement, (list, tuple)) else [placement]
    ):
        if isinstance(part, (list, tuple)):
            found.update(dict.fromkeys(_physical_devices(part)))
            continue
        target = part.target if isinstance(part, DeviceRequirement) else part
        if isinstance(target, Architecture):
            found.update(dict.fromkeys(target.devices))
        elif isinstance(target, Device):
            if not target.exists:
                raise PlacementError(f"{target!r} does not exist: {target.architecture.describe_devices()}")
            found[target] = None
        elif is_array(target):
            found[get_memory(target).device] = None
        else:
            found.update(dict.fromkeys(_placement.resolve(target).devices))
    if not found:
        raise PlacementError(f"placement={placement!r} names no device of this machine")
    return tuple(found)


def _warn(text: str) -> None:
    """Warn at the line of the program that called into this module, through however many of its functions."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals is globals():
        level, frame = level + 1, frame.f_back
    warn(PerformanceWarning(text), stacklevel=level)


def _positive(value: Any, name: str) -> int:
    if not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    number = as_index(value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


def _split(n: int) -> tuple[int, int]:
    """The two factors of `n` that are nearest to each other, the smaller one first."""
    smaller = next(m for m in range(int(n**0.5), 0, -1) if n % m == 0)
    return smaller, n // smaller


class LDeviceCollection(ABC):
    """Logical devices mapped to physical ones."""

    def __init__(self, n_ldevices: int, placement: Any = None) -> None:
        """Find the physical devices.

        Args:
            n_ldevices: how many logical devices there are.
            placement: the physical devices to use; None is all there are.

        Raises:
            PlacementError: `placement` names no device.
        """
        devices = _physical_devices(placement)
        if n_ldevices < len(devices):
            _warn(
                f"{n_ldevices} logical devices can't keep {len(devices)} devices busy; "
                f"unused: {', '.join(map(repr, devices[n_ldevices:]))}"
            )
            devices = devices[:n_ldevices]
        self._devices = devices

    @property
    def devices(self) -> list[Device]:
        """The physical devices used; as a placement: any of them."""
        return list(self._devices)

    @property
    def n_devices(self) -> int:
        """How many physical devices are used."""
        return len(self._devices)

    @property
    @abstractmethod
    def n_ldevices(self) -> int:
        """How many logical devices there are."""

    @abstractmethod
    def device(self, *index: int) -> Device:
        """The physical device of a logical one.

        Raises:
            ValueError: there is no such logical device.
        """

    def memory(self, *index: int, kind: MemoryKind | None = None) -> Memory:
        """The memory of the physical device of a logical one."""
        return self.device(*index).memory(kind)

    @property
    @abstractmethod
    def assignments(self) -> Mapping[tuple[int, ...], Device]:
        """The physical device of each logical one, by its index."""


class LDeviceSequence(LDeviceCollection):
    """Logical devices in a row."""

    def __init__(self, n_ldevices: int, placement: Any = None) -> None:
        self._n_ldevices = _positive(n_ldevices, "n_ldevices")
        super().__init__(self._n_ldevices, placement)

    @property
    def n_ldevices(self) -> int:
        """How many logical devices there are."""
        return self._n_ldevices

    def partition(self, data: Callable[..., Any], memory_kind: MemoryKind | None = None) -> PartitionedTensor:
        """Make the data of each logical device and copy it there.

        Args:
            data: called with the index of each logical device, and with ``device=`` and ``memory=`` if it has such
                parameters; returns an array.
            memory_kind: the kind of memory to copy to.
        """
        make = _with_device(data)
        return PartitionedTensor(
            [make((i,), self.device(i), self.memory(i, kind=memory_kind)) for i in range(self.n_ldevices)]
        )

    def partition_tensor(self, data: Any, overlap: int = 0, memory_kind: MemoryKind | None = None) -> PartitionedTensor:
        """Divide an array along its first dimension, with `overlap` elements of each neighbour, and copy the parts.

        Raises:
            TypeError: it is no array.
            ValueError: it has no dimension, or `overlap` is negative.
        """
        (n,) = _lengths(data, 1)
        return self.partition(lambda i: data[self.slice(i, n, overlap=overlap)], memory_kind=memory_kind)

    def slice(self, i: int, n: int, step: int = 1, *, overlap: int = 0) -> slice:
        """What of a sequence of length `n` belongs to logical device `i`, together with `overlap` elements on each side.

        Args:
            i: the logical device.
            n: the length of the sequence.
            step: the step within the part; with another one than 1 the parts don't cover the sequence.
            overlap: how many elements to add on each side, as far as there are any.

        Raises:
            ValueError: there is no such logical device, or `overlap` is negative.
        """
        return _part(i, n, self.n_ldevices, step, overlap)

    @property
    def assignments(self) -> dict[tuple[int, ...], Device]:
        """The physical device of each logical one, by its index."""
        return {(i,): self.device(i) for i in range(self.n_ldevices)}


class LDeviceGrid(LDeviceCollection):
    """Logical devices in a grid."""

    n_ldevices_x: int
    """How many along the first dimension."""
    n_ldevices_y: int
    """How many along the second dimension."""

    def __init__(self, n_ldevices_x: int, n_ldevices_y: int, placement: Any = None) -> None:
        self.n_ldevices_x = _positive(n_ldevices_x, "n_ldevices_x")
        self.n_ldevices_y = _positive(n_ldevices_y, "n_ldevices_y")
        super().__init__(self.n_ldevices, placement)

    @property
    def n_ldevices(self) -> int:
        """How many logical devices there are."""
        return self.n_ldevices_x * self.n_ldevices_y

    def partition(self, data: Callable[..., Any], memory_kind: MemoryKind | None = None) -> PartitionedTensor:
        """Make the data of each logical device and copy it there.

        Args:
            data: called with the two indices of each logical device, and with ``device=`` and ``memory=`` if it has such
                parameters; returns an array.
            memory_kind: the kind of memory to copy to.

        Returns:
            Rows of parts: ``[i, j]`` is that of logical device (i, j).
        """
        make = _with_device(data)
        return PartitionedTensor(
            [
                [make((i, j), self.device(i, j), self.memory(i, j, kind=memory_kind)) for j in range(self.n_ldevices_y)]
                for i in range(self.n_ldevices_x)
            ]
        )

    def partition_tensor(self, data: Any, overlap: int = 0, memory_kind: MemoryKind | None = None) -> PartitionedTensor:
        """Divide an array along its first two dimensions, with `overlap` elements of each neighbour, and copy the parts.

        Raises:
            TypeError: it is no array.
            ValueError: it has fewer than two dimensions, or `overlap` is negative.
        """
        n_x, n_y = _lengths(data, 2)
        return self.partition(
            lambda i, j: data[self.slice_x(i, n_x, overlap=overlap), self.slice_y(j, n_y, overlap=overlap)],
            memory_kind=memory_kind,
        )

    def slice_x(self, i: int, n: int, step: int = 1, *, overlap: int = 0) -> slice:
        """What of the first dimension, of length `n`, belongs to row `i` of the grid; as `LDeviceSequence.slice`."""
        return _part(i, n, self.n_ldevices_x, step, overlap)

    def slice_y(self, j: int, n: int, step: int = 1, *, overlap: int = 0) -> slice:
        """What of the second dimension, of length `n`, belongs to column `j` of the grid; as `LDeviceSequence.slice`."""
        return _part(j, n, self.n_ldevices_y, step, overlap)

    @property
    def assignments(self) -> dict[tuple[int, ...], Device]:
        """The physical device of each logical one, by its indices."""
        return {(i, j): self.device(i, j) for i in range(self.n_ldevices_x) for j in range(self.n_ldevices_y)}

    def _check(self, i: int, j: int) -> None:
        if not (0 <= i < self.n_ldevices_x and 0 <= j < self.n_ldevices_y):
            raise ValueError(f"no logical device ({i}, {j}) in a grid of {self.n_ldevices_x} x {self.n_ldevices_y}")


class LDeviceSequenceBlocked(LDeviceSequence):
    """Logical devices in a row; neighbours share a physical device."""

    def device(self, i: int) -> Device:  # type: ignore[override]
        """The physical device of logical device `i`.

        Raises:
            ValueError: there is no such logical device.
        """
        if not 0 <= i < self.n_ldevices:
            raise ValueError(f"no logical device {i} in a row of {self.n_ldevices}")
        return self._devices[i * self.n_devices // self.n_ldevices]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n_ldevices})<{self.n_devices}>"


class LDeviceGridBlocked(LDeviceGrid):
    """Logical devices in a grid; rectangles of them share a physical device, which form a grid themselves."""

    def __init__(self, n_ldevices_x: int, n_ldevices_y: int, placement: Any = None) -> None:
        super().__init__(n_ldevices_x, n_ldevices_y, placement)
        self._n, self._m = self._grid()
        if self._n * self._m < self.n_devices:
            _warn(
                f"{self.n_devices} devices form no grid that divides {self.n_ldevices_x} x {self.n_ldevices_y}; "
                f"unused: {', '.join(map(repr, self._devices[self._n * self._m :]))}"
            )
            self._devices = self._devices[: self._n * self._m]

    def _grid(self) -> tuple[int, int]:
        """The grid of physical devices: of all of them if they form one that isn't larger than that of the logical ones."""
        for n_devices in range(self.n_devices, 0, -1):
            smaller, larger = _split(n_devices)
            shapes = [(smaller, larger), (larger, smaller)]
            if self.n_ldevices_x > self.n_ldevices_y:
                shapes.reverse()
            shapes += [(n_devices, 1), (1, n_devices)]
            for n, m in shapes:
                if n <= self.n_ldevices_x and m <= self.n_ldevices_y:
                    return n, m
        return 1, 1

    def device(self, i: int, j: int) -> Device:  # type: ignore[override]
        """The physical device of logical device (i, j).

        Raises:
            ValueError: there is no such logical device.
        """
        self._check(i, j)
        return self._devices[i * self._n // self.n_ldevices_x * self._m + j * self._m // self.n_ldevices_y]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n_ldevices_x}, {self.n_ldevices_y})<{self._n}, {self._m}>"


class LDeviceGridRaveled(LDeviceGrid):
    """Logical devices in a grid; physical ones are shared as if its rows were one after another in a row."""

    def device(self, i: int, j: int) -> Device:  # type: ignore[override]
        """The physical device of logical device (i, j).

        Raises:
            ValueError: there is no such logical device.
        """
        self._check(i, j)
        return self._devices[(i * self.n_ldevices_y + j) * self.n_devices // self.n_ldevices]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n_ldevices_x}, {self.n_ldevices_y})<{self.n_devices}>"


def _part(i: int, n: int, n_parts: int, step: int, overlap: int) -> slice:
    if not 0 <= i < n_parts:
        raise ValueError(f"no part {i} of {n_parts}")
    if not hasattr(overlap, "__index__"):
        raise TypeError(f"overlap must be an integer, not {type(overlap).__name__}")
    if overlap < 0:
        raise ValueError(f"overlap can't be negative, got {overlap}")
    start, stop = -(-i * n // n_parts), -(-(i + 1) * n // n_parts)
    return slice(max(0, start - overlap), min(n, stop + overlap), step)


def _lengths(data: Any, n_dims: int) -> tuple[int, ...]:
    if not hasattr(data, "shape"):
        raise TypeError(f"an array is expected, to be divided, not {type(data).__name__}")
    shape = tuple(data.shape)
    if len(shape) < n_dims:
        raise ValueError(f"an array of shape {shape} can't be divided along {n_dims} dimension(s)")
    return shape[:n_dims]


def _with_device(data: Callable[..., Any]) -> Callable[[tuple[int, ...], Device, Memory], Any]:
    """Call `data` with the keywords it wants, and copy what it returns."""
    try:
        parameters = inspect.signature(data).parameters
    except (TypeError, ValueError):  # some builtins don't tell
        parameters = {}  # type: ignore[assignment]
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())

    def make(index: tuple[int, ...], device: Device, memory: Memory) -> Any:
        given = {"device": device, "memory": memory}
        return memory(data(*index, **{name: v for name, v in given.items() if takes_all or name in parameters}))

    return make


class PartitionedTensor:
    """The parts of an array, each in the memory of a device.

    Reading a part gives a copy in the memory of the current device, or a list of copies for several; assigning copies
    into the part, wherever it is. Slices and integers select as for lists, in each dimension; what selects one part, also
    ``parts[i : i + 1]``, gives the part, as in version 0.2.
    """

    def __init__(self, latest_view: list[Any]) -> None:
        """Wrap a list of parts, or a list of rows of them."""
        self._parts = latest_view

    @property
    def base(self) -> list[Any]:
        """The parts themselves, in a list or in rows; nothing moves."""
        return self._parts

    @property
    def _latest_view(self) -> list[Any]:
        """What programs of version 0.2 use though it is private: `base`."""
        return self._parts

    @property
    def devices(self) -> list[Device]:
        """The devices that have the parts, each once."""
        return list(dict.fromkeys(get_memory(part).device for part in _flat(self._parts) if is_array(part)))

    @property
    def types(self) -> list[Any]:
        """The classes of the parts, in a list or in rows."""
        return _map(type, self._parts)

    def __getitem__(self, index: Any) -> Any:
        """A copy of the part here; a list of copies if the index selects several.

        Raises:
            IndexError: there is no such part, or the index has more dimensions than the parts.
        """
        chosen, single = self._choose(index)
        parts = [_here(row[position]) for row, position in chosen]
        return parts[0] if single else parts

    def __setitem__(self, index: Any, value: Any) -> None:
        """Copy `value` into each part that the index selects. A part of another shape is replaced by a copy where it is, a part that is no array by
        one where `value` is; None gives the parts up.

        Raises:
            IndexError: there is no such part.
        """
        for row, position in self._choose(index)[0]:
            part = row[position]
            if value is None or not is_array(part) or (is_array(value) and _shape(value) != _shape(part)):
                if value is not None and is_array(part):
                    _warn(f"a part of shape {_shape(part)} is replaced by one of shape {_shape(value)}")
                    row[position] = get_memory(part)(value)
                else:
                    row[position] = get_memory(value)(value) if is_array(value) else value
            else:
                copy(part, value)

    def _choose(self, index: Any) -> tuple[list[tuple[list[Any], int]], bool]:
        """The places of the parts that an index selects, and whether that is one, and no row of a grid."""
        parts = index if isinstance(index, tuple) else (index,)
        chosen = list(_places(self._parts, parts))
        single = len(chosen) == 1
        if any(isinstance(row[position], list) for row, position in chosen):
            chosen = [place for row, position in chosen for place in _places(row[position], (slice(None),))]
            single = False
        return chosen, single

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"<PartitionedTensor of {sum(1 for _ in _flat(self._parts))} parts>"


def _places(parts: list[Any], index: tuple[Any, ...]) -> Iterator[tuple[list[Any], int]]:
    first, *rest = index
    if isinstance(first, slice):
        numbers: Iterable[int] = range(*first.indices(len(parts)))
    else:
        is_list = isinstance(first, Iterable) and not isinstance(first, str) and not hasattr(first, "__index__")
        numbers = [_number(i) for i in (first if is_list else (first,))]
    for i in numbers:
        if not -len(parts) <= i < len(parts):
            raise IndexError(f"no part {i} of {len(parts)}")
        if not rest:
            yield parts, i
        elif isinstance(parts[i], list):
            yield from _places(parts[i], tuple(rest))
        else:
            raise IndexError(f"the parts have fewer dimensions than the index {index!r}")


def _number(i: Any) -> int:
    if isinstance(i, bool) or not hasattr(i, "__index__"):
        raise TypeError(f"parts are selected by integers, slices and lists of integers, not {type(i).__name__}")
    return as_index(i)


def _here(part: Any) -> Any:
    return clone_here(part) if is_array(part) else part


def _flat(parts: list[Any]) -> Iterator[Any]:
    for part in parts:
        if isinstance(part, list):
            yield from _flat(part)
        else:
            yield part


def _map(function: Callable[[Any], Any], parts: list[Any]) -> list[Any]:
    return [_map(function, part) if isinstance(part, list) else function(part) for part in parts]


def _shape(a: Any) -> tuple[int, ...]:
    return tuple(a.shape)
