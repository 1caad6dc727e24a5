"""Devices, architectures, memories and the requirements a task can state about them.

An `Architecture` (such as `parla.cpu.cpu`) stands for "any device of this kind", a `Device` for one of
them. Both can be written as the ``placement`` of a task. Nothing here needs a running Parla program.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypedDict, Union, overload

from parla._earlier import EarlierDevice

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "Architecture",
    "Device",
    "DeviceRequirement",
    "Gib",
    "Memory",
    "MemoryKind",
    "Mib",
    "Resources",
    "get_all_architectures",
    "get_all_devices",
    "get_architecture",
    "kib",
]

#: Bytes in a kibibyte, a mebibyte and a gibibyte: ``memory=2 * Gib``.
kib = 2**10
Mib = 2**20
Gib = 2**30

#: A device has this many thousandths of a vcu: the unit in which claims are counted.
MILLI_VCUS = 1000

# Devices of a higher index are made anew each time, so that wrong indices can't fill the memory.
_MAX_NAMED = 1024

#: What one slot of a placement can be.
Target = Union["Architecture", "Device", "DeviceRequirement"]


class _Cores(TypedDict, total=False):
    cores: int
    """Processor cores; CPU devices only."""


class Resources(_Cores):
    """What a device has to give to tasks."""

    vcus: float
    """Virtual compute units: always 1.0, the whole device."""
    memory: int
    """Bytes of memory."""


class MemoryKind(Enum):
    """Which kind of a device's memory is meant."""

    Fast = "local memory or cache prefetched"
    Slow = "DRAM or similar conventional memory"


def format_bytes(n: int) -> str:
    """Write a number of bytes for people: ``30 GiB``, ``1.5 MiB``, ``12 bytes``."""
    if n.bit_length() > 80:
        return f"more than 2**{n.bit_length() - 1} bytes"
    for unit, name in ((Gib * 1024, "TiB"), (Gib, "GiB"), (Mib, "MiB"), (kib, "KiB")):
        if n >= unit:
            return f"{n / unit:.4g} {name}"
    return f"{n} bytes"


