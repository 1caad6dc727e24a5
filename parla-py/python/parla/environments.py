"""Task environments: what is set up around the bodies of tasks on some devices.

    from parla.environments import TaskEnvironment, ThreadLimit

    with Parla(environments=[TaskEnvironment([cpu], [ThreadLimit(1)], tags=["serial"])]):
        @spawn(placement=cpu, tags=["serial"])
        def solve():  # NumPy's BLAS uses one thread in here
            ...

An environment applies to tasks whose devices are all among its own and whose tags are all among its own; of several the one with the
fewest devices, then the first. A body that awaits leaves its environment meanwhile and enters it again, maybe on another thread.

A task without tags that may run on several devices runs on those that have an environment, if devices of the same architecture have
one: with environments for ``cpu(0)`` and ``cpu(1)``, ``placement=cpu`` means these two, and ``placement=[cpu, gpu]`` these two and all
GPUs. Where none of its devices has one, it runs outside any environment.
"""

from __future__ import annotations

import dataclasses
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from parla import _limits, context
from parla.device import Architecture, Device
from parla.errors import PlacementError, SpawnError

if TYPE_CHECKING:
    from parla import _native
    from parla._placement import Placement

__all__ = [
    "EnvironmentComponentDescriptor",
    "EnvironmentComponentInstance",
    "GPUComponent",
    "MultiGPUComponent",
    "TaskEnvironment",
    "ThreadLimit",
    "UnboundCPUComponent",
    "get_current_environment",
]


class EnvironmentComponentInstance(ABC):
    """A component at work: entered before each stretch of a body, and left after it, on the thread that runs the body.

    One instance serves all tasks of its environment, several at the same time.
    """

    descriptor: EnvironmentComponentDescriptor

    def __init__(self, descriptor: EnvironmentComponentDescriptor) -> None:
        """Remember what it was made from."""
        self.descriptor = descriptor

    def initialize_thread(self) -> None:  # noqa: B027
        """Prepare a thread; called once for each thread that enters the environment, before it does."""

    @abstractmethod
    def __enter__(self) -> Any:
        """A body of this environment starts or goes on, on this thread."""

    @abstractmethod
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> object:
        """The body has ended or awaits. The result is ignored: an environment can't hide that a body failed."""


class EnvironmentComponentDescriptor(ABC):
    """What a component is made from: says what is wanted, and makes the instance for one environment."""

    @abstractmethod
    def __call__(self, env: TaskEnvironment) -> EnvironmentComponentInstance:
        """Make the instance for `env`.

        Raises:
            ValueError: it makes no sense for the devices of `env`.
        """

    def combine(self, other: EnvironmentComponentDescriptor) -> EnvironmentComponentDescriptor:
        """Join two descriptors of this type that one environment was given.

        Raises:
            ValueError: they contradict each other.
        """
        raise ValueError(f"an environment can have one {type(self).__name__}, not two")


#: What `TaskEnvironment` takes as its devices.
Devices = Architecture | Device | Iterable[Architecture | Device]


