"""From what a user writes as ``placement=`` to the devices and claims of a task.

A placement is a tree of at most three levels: a list of alternatives, of which each is a target (an
architecture, a device, either with requirements, a task, an array) or a tuple of targets (one option that
takes several different devices). `resolve` checks it against the machine, so that what can never run is
refused where it is spawned.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

from parla import _machine
from parla.cpu import cpu, one_device_per_core
from parla.device import (
    MILLI_VCUS,
    Architecture,
    Device,
    DeviceRequirement,
    format_bytes,
    get_architecture,
    get_default_architectures,
    parse_memory,
    parse_vcus,
)
from parla.errors import PlacementError

if TYPE_CHECKING:
    from parla.environments import TaskEnvironment

__all__ = ["Placement", "resolve"]

_ANY_WORKER = -1
_CACHE_SIZE = 1024

# A task has at most so many options by one alternative of its placement.
_MAX_CHOICES = 64
_MAX_TRIED = 100_000


#: A claim on one device: thousandths of its compute, or `UNSTATED`; and bytes of its memory.
Claim = tuple[int, int]

#: The task does not say how much of a device's compute it takes: none of a CPU, all of a GPU.
UNSTATED = -1


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a task may run and what it claims there."""

    devices: tuple[Device, ...]
    """The devices of the first option. Where there are several, the policy chooses one when the task is ready."""
    options: tuple[tuple[Device, ...], ...]
    """Every option, in the user's order; the devices within one are all different."""
    vcus: int
    """The largest claim of the first option in thousandths of a device; 0 is no claim."""
    memory: int
    """The largest claim of the first option in bytes; 0 is no claim."""
    affinity: int
    """The worker it must run on; -1 is any."""
    claims: tuple[tuple[Claim, ...], ...]
    """What it claims, for each option and each of its devices."""
    environments: tuple[TaskEnvironment | None, ...] = ()
    """The environment of each option, where the runtime has some for this task."""


@dataclass(frozen=True, slots=True)
class _Option:
    """One way to run the task, its claims included."""

    devices: tuple[Device, ...]
    claims: tuple[Claim, ...]
    affinity: int | None = None
    """Already decided (by another task's placement); None: by the devices."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What the other keywords of ``spawn`` ask for, checked."""

    vcus: int | None
    memory: int
    n_devices: int

    def claim(self, target: DeviceRequirement) -> Claim:
        """What the task claims of a device; requirements in the placement go first."""
        vcus = self.vcus if target.vcus is None else target.vcus
        memory = self.memory if target.memory is None else target.memory
        return UNSTATED if vcus is None else vcus, memory


_cache: dict[object, Placement] = {}


