"""From what a user writes as ``placement=`` to the devices and claims of a task.

A placement is a tree of at most three levels: a list of alternatives, of which each is a target (an
architecture, a device, either with requirements, a task, an array) or a tuple of targets (one option that
takes several different devices). `resolve` checks it against the machine, so that what can never run is
refused where it is spawned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from parla.cpu import cpu, one_device_per_core
from parla.device import (
    MILLI_VCUS,
    Architecture,
    Device,
    DeviceRequirement,
    format_bytes,
    get_all_architectures,
    parse_memory,
    parse_vcus,
)
from parla.errors import PlacementError

__all__ = ["Placement", "resolve"]

_ANY_WORKER = -1
_CACHE_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a task may run and what it claims there."""

    devices: tuple[Device, ...]
    """The devices of the first option: where the task runs in this version."""
    options: tuple[tuple[Device, ...], ...]
    """Every option, in the user's order; the devices within one are all different."""
    vcus: int
    """Claim on each device in thousandths of it; 0 is no claim."""
    memory: int
    """Claim on each device in bytes; 0 is no claim."""
    affinity: int
    """The worker it must run on; -1 is any."""


@dataclass(frozen=True, slots=True)
class _Option:
    """One way to run the task, its claims included."""

    devices: tuple[Device, ...]
    vcus: int
    memory: int
    affinity: int | None = None
    """Already decided (by another task's placement); None: by the devices."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What the other keywords of ``spawn`` ask for, checked."""

    vcus: int
    memory: int
    n_devices: int


_cache: dict[object, Placement] = {}


def resolve(placement: object = None, vcus: object = None, memory: object = None, ndevices: object = 1) -> Placement:
    """Check a task's placement and claims, and find its devices.

    Args:
        placement: an architecture, a device, either with requirements, a task (same devices), an array (where it
            lives), a tuple of these (several different devices), a list of alternatives, or None (any device).
        vcus: the fraction of each device to reserve, from 0 to 1; requirements in `placement` go first.
        memory: bytes to reserve on each device; requirements in `placement` go first.
        ndevices: how many different devices the task takes.

    Raises:
        PlacementError: no device can ever serve it; the text has the numbers.
        TypeError: an argument has a type that makes no sense there.
        ValueError: a number is negative, not finite, or (ndevices) zero.
    """
    key = _cache_key(placement, vcus, memory, ndevices)
    if key is not None and (found := _cache.get(key)) is not None:
        return found
    request = _Request(
        0 if vcus is None else parse_vcus(vcus),
        0 if memory is None else parse_memory(memory),
        _parse_ndevices(ndevices),
    )
    result = _choose(placement, request)
    if key is not None:
        if len(_cache) >= _CACHE_SIZE:
            _cache.clear()
        _cache[key] = result
    return result


def forget() -> None:
    """Drop remembered placements; needed only after the set of devices changed."""
    _cache.clear()


def _cache_key(placement: object, vcus: object, memory: object, ndevices: object) -> object | None:
    """A key for requests that mean the same whenever they are made; None for the others."""
    if type(ndevices) is not int:
        return None
    for number in (vcus, memory):
        if number is not None and type(number) is not int and type(number) is not float:
            return None
    parts = tuple(placement) if type(placement) is list else (placement,)
    for part in parts:
        if part is not None and not isinstance(part, (Architecture, Device, DeviceRequirement)):
            return None
    return type(placement) is list, parts, vcus, memory, ndevices