class TaskEnvironment:
    """Devices, what is set up around bodies that run there, and tags by which tasks ask for it.

    It is also a context manager, which enters all components in order, and leaves them in reverse order.
    """

    placement: frozenset[Device]
    """Its devices."""
    components: dict[type[EnvironmentComponentDescriptor], EnvironmentComponentInstance]
    """The components by the type of their descriptors."""
    tags: frozenset[Any]

    def __init__(
        self,
        placement: Devices,
        components: Collection[EnvironmentComponentDescriptor] = (),
        tags: Collection[Any] = (),
    ) -> None:
        """Define an environment.

        Args:
            placement: its devices: devices and architectures (all their devices).
            components: descriptors of what is set up; several of one type are combined.
            tags: anything hashable; a task with tags runs only in environments that have all of them.

        Raises:
            TypeError: something is no device, descriptor or hashable tag.
            ValueError: there is no device, or a component makes no sense on these.
            PlacementError: a device doesn't exist.
        """
        self.placement = _devices(placement)
        self.tags = _tags(tags, "TaskEnvironment: tags")
        combined: dict[type[EnvironmentComponentDescriptor], EnvironmentComponentDescriptor] = {}
        for descriptor in components if isinstance(components, Iterable) else (components,):
            if not isinstance(descriptor, EnvironmentComponentDescriptor):
                wrong = descriptor.__name__ if isinstance(descriptor, type) else type(descriptor).__name__
                raise TypeError(
                    "TaskEnvironment: components: expected objects of classes derived from EnvironmentComponentDescriptor (as "
                    f"ThreadLimit(1)), each of which makes an EnvironmentComponentInstance, not {wrong}"
                )
            known = combined.get(type(descriptor))
            combined[type(descriptor)] = descriptor if known is None else known.combine(descriptor)
        self.components = {kind: descriptor(self) for kind, descriptor in combined.items()}
        self._thread = threading.local()

    def initialize_thread(self) -> None:
        """Prepare this thread, once."""
        if not getattr(self._thread, "is_initialized", False):
            for component in self.components.values():
                component.initialize_thread()
            self._thread.is_initialized = True

    def __enter__(self) -> TaskEnvironment:
        self.initialize_thread()
        entered: list[EnvironmentComponentInstance] = []
        try:
            for component in self.components.values():
                component.__enter__()
                entered.append(component)
        except BaseException as error:
            _exit_all(entered, error)
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failed = _exit_all(list(self.components.values()), exc)
        if failed is not None and exc is None:
            raise failed

    def __repr__(self) -> str:
        devices = ", ".join(sorted(map(repr, self.placement)))
        components = ", ".join(repr(c.descriptor) for c in self.components.values())
        return f"TaskEnvironment([{devices}], [{components}], tags={sorted(map(repr, self.tags))})"


def _exit_all(components: list[EnvironmentComponentInstance], error: BaseException | None) -> BaseException | None:
    """Leave components, the last first, each with the error at hand; returns the first that one of them raised."""
    failed: BaseException | None = None
    for component in reversed(components):
        at_hand = error or failed
        try:
            component.__exit__(type(at_hand) if at_hand else None, at_hand, at_hand.__traceback__ if at_hand else None)
        except BaseException as raised:  # the others are left all the same
            failed = failed or raised
    return failed


def _devices(placement: Devices) -> frozenset[Device]:
    devices: list[Device] = []
    for part in (placement,) if isinstance(placement, (Architecture, Device)) else placement:
        if isinstance(part, Architecture):
            devices += part.devices
        elif not isinstance(part, Device):
            raise TypeError(f"TaskEnvironment: expected devices or architectures, not {type(part).__name__}")
        elif not part.exists:
            raise PlacementError(f"TaskEnvironment: {part!r} does not exist: {part.architecture.describe_devices()}")
        else:
            devices.append(part)
    if not devices:
        raise ValueError("TaskEnvironment: it has no device")
    return frozenset(devices)


def _tags(tags: object, name: str) -> frozenset[Any]:
    if isinstance(tags, str):
        return frozenset((tags,))
    try:
        return frozenset(tags)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        raise TypeError(f"{name}: expected a sequence of hashable values, got {tags!r}") from None


class _NothingToEnter(EnvironmentComponentInstance):
    """A component whose work the runtime does for every body."""

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class UnboundCPUComponent(EnvironmentComponentDescriptor):
    """A CPU whose tasks run on any of its cores, as all tasks do that ask for no core: 0.2's default for CPUs."""

    def __call__(self, env: TaskEnvironment) -> EnvironmentComponentInstance:
        """Make the instance; the environment has one device, a CPU."""
        device = next(iter(env.placement))
        if len(env.placement) != 1 or device.architecture.id != "cpu":
            raise ValueError("UnboundCPUComponent: the environment must have one device, a CPU")
        return _NothingToEnter(self)

    def combine(self, other: EnvironmentComponentDescriptor) -> EnvironmentComponentDescriptor:
        """Two are as one."""
        return self