def _real(value: object, name: str, unit: str) -> float | int:
    """Check that `value` is a finite number that isn't negative."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number ({unit}), not {type(value).__name__}")
    if isinstance(value, Integral):
        number: float | int = int(value)
    else:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {value!r}")
    if number < 0:
        raise ValueError(f"{name} can't be negative, got {value!r}")
    return number


def parse_vcus(value: object, name: str = "vcus") -> int:
    """Turn a fraction of a device into thousandths of it.

    Fractions round down, so that ``n`` tasks of ``1/n`` fit together on one device; what is above zero
    claims one thousandth at least.

    Raises:
        TypeError: `value` is not a number.
        ValueError: it is negative, infinite or not a number (NaN).
    """
    number = _real(value, name, "a fraction of a device, 1 is all of it")
    if isinstance(number, int):
        return number * MILLI_VCUS
    if number >= 1e15:
        return int(number) * MILLI_VCUS
    return max(math.floor(number * MILLI_VCUS + 1e-6), 1 if number > 0 else 0)


def parse_memory(value: object, name: str = "memory") -> int:
    """Turn an amount of memory into whole bytes, rounding up.

    Raises:
        TypeError: `value` is not a number.
        ValueError: it is negative, infinite or not a number (NaN).
    """
    return math.ceil(_real(value, name, "bytes"))


class _Multipliable:
    """``target * n``: one option that asks for `n` different devices at once."""

    __slots__ = ()

    def __mul__(self, n: int) -> tuple[Any, ...]:
        if isinstance(n, bool) or not isinstance(n, Integral):
            return NotImplemented
        if n < 1:
            raise ValueError(f"a task needs at least one device, got {self!r} * {n}")
        return (self,) * int(n)

    __rmul__ = __mul__


class Architecture(_Multipliable):
    """All devices of one kind, for example `parla.cpu.cpu`.

    ``cpu(0)`` and ``cpu[0]`` are its first device, ``cpu[0:2]`` a list of devices (alternatives),
    ``cpu * 2`` one option of two different devices, and ``cpu[{"vcus": .5, "memory": 2**30}]`` any of its
    devices, with half of its compute and 1 GiB of its memory reserved for the task.
    """

    __slots__ = ("_named", "id", "name")

    _named: dict[int, Device]
    """Devices that were asked for by index, so that the same one is the same object: placements are remembered so."""

    def __init__(self, name: str, id: str | None = None) -> None:
        """Make an architecture; `id` is what identifies it (the name, if None)."""
        self.name = name
        self.id = name if id is None else id
        self._named = {}

    @property
    def devices(self) -> list[Device]:
        """The devices that this process can use, in index order; as a placement: any of them."""
        raise NotImplementedError(f"{type(self).__name__} must define devices")

    @property
    def num_devices(self) -> int:
        """How many devices there are."""
        return len(self.devices)

    @property
    def unavailable(self) -> str | None:
        """Why there is no device of this architecture; None where there is one."""
        return None

    def resources_of(self, index: int) -> Resources:
        """What device `index` has to give; `Device.resources` asks for it."""
        raise NotImplementedError(f"{type(self).__name__} must define resources_of")

    def host_access(self, index: int) -> bool:
        """Whether the CPU can read and write the memory of device `index`: CPUs and simulated GPUs."""
        return True

    def __len__(self) -> int:
        return self.num_devices

    def __iter__(self) -> Iterator[Device]:
        return iter(self.devices)

    def __contains__(self, device: object) -> bool:
        return device in self.devices

    def __call__(self, index: int) -> Device:
        """Name device `index`. Whether it exists is checked when a task is placed on it.

        Raises:
            TypeError: `index` is not an integer.
            ValueError: it is negative.
        """
        if isinstance(index, bool) or not isinstance(index, Integral):
            raise TypeError(f"{self.name}(index): index must be an integer, not {type(index).__name__}")
        if index < 0:
            raise ValueError(f"{self.name}(index): index can't be negative, got {index}")
        index = int(index)
        if index >= _MAX_NAMED:
            return Device(self, index)
        return self._named.setdefault(index, Device(self, index))

    @overload
    def __getitem__(self, key: int) -> Device: ...
    @overload
    def __getitem__(self, key: slice) -> list[Device]: ...
    @overload
    def __getitem__(self, key: Mapping[str, float]) -> DeviceRequirement: ...
    def __getitem__(self, key: int | slice | Mapping[str, float]) -> Device | list[Device] | DeviceRequirement:
        """One device, a list of devices, or this architecture with requirements.

        Raises:
            IndexError: there is no such device.
            TypeError, ValueError: the requirements are not ``{"vcus": fraction, "memory": bytes}``.
        """
        if isinstance(key, Mapping):
            return DeviceRequirement.parse(self, key)
        if isinstance(key, slice):
            return list(self.devices[key])
        if isinstance(key, bool) or not isinstance(key, Integral):
            raise TypeError(
                f"{self.name}[...] takes a device's index, a slice or a dict of requirements, not {type(key).__name__}"
            )
        devices = self.devices
        if not -len(devices) <= key < len(devices):
            raise IndexError(f"{self.name}[{key}]: {self.describe_devices()}")
        return devices[int(key)]

    def memory(self, kind: MemoryKind | None = None) -> Memory:
        """The memory of the first device.

        Raises:
            IndexError: there is no device.
        """
        return self[0].memory(kind)

    def describe_devices(self) -> str:
        """Say how many devices there are: ``this machine has 1 cpu device``."""
        n = self.num_devices
        if n == 0 and self.unavailable:
            return self.unavailable
        return f"this machine has {n or 'no'} {self.name} device{'s' if n != 1 else ''}"

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Architecture) else NotImplemented

    def __hash__(self) -> int:
        return hash(("parla.Architecture", self.id))

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return get_architecture, (self.id,)


class Device(_Multipliable, EarlierDevice):
    """One device: ``cpu(0)``, the same as any of that architecture and index. In a task ``with device:`` makes it the current one."""

    __slots__ = ("architecture", "index")
    architecture: Architecture
    index: int

    def __init__(self, architecture: Architecture, index: int) -> None:
        """Name device `index` of `architecture`; `Architecture.__call__` is the usual way."""
        self.architecture = architecture
        self.index = index

    @property
    def id(self) -> int:
        """The index among the devices of its architecture."""
        return self.index

    @property
    def name(self) -> str:
        """For people: ``cpu(0)``."""
        return f"{self.architecture.name}({self.index})"

    @property
    def exists(self) -> bool:
        """Whether this process has the device."""
        return self.index < self.architecture.num_devices

    @property
    def resources(self) -> Resources:
        """What the device has: ``{"vcus": 1.0, "memory": bytes}``, and for CPUs ``"cores": n``.

        Raises:
            IndexError: the device does not exist.
        """
        if not self.exists:
            raise IndexError(f"{self.name} does not exist: {self.architecture.describe_devices()}")
        return self.architecture.resources_of(self.index)

    def memory(self, kind: MemoryKind | None = None) -> Memory:
        """The device's memory of that kind (None: any)."""
        return Memory(self, kind)

    @property
    def np(self) -> ModuleType:
        """The module with NumPy's interface for arrays on this device: CuPy on CUDA GPUs, else NumPy.

        Raises:
            IndexError: the device does not exist.
            ImportError: it is a CUDA GPU and CuPy is not installed.
        """
        return self.memory().np

    def __getitem__(self, requirements: Mapping[str, float]) -> DeviceRequirement:
        """This device with requirements: ``cpu(0)[{"vcus": .5}]``."""
        if not isinstance(requirements, Mapping):
            raise TypeError(f"{self.name}[...] takes a dict of requirements, not {type(requirements).__name__}")
        return DeviceRequirement.parse(self, requirements)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Device):
            return NotImplemented
        return self.index == other.index and self.architecture == other.architecture

    def __hash__(self) -> int:
        return hash((self.architecture, self.index))

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return self.architecture, (self.index,)