def _parse_ndevices(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"ndevices must be an integer, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"ndevices must be at least 1, got {value}")
    return int(value)


def _choose(placement: object, request: _Request) -> Placement:
    """Collect the options that can work; explain why none does."""
    alternatives = list(_alternatives(placement))
    if not alternatives:
        raise PlacementError(f"placement={placement!r} names no device; placement=None means any")
    options: list[_Option] = []
    reasons: list[str] = []
    for alternative in alternatives:
        try:
            options.extend(_options_of(alternative, request))
        except _Unsatisfiable as reason:
            reasons.append(str(reason))
    if not options:
        raise PlacementError(f"placement={_show(placement)} can't be satisfied: {'; '.join(dict.fromkeys(reasons))}")
    return _assemble(options)


def _assemble(options: list[_Option]) -> Placement:
    first = options[0]
    devices = tuple(dict.fromkeys(option.devices for option in options))
    if first.affinity is not None:
        affinity = first.affinity
    elif one_device_per_core() and {option[0] for option in devices} != set(cpu.devices):
        affinity = first.devices[0].index
    else:
        affinity = _ANY_WORKER
    return Placement(first.devices, devices, first.vcus, first.memory, affinity)


class _Unsatisfiable(Exception):
    """This alternative can't work here, another one might."""


def _alternatives(placement: object) -> Iterator[object]:
    if placement is None:
        yield from (architecture for architecture in get_all_architectures() if len(architecture))
    elif isinstance(placement, (list, set, frozenset)):
        for alternative in placement:
            if isinstance(alternative, (set, frozenset)) or alternative is None:
                raise TypeError(f"placement: {_show(alternative)} can't be one of the alternatives")
            if isinstance(alternative, list):
                yield from _alternatives(alternative)
            else:
                yield alternative
    else:
        yield placement


def _options_of(alternative: object, request: _Request) -> list[_Option]:
    """The options that one alternative stands for, at least one.

    Raises:
        _Unsatisfiable: it can't work on this machine.
        PlacementError: it is wrong on any machine.
        TypeError: it isn't a placement.
    """
    if isinstance(alternative, tuple):
        if not alternative:
            raise PlacementError("placement: () names no device")
        if request.n_devices not in (1, len(alternative)):
            raise PlacementError(
                f"placement: {_show(alternative)} takes {len(alternative)} devices, but ndevices={request.n_devices}"
            )
        targets = [_target(part) for part in alternative]
    elif (task_placement := _placement_of_task(alternative)) is not None:
        return _same_as_task(alternative, task_placement, request)
    else:
        target = _target(alternative)
        if request.n_devices > 1 and isinstance(target.target, Device):
            raise _Unsatisfiable(f"ndevices={request.n_devices}, but {target.target!r} is one device")
        if request.n_devices > max(1, target.architecture.num_devices):
            raise _Unsatisfiable(f"ndevices={request.n_devices}, {target.architecture.describe_devices()}")
        targets = [target] * request.n_devices
    vcus = max(request.vcus if target.vcus is None else target.vcus for target in targets)
    memory = max(request.memory if target.memory is None else target.memory for target in targets)
    return [_Option(devices, vcus, memory) for devices in _device_choices(targets, vcus, memory)]


def _target(part: object) -> DeviceRequirement:
    """An architecture or a device with its requirements, if any."""
    if isinstance(part, DeviceRequirement):
        return part
    if isinstance(part, (Architecture, Device)):
        return DeviceRequirement(part)
    if (placement := _placement_of_task(part)) is not None:
        if len(placement.devices) != 1:
            raise PlacementError(f"placement: {part!r} runs on {len(placement.devices)} devices, not on one")
        return DeviceRequirement(placement.devices[0])
    from parla import array

    if array.is_array(part):
        return DeviceRequirement(array.get_memory(part).device.architecture)
    raise TypeError(
        "placement must be an architecture (cpu), a device (cpu(0)), a task, an array, a tuple of these, or a list "
        f"of alternatives, not {_show(part)}"
    )


def _placement_of_task(part: object) -> Placement | None:
    """The placement of a spawned task; None if `part` isn't a task."""
    from parla import _native

    task: Any = part
    if isinstance(part, _native.TaskID):
        task = part.task
        if task is None:
            raise PlacementError(f"placement: {part.full_name} is not spawned yet, so nobody knows where it runs")
    elif not isinstance(part, _native.Task):
        return None
    placement: Placement = task.placement
    return placement


def _same_as_task(task: object, placement: Placement, request: _Request) -> list[_Option]:
    n = len(placement.devices)
    if request.n_devices not in (1, n):
        raise PlacementError(f"placement: {task!r} runs on {n} devices, but ndevices={request.n_devices}")
    for device in placement.devices:
        _check_capacity(device, request.vcus, request.memory)
    return [_Option(placement.devices, request.vcus, request.memory, placement.affinity)]


def _device_choices(targets: list[DeviceRequirement], vcus: int, memory: int) -> list[tuple[Device, ...]]:
    """Different devices for the targets: those named, and runs of neighbours for architectures."""
    named: list[Device] = []
    for target in targets:
        if isinstance(target.target, Device):
            _check_exists(target.target)
            if target.target in named:
                raise PlacementError(f"placement: {target.target!r} is named twice in one option; devices must differ")
            named.append(target.target)
    free: dict[Architecture, list[Device]] = {}
    slots: dict[Architecture, int] = {}
    for target in targets:
        if isinstance(target.target, Architecture):
            slots[target.target] = slots.get(target.target, 0) + 1
    for architecture, needed in slots.items():
        devices = [device for device in architecture.devices if device not in named]
        if not architecture.devices:
            raise _Unsatisfiable(architecture.describe_devices())
        if len(devices) < needed:
            taken = len(architecture.devices) - len(devices)
            raise _Unsatisfiable(
                f"it needs {needed + taken} different {architecture.name} devices, {architecture.describe_devices()}"
            )
        free[architecture] = devices
    for device in (*named, *(devices[0] for devices in free.values())):
        _check_capacity(device, vcus, memory)
    choices = []
    for start in range(max((len(devices) for devices in free.values()), default=1)):
        next_free = {architecture: start for architecture in free}
        choice = []
        for target in targets:
            if isinstance(target.target, Device):
                choice.append(target.target)
            else:
                devices = free[target.target]
                choice.append(devices[next_free[target.target] % len(devices)])
                next_free[target.target] += 1
        choices.append(tuple(choice))
    return choices


def _check_exists(device: Device) -> None:
    """A device of an architecture that is absent may be an alternative; a wrong index is an error."""
    architecture = device.architecture
    if not architecture.devices:
        raise _Unsatisfiable(architecture.describe_devices())
    if not device.exists:
        raise PlacementError(f"placement: {device!r} does not exist: {architecture.describe_devices()}")


def _check_capacity(device: Device, vcus: int, memory: int) -> None:
    """Refuse what the device can't give even when it is idle."""
    name, resources = device.architecture.name, device.resources
    if vcus > MILLI_VCUS:
        wanted = f"{vcus / MILLI_VCUS:g}" if vcus < 2**60 else "a huge number"
        raise _Unsatisfiable(f"it needs vcus={wanted}, one {name} device has 1")
    if memory > resources["memory"]:
        raise _Unsatisfiable(f"it needs {format_bytes(memory)}, largest {name} has {format_bytes(resources['memory'])}")


def _show(placement: object) -> str:
    """A short text of what the user wrote, whatever its type."""
    if isinstance(placement, (Architecture, Device, DeviceRequirement, type(None))):
        return repr(placement)
    if isinstance(placement, (list, tuple)) and len(placement) <= 8:
        inner = ", ".join(map(_show, placement))
        return f"[{inner}]" if isinstance(placement, list) else f"({inner}{',' * (len(placement) == 1)})"
    return f"an object of type {type(placement).__name__}"