class GpuInstance(_NothingToEnter):
    """The GPUs of the running task and their streams.

    The runtime gives every task a stream per device, and makes device and stream current for GPU libraries, also without this component.
    """

    @property
    def devices(self) -> tuple[Device, ...]:
        """The GPUs of the running task."""
        return tuple(d for d in context.get_current_context().devices if d.architecture.id == "gpu")

    @property
    def device(self) -> Device:
        """The first of them."""
        return self.devices[0]

    @property
    def streams(self) -> tuple[context.GpuStream, ...]:
        """Their streams."""
        return tuple(s for s in context.get_current_context().streams if isinstance(s, context.GpuStream))

    @property
    def stream(self) -> context.GpuStream:
        """The stream of the first of them."""
        return self.streams[0]


@dataclasses.dataclass(frozen=True)
class GPUComponent(EnvironmentComponentDescriptor):
    """The device and the stream of a task on one GPU: ``env.components[GPUComponent].stream``."""

    def __call__(self, env: TaskEnvironment) -> GpuInstance:
        """Make the instance; the environment has one GPU."""
        n = sum(device.architecture.id == "gpu" for device in env.placement)
        if n != 1:
            raise ValueError(
                f"GPUComponent: the environment must have one GPU, it has {n}; MultiGPUComponent is for more"
            )
        return GpuInstance(self)

    def combine(self, other: EnvironmentComponentDescriptor) -> EnvironmentComponentDescriptor:
        """Two are as one."""
        return self


@dataclasses.dataclass(frozen=True)
class MultiGPUComponent(EnvironmentComponentDescriptor):
    """The devices and the streams of tasks on several GPUs: ``env.components[MultiGPUComponent].streams``."""

    def __call__(self, env: TaskEnvironment) -> GpuInstance:
        """Make the instance; the environment has a GPU at least."""
        if not any(device.architecture.id == "gpu" for device in env.placement):
            raise ValueError("MultiGPUComponent: the environment has no GPU")
        return GpuInstance(self)

    def combine(self, other: EnvironmentComponentDescriptor) -> EnvironmentComponentDescriptor:
        """Two are as one."""
        return self


@dataclasses.dataclass(frozen=True)
class ThreadLimit(EnvironmentComponentDescriptor):
    """At most so many threads for each call of a BLAS or OpenMP library inside bodies; needs the package threadpoolctl.

    BLAS libraries keep one number for the whole process: while bodies with several limits run at the same time, the lowest holds for all
    of them, and for code outside tasks. OpenMP's limit is the calling thread's own.
    """

    limit: int = 1

    def __post_init__(self) -> None:
        """Check the number."""
        if isinstance(self.limit, bool) or not isinstance(self.limit, int):
            raise TypeError(f"ThreadLimit: expected a number of threads, not {type(self.limit).__name__}")
        if self.limit < 1:
            raise ValueError(f"ThreadLimit: at least 1 thread, got {self.limit}")

    def __call__(self, env: TaskEnvironment) -> EnvironmentComponentInstance:
        """Make the instance.

        Raises:
            ImportError: threadpoolctl is not installed.
        """
        _limits.check_installed()
        return _ThreadLimitInstance(self, self.limit)

    def combine(self, other: EnvironmentComponentDescriptor) -> EnvironmentComponentDescriptor:
        """The lower of two."""
        assert isinstance(other, ThreadLimit)
        return min(self, other, key=lambda descriptor: descriptor.limit)


class _ThreadLimitInstance(EnvironmentComponentInstance):
    def __init__(self, descriptor: ThreadLimit, limit: int) -> None:
        super().__init__(descriptor)
        self._limit = limit

    def __enter__(self) -> Any:
        _limits.enter(self._limit)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _limits.leave(self._limit)


# What the native library calls.