@dataclass(frozen=True)
class DeviceRequirement(_Multipliable):
    """An architecture or a device together with what a task reserves there.

    None leaves the amount to ``spawn``'s own ``vcus=`` and ``memory=``.
    """

    target: Architecture | Device
    """Where."""
    vcus: int | None = None
    """Thousandths of the device's compute."""
    memory: int | None = None
    """Bytes."""

    @classmethod
    def parse(cls, target: Architecture | Device, requirements: Mapping[str, float]) -> DeviceRequirement:
        """Read ``{"vcus": fraction of a device, "memory": bytes}``.

        Raises:
            TypeError: an amount is not a number.
            ValueError: an amount is negative or not finite, or its name is unknown.
        """
        for key in requirements:
            if key not in ("vcus", "memory"):
                raise ValueError(f"{target!r}[...]: unknown requirement {key!r}; known are 'vcus' and 'memory'")
        vcus, memory = requirements.get("vcus"), requirements.get("memory")
        return cls(
            target,
            None if vcus is None else parse_vcus(vcus, f"{target!r}[...]['vcus']"),
            None if memory is None else parse_memory(memory, f"{target!r}[...]['memory']"),
        )

    @property
    def architecture(self) -> Architecture:
        """The architecture of the target."""
        return self.target.architecture if isinstance(self.target, Device) else self.target

    def __repr__(self) -> str:
        parts = []
        if self.vcus is not None:
            parts.append(f"'vcus': {self.vcus / MILLI_VCUS:g}")
        if self.memory is not None:
            parts.append(f"'memory': {self.memory}")
        return f"{self.target!r}[{{{', '.join(parts)}}}]"