def resolve(placement: object = None, vcus: object = None, memory: object = None, ndevices: object = 1) -> Placement:
    """Check a task's placement and claims, and find its devices.

    Args:
        placement: an architecture, a device, either with requirements, a task (same devices), an array (where it
            lives), a tuple of these (several different devices), a list of alternatives, or None (any device).
        vcus: the fraction of each device to reserve, from 0 to 1; requirements in `placement` go first.
        memory: bytes to reserve on each device; requirements in `placement` go first.
        ndevices: how many different devices the task takes, of an architecture, or of the single devices that are named.

    Raises:
        PlacementError: no device can ever serve it; the text has the numbers.
        TypeError: an argument has a type that makes no sense there.
        ValueError: a number is negative, not finite, or (ndevices) zero.
    """
    key = _cache_key(placement, vcus, memory, ndevices)
    if key is not None and (found := _cache.get(key)) is not None:
        return found
    request = _Request(
        None if vcus is None else parse_vcus(vcus),
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
    from parla import _native

    _cache.clear()
    _native.forget_placements()


_machine.on_change(forget)


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
    for alternative in alternatives if request.n_devices == 1 else _joined(alternatives):
        try:
            options.extend(_options_of(alternative, request))
        except _Unsatisfiable as reason:
            reasons.append(str(reason))
    if not options:
        raise PlacementError(f"placement={_show(placement)} can't be satisfied: {'; '.join(dict.fromkeys(reasons))}")
    return _assemble(options)


def _assemble(options: list[_Option]) -> Placement:
    first = options[0]
    claims: dict[tuple[Device, ...], tuple[Claim, ...]] = {}
    for option in options:
        claims.setdefault(option.devices, option.claims)
    devices = tuple(claims)
    affinity = worker_of(devices) if first.affinity is None else first.affinity
    vcus = max(0, *(vcus for vcus, _ in first.claims))
    memory = max(memory for _, memory in first.claims)
    return Placement(first.devices, devices, vcus, memory, affinity, tuple(claims.values()))


def worker_of(options: tuple[tuple[Device, ...], ...]) -> int:
    """The worker that is the CPU device of a task with one option; -1: there are others, or all workers are one device."""
    device = options[0][0]
    return device.index if len(options) == 1 and device.architecture == cpu and one_device_per_core() else _ANY_WORKER


class _Unsatisfiable(Exception):
    """This alternative can't work here, another one might."""


def _alternatives(placement: object) -> Iterator[object]:
    if placement is None:
        yield from (architecture for architecture in get_default_architectures() if len(architecture))
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


@dataclass(frozen=True, slots=True)
class _AnyOf:
    """``placement=[gpu(0), gpu(1), gpu(2)], ndevices=2``: devices of which a task gets several."""

    targets: list[DeviceRequirement]

    def options(self, request: _Request) -> list[_Option]:
        """Every way to choose, or if these are many, runs of neighbours."""
        targets = list({target.target: target for target in self.targets}.values())
        if len(targets) < request.n_devices:
            raise _Unsatisfiable(f"ndevices={request.n_devices}, but it names {len(targets)} devices")
        n, free = request.n_devices, len(targets)
        if math.comb(free, n) <= _MAX_CHOICES:
            ways: Iterable[tuple[DeviceRequirement, ...]] = itertools.combinations(targets, n)
        else:
            ways = (tuple(targets[(start + i) % free] for i in range(n)) for start in range(free))
        found: list[_Option] = []
        reasons: list[str] = []
        for way in ways:
            claims = tuple(map(request.claim, way))
            try:
                found += [_Option(devices, claims) for devices in _device_choices(list(way), claims)]
            except _Unsatisfiable as reason:
                reasons.append(str(reason))
        if not found:
            raise _Unsatisfiable("; ".join(dict.fromkeys(reasons)))
        return found


def _joined(alternatives: list[object]) -> list[object]:
    """For tasks on several devices: single devices among the alternatives are one choice together."""
    named = [_target(alternative) for alternative in alternatives if _is_one_device(alternative)]
    if len(named) < 2:
        return alternatives
    return [_AnyOf(named), *(alternative for alternative in alternatives if not _is_one_device(alternative))]


def _is_one_device(part: object) -> bool:
    return isinstance(part, Device) or (isinstance(part, DeviceRequirement) and isinstance(part.target, Device))


def _options_of(alternative: object, request: _Request) -> list[_Option]:
    """The options that one alternative stands for, at least one.

    Raises:
        _Unsatisfiable: it can't work on this machine.
        PlacementError: it is wrong on any machine.
        TypeError: it isn't a placement.
    """
    if isinstance(alternative, _AnyOf):
        return alternative.options(request)
    if isinstance(alternative, tuple):
        if not alternative:
            raise PlacementError("placement: () names no device")
        if request.n_devices not in (1, len(alternative)):
            raise PlacementError(
                f"placement: {_show(alternative)} takes {len(alternative)} devices, but ndevices={request.n_devices}"
            )
        targets = [_target(part) for part in alternative]
    elif (same := _options_of_task(alternative)) is not None:
        return _same_as_task(alternative, same, request)
    else:
        target = _target(alternative)
        if request.n_devices > 1 and isinstance(target.target, Device):
            raise _Unsatisfiable(f"ndevices={request.n_devices}, but {target.target!r} is one device")
        if request.n_devices > max(1, target.architecture.num_devices):
            raise _Unsatisfiable(f"ndevices={request.n_devices}, {target.architecture.describe_devices()}")
        targets = [target] * request.n_devices
    claims = tuple(map(request.claim, targets))
    return [_Option(devices, claims) for devices in _device_choices(targets, claims)]


def _target(part: object) -> DeviceRequirement:
    """An architecture or a device with its requirements, if any."""
    if isinstance(part, DeviceRequirement):
        return part
    if isinstance(part, (Architecture, Device)):
        return DeviceRequirement(part)
    if (options := _options_of_task(part)) is not None:
        if len(options) > 1:
            raise PlacementError(f"placement: nobody knows yet on which device {part!r} will run")
        if len(options[0].devices) != 1:
            raise PlacementError(f"placement: {part!r} runs on {len(options[0].devices)} devices, not on one")
        return DeviceRequirement(options[0].devices[0])
    from parla import array

    if array.is_array(part):
        return DeviceRequirement(_home_of(part))
    raise TypeError(
        "placement must be an architecture (cpu), a device (cpu(0)), a task, an array, a tuple of these, or a list "
        f"of alternatives, not {_show(part)}"
    )


def _options_of_task(part: object) -> list[_Option] | None:
    """Where a spawned task was placed, or may be if that is not decided yet; None if `part` isn't a task."""
    from parla import _native

    task: Any = part
    if isinstance(part, _native.TaskID):
        task = part.task
        if task is None:
            raise PlacementError(f"placement: {part.full_name} is not spawned yet, so nobody knows where it runs")
    elif not isinstance(part, _native.Task):
        return None
    placement: Placement = task.placement
    options = [_Option(*option, placement.affinity) for option in zip(placement.options, placement.claims, strict=True)]
    choice = getattr(task, "_choice", None)
    if choice is not None:
        return [_Option(options[choice].devices, options[choice].claims)]
    return options


def _same_as_task(task: object, options: list[_Option], request: _Request) -> list[_Option]:
    n = len(options[0].devices)
    if request.n_devices not in (1, n):
        raise PlacementError(f"placement: {task!r} runs on {n} devices, but ndevices={request.n_devices}")
    found = []
    for option in options:
        claims = tuple(request.claim(DeviceRequirement(device)) for device in option.devices)
        for device, claim in zip(option.devices, claims, strict=True):
            _check_capacity([device], claim)
        found.append(_Option(option.devices, claims, option.affinity))
    return found


def _home_of(array: Any) -> Architecture | Device:
    """Where an array lives: any CPU, or the GPU that has most of its newest contents."""
    if hasattr(array, "__parla_operand__"):
        native, region, _ = array.__parla_operand__()
        best: Architecture | Device = cpu
        most = native.bytes_valid(0, region)
        for info in _machine.current().devices:
            if info.memory and (n := native.bytes_valid(info.memory, region)) > most:
                best, most = get_architecture(info.architecture)(info.index), n
        return best
    from parla import array as arrays

    device = arrays.get_memory(array).device
    return cpu if device.architecture == cpu else device


def _device_choices(targets: list[DeviceRequirement], claims: tuple[Claim, ...]) -> list[tuple[Device, ...]]:
    """Different devices for the targets: those named, and for architectures every way to choose, or if these are many, runs of
    neighbours."""
    named: list[Device] = []
    for target, claim in zip(targets, claims, strict=True):
        if isinstance(target.target, Device):
            _check_exists(target.target)
            if target.target in named:
                raise PlacementError(f"placement: {target.target!r} is named twice in one option; devices must differ")
            named.append(target.target)
            _check_capacity([target.target], claim)
    slots: dict[Architecture, list[int]] = {}
    for slot, target in enumerate(targets):
        if isinstance(target.target, Architecture):
            slots.setdefault(target.target, []).append(slot)
    choices: list[dict[int, Device]] = [{s: t.target for s, t in enumerate(targets) if isinstance(t.target, Device)}]
    for architecture, places in slots.items():
        free = [device for device in architecture.devices if device not in named]
        taken = architecture.num_devices - len(free)
        if not architecture.num_devices:
            raise _Unsatisfiable(architecture.describe_devices())
        if len(free) < len(places):
            raise _Unsatisfiable(
                f"it needs {len(places) + taken} different {architecture.name} devices, {architecture.describe_devices()}"
            )
        for place in places:
            _check_capacity(free, claims[place])
        ways = _ways(architecture, free, [claims[place][1] for place in places])
        if len(choices) * len(ways) <= _MAX_CHOICES:
            pairs = list(itertools.product(choices, ways))
        else:
            # Each choice and each way is there, not every pair of them.
            n = max(len(choices), len(ways))
            pairs = [(choices[i % len(choices)], ways[i % len(ways)]) for i in range(n)]
        choices = [{**choice, **dict(zip(places, way, strict=True))} for choice, way in pairs]
    return [tuple(choice[slot] for slot in range(len(targets))) for choice in choices]


def _ways(architecture: Architecture, free: list[Device], memory: list[int]) -> list[tuple[Device, ...]]:
    """The ways to give each of several slots of a task a device of its own, which has the memory that the slot claims."""

    def enough(way: tuple[Device, ...]) -> bool:
        return all(_capacity(device) >= claimed for device, claimed in zip(way, memory, strict=True))

    n = len(memory)
    if architecture != cpu and math.perm(len(free), n) <= _MAX_CHOICES:
        ways = [way for way in itertools.permutations(free, n) if enough(way)]
    else:
        runs = (tuple(free[(start + i) % len(free)] for i in range(n)) for start in range(len(free)))
        ways = [run for run in runs if enough(run)]
        if not ways:
            some = itertools.islice(itertools.permutations(free, n), _MAX_TRIED)
            ways = list(itertools.islice(filter(enough, some), _MAX_CHOICES))
    if not ways:
        wanted = " and ".join(map(format_bytes, memory))
        raise _Unsatisfiable(f"it needs {wanted} on {n} different {architecture.name} devices, too few are that large")
    return ways


def _check_exists(device: Device) -> None:
    """A device of an architecture that is absent may be an alternative; a wrong index is an error."""
    architecture = device.architecture
    if not architecture.devices:
        raise _Unsatisfiable(architecture.describe_devices())
    if not device.exists:
        raise PlacementError(f"placement: {device!r} does not exist: {architecture.describe_devices()}")


def _capacity(device: Device) -> int:
    return device.resources["memory"]


def _check_capacity(devices: list[Device], claim: Claim) -> None:
    """Refuse what none of the devices, all of one architecture, can give even when it is idle."""
    name = devices[0].architecture.name
    vcus, memory = claim
    if vcus > MILLI_VCUS:
        wanted = f"{vcus / MILLI_VCUS:g}" if vcus < 2**60 else "a huge number"
        raise _Unsatisfiable(f"it needs vcus={wanted}, one {name} device has 1 (vcus is a fraction of a device)")
    if memory and memory > (largest := max(map(_capacity, devices))):
        what = f"largest {name}" if len(devices) > 1 or devices[0].architecture.num_devices == 1 else repr(devices[0])
        raise _Unsatisfiable(f"it needs {format_bytes(memory)}, {what} has {format_bytes(largest)}")


def _show(placement: object) -> str:
    """A short text of what the user wrote, whatever its type."""
    if isinstance(placement, (Architecture, Device, DeviceRequirement, type(None))):
        return repr(placement)
    if isinstance(placement, (list, tuple)) and len(placement) <= 8:
        inner = ", ".join(map(_show, placement))
        return f"[{inner}]" if isinstance(placement, list) else f"({inner}{',' * (len(placement) == 1)})"
    return f"an object of type {type(placement).__name__}"