@dataclasses.dataclass(frozen=True, slots=True)
class _Terms:
    """What a runtime says about all its tasks."""

    environments: tuple[TaskEnvironment, ...]
    devices: tuple[Architecture | Device, ...] | None
    """Where they may run; None: anywhere."""

    @classmethod
    def check(cls, environments: object, devices: tuple[Architecture | Device, ...] | None) -> _Terms:
        """Check the argument `environments` of a runtime."""
        if environments is None:
            environments = ()
        elif isinstance(environments, TaskEnvironment):
            environments = (environments,)
        if not isinstance(environments, Iterable):
            raise TypeError(f"environments: expected a sequence of TaskEnvironments, not {type(environments).__name__}")
        found = tuple(environments)
        for environment in found:
            if not isinstance(environment, TaskEnvironment):
                raise TypeError(f"environments: expected TaskEnvironments, not {type(environment).__name__}")
        return cls(found, devices)

    def allow(self, option: tuple[Device, ...]) -> bool:
        """Whether a task may run on these devices together."""
        if self.devices is None:
            return True
        return all(device in self.devices or device.architecture in self.devices for device in option)


def _choose(terms: _Terms | None, placement: Placement, tags: object) -> Placement | None:
    """The options of a placement that the runtime allows, with an environment that has these tags if there are such; None: all,
    without one.

    Raises:
        PlacementError: the runtime allows none.
        SpawnError: there is no such environment; the text names the tags.
    """
    wanted = frozenset() if tags is None else _tags(tags, "tags")
    environments = () if terms is None else terms.environments
    if wanted and not environments:
        raise SpawnError(
            f"tags={_show(wanted)}: the runtime has no task environments, so none with tags; see Parla(environments=...)"
        )
    if terms is None:
        return None
    from parla._placement import worker_of

    allowed = [i for i, option in enumerate(placement.options) if terms.allow(option)]
    if not allowed:
        raise PlacementError(
            f"placement: the runtime was restricted to devices={list(terms.devices or ())}, the task could run on "
            + " or ".join(dict.fromkeys(", ".join(map(repr, option)) for option in placement.options))
        )
    found = {i: _find(environments, placement.options[i], wanted) for i in allowed}
    kinds = {_kinds(placement.options[i]) for i in allowed if found[i] is not None}
    kept = [
        i for i in allowed if found[i] is not None or (not wanted and _kinds(placement.options[i]) not in kinds)
    ]
    if not kept:
        raise SpawnError(
            f"tags={_show(wanted)}: no environment with these tags has the devices of the task; there are "
            + ", ".join(map(repr, environments))
        )
    used = tuple(found[i] for i in kept)
    if len(kept) == len(placement.options):
        return dataclasses.replace(placement, environments=used) if any(used) else None
    options = tuple(placement.options[i] for i in kept)
    claims = tuple(placement.claims[i] for i in kept)
    return dataclasses.replace(
        placement,
        devices=options[0],
        options=options,
        claims=claims,
        vcus=max(0, *(vcus for vcus, _ in claims[0])),
        memory=max(memory for _, memory in claims[0]),
        affinity=worker_of(options),
        environments=used if any(used) else (),
    )


def _kinds(option: tuple[Device, ...]) -> tuple[Architecture, ...]:
    return tuple(device.architecture for device in option)


def _find(
    environments: tuple[TaskEnvironment, ...], option: tuple[Device, ...], tags: frozenset[Any]
) -> TaskEnvironment | None:
    """The environment with these devices and tags that has the fewest others."""
    fitting = (e for e in environments if e.placement.issuperset(option) and e.tags >= tags)
    return min(fitting, key=lambda e: len(e.placement), default=None)


def _show(tags: frozenset[Any]) -> str:
    return f"[{', '.join(sorted(map(repr, tags)))}]"


def _enter(task: _native.Task) -> TaskEnvironment | None:
    """A body starts or goes on: enter its environment, if it has one."""
    placement = task.placement
    if not placement.environments:
        return None
    environment = placement.environments[context.chosen_option(task)]
    return None if environment is None else environment.__enter__()


def _leave(environment: TaskEnvironment, error: BaseException | None) -> None:
    """The body has ended or awaits."""
    environment.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


def get_current_environment() -> TaskEnvironment | None:
    """The environment of the running task; None if it runs in none.

    Raises:
        InvalidSchedulerAccessException: no task runs on this thread.
    """
    task = context.get_current_task()
    placement = task.placement
    if not placement.environments:
        return None
    return placement.environments[context.chosen_option(task)]