class Memory:
    """A memory of a device; calling it with an array copies the array there."""

    __slots__ = ("device", "kind")

    def __init__(self, device: Device, kind: MemoryKind | None = None) -> None:
        """Name the memory of that kind (None: any) on `device`."""
        if not isinstance(device, Device):
            raise TypeError(f"device must be a Device such as cpu(0), not {type(device).__name__}")
        if kind is not None and not isinstance(kind, MemoryKind):
            raise TypeError(f"kind must be a MemoryKind or None, not {type(kind).__name__}")
        self.device = device
        self.kind = kind

    @property
    def np(self) -> ModuleType:
        """The module with NumPy's interface for arrays in this memory: CuPy on CUDA GPUs, else NumPy.

        Raises:
            IndexError: the device does not exist.
            ImportError: it is a CUDA GPU and CuPy is not installed, or can't use it.
        """
        self._check()
        if not self.device.architecture.host_access(self.device.index):
            from parla import _libraries

            cupy = importlib.import_module("cupy")
            error = _libraries.why_not("cupy")
            if error is not None:
                raise ImportError(f"CuPy can't use this machine's GPUs: {error}") from error
            return cupy
        import numpy

        return numpy

    def __call__(self, array: Any) -> Any:
        """Copy `array` into this memory; the result shares nothing with it.

        It is a NumPy array on CPUs and simulated GPUs (there it lives in the simulated memory), and on CUDA GPUs a CuPy array, or a
        `DeviceArray` where CuPy is not installed.

        Raises:
            TypeError: `array` is not an array.
            IndexError: the device does not exist.
            DeviceOutOfMemory: the memory is full.
        """
        from parla import array as arrays

        self._check()
        return arrays.clone_to(self.device, array)

    def _check(self) -> None:
        if not self.device.exists:
            raise IndexError(f"{self.device.name} does not exist: {self.device.architecture.describe_devices()}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Memory):
            return NotImplemented
        return self.device == other.device and self.kind == other.kind

    def __hash__(self) -> int:
        return hash((self.device, self.kind))

    def __repr__(self) -> str:
        kind = f"MemoryKind.{self.kind.name}" if self.kind is not None else ""
        return f"{self.device!r}.memory({kind})"


_architectures: dict[str, Architecture] = {}
_defaults: list[Architecture] = []


def register_architecture(architecture: Architecture) -> None:
    """Make an architecture known to `get_all_architectures` and to placement.

    Raises:
        ValueError: there is another one of that id.
    """
    if _architectures.setdefault(architecture.id, architecture) is not architecture:
        raise ValueError(f"architecture {architecture.id!r} is already registered")


def use_by_default(architecture: Architecture) -> None:
    """Let tasks without a placement run on this architecture; importing `parla.cuda` does that for GPUs."""
    if architecture not in _defaults:
        _defaults.append(architecture)
        from parla import _placement

        _placement.forget()


def get_default_architectures() -> list[Architecture]:
    """Where tasks without a placement may run: the CPU, and what was asked for by its import."""
    from parla.cpu import cpu

    return [cpu, *_defaults]


def get_all_architectures() -> list[Architecture]:
    """The architectures that have been imported; the CPU always is one."""
    from parla.cpu import cpu

    return [cpu, *(a for a in _architectures.values() if a is not cpu)]


def get_all_devices() -> list[Device]:
    """All devices of all imported architectures."""
    return [device for architecture in get_all_architectures() for device in architecture.devices]


def get_architecture(name: str) -> Architecture:
    """The architecture of that name, such as ``"cpu"``.

    Raises:
        ValueError: no architecture of that name has been imported.
    """
    known = {architecture.id: architecture for architecture in get_all_architectures()}
    if name not in known:
        raise ValueError(f"no architecture is called {name!r}; known are {', '.join(map(repr, known))}")
    return known[name]
