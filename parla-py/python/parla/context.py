"""Where am I? The task, the devices and the streams of the body that is running.

Everything here is answered for the calling task, also after an ``await`` moved it to another thread. Called
outside a task, all but `has_environment` raise `InvalidSchedulerAccessException`.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar, overload

from parla import _libraries, _native
from parla._reservations import reserve_persistent_memory
from parla.device import Device, get_architecture
from parla.errors import DeviceError, InvalidSchedulerAccessException, ParlaError

__all__ = [
    "Context",
    "CpuStream",
    "GpuStream",
    "get_current_context",
    "get_current_devices",
    "get_current_stream",
    "get_current_task",
    "has_environment",
    "reserve_persistent_memory",
]

T = TypeVar("T")


class CpuStream:
    """The stream of a CPU body: there is none, the CPU does its work when it is called.

    It is false, equal to other CPU streams, works in a ``with`` statement, and `synchronize` returns at once, so
    that code written for GPU streams also runs here.
    """

    __slots__ = ()

    def synchronize(self) -> None:
        """Return at once: nothing is outstanding."""

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CpuStream)

    def __hash__(self) -> int:
        return hash(CpuStream)

    def __enter__(self) -> CpuStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def __repr__(self) -> str:
        return "<CPU: no stream>"


_CPU_STREAM = CpuStream()


class GpuStream:
    """The stream of a GPU on which the running task's work is to go.

    Libraries that know the protocol ``__cuda_stream__`` take it as it is; for CuPy, Torch and Numba it is current in the body already.
    It does not wait for CUDA's default streams, nor they for it: what a program has enqueued there itself, for arrays that it hands to a task,
    it synchronises before.
    """

    __slots__ = ("_native", "device")

    device: Device

    def __init__(self, native: _native.Stream, device: Device) -> None:
        """Made by `get_current_stream`."""
        self._native = native
        self.device = device

    @property
    def ptr(self) -> int | None:
        """CUDA's handle of the stream; None on simulated GPUs."""
        return self._native.raw

    @property
    def done(self) -> bool:
        """Whether nothing is outstanding."""
        return self._native.is_idle()

    def __cuda_stream__(self) -> tuple[int, int]:
        """The version of the protocol, and the handle.

        Raises:
            DeviceError: the GPU is a simulated one.
        """
        handle = self._native.raw
        if handle is None:
            raise DeviceError(f"{self.device.name} is a simulated GPU: its streams are none of CUDA")
        return 0, handle

    def synchronize(self) -> None:
        """Wait until everything enqueued so far is done.

        Raises:
            DeviceError: what went wrong on the device meanwhile.
        """
        self._native.synchronize()

    def launch(self, function: Callable[[], Any] | None = None, us: float = 0.0) -> None:
        """Enqueue what occupies the device for `us` microseconds at least, while the CPU is free: on a simulated GPU a function of the host, or
        nothing; on a real one nothing."""
        self._native.launch(function, us)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GpuStream):
            return NotImplemented
        return self._native is other._native or (self.ptr is not None and self.ptr == other.ptr)

    def __hash__(self) -> int:
        return hash((GpuStream, id(self._native) if self.ptr is None else self.ptr))

    def __enter__(self) -> GpuStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def __repr__(self) -> str:
        handle = self.ptr
        return f"<stream of {self.device.name}{'' if handle is None else f' at {handle:#x}'}>"


Stream = CpuStream | GpuStream


@dataclass(frozen=True, slots=True)
class _Slot:
    """One of the devices of a task."""

    number: int | None
    """Its position among them; None if nobody had to place the task."""
    device: Device
    ordinal: int | None
    """The number that CUDA libraries know it by."""
    stream: Stream

    def adopt(self) -> None:
        """Make it the current one, for `Array.access` and for GPU libraries."""
        if self.ordinal is not None:
            _libraries.adopt(self.ordinal, self.stream)
        if self.number is not None:
            _native.set_current_slot(self.number)


class Context:
    """The devices that a task has, or some of them, in the order of its placement.

    ``ctx[i]`` and ``ctx[a:b]`` are contexts of fewer devices. Inside ``with ctx[i]:`` the current context and
    devices are those: specialized functions choose their variant by them, ``PArray.array`` is what is there, and CuPy's and Torch's
    current device and stream are those.
    """

    __slots__ = ("_slots", "_task")

    def __init__(self, task: _native.Task, slots: tuple[_Slot, ...]) -> None:
        """Made by `get_current_context`."""
        self._task = task
        self._slots = slots

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices, in the order of the placement."""
        return tuple(slot.device for slot in self._slots)

    @property
    def device(self) -> Device:
        """The first device: the only one of most tasks."""
        return self._slots[0].device

    @property
    def streams(self) -> tuple[Stream, ...]:
        """One stream per device."""
        return tuple(slot.stream for slot in self._slots)

    @property
    def stream(self) -> Stream:
        """The stream of the first device."""
        return self._slots[0].stream

    def synchronize(self) -> None:
        """Wait until the devices have done what this task gave them; CPUs always have.

        Raises:
            DeviceError: what went wrong on a device meanwhile.
        """
        for stream in self.streams:
            stream.synchronize()

    def loop(self) -> Iterator[Device]:
        """Go through the devices; in each turn the device is the current one.

        >>> for device in ctx.loop():
        ...     assert get_current_devices() == [device]
        """
        for part in self:
            with part:
                yield part.device

    def parfor(self) -> Callable[[Callable[[Context], T]], list[T]]:
        """Run a function once per device, at the same time, each with that device current.

        The function gets the context of its device. The decorated name becomes the list of all results, in the
        order of the devices:

        >>> @ctx.parfor()
        ... def sums(part):
        ...     return part.device.index

        Raises:
            TypeError: the function is a coroutine or generator function.
            Exception: what a call raised; several are raised as one, the others in its notes.
        """

        def run(body: Callable[[Context], T]) -> list[T]:
            if inspect.iscoroutinefunction(body) or inspect.isgeneratorfunction(body):
                raise TypeError(f"parfor needs a plain function, {body!r} is a coroutine or generator function")
            return _run_on_all(list(self), body)

        return run

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Context]:
        return (Context(self._task, (slot,)) for slot in self._slots)

    @overload
    def __getitem__(self, key: int) -> Context: ...
    @overload
    def __getitem__(self, key: slice) -> Context: ...
    def __getitem__(self, key: int | slice) -> Context:
        """The context of some of the devices.

        Raises:
            IndexError: there is no such device, or the slice is empty.
        """
        if isinstance(key, slice):
            slots = self._slots[key]
            if not slots:
                raise IndexError(f"context[{key.start}:{key.stop}] has no device; the task has {len(self)}")
            return Context(self._task, slots)
        if not -len(self) <= key < len(self):
            raise IndexError(f"context[{key}]: the context has {len(self)} device(s)")
        return Context(self._task, (self._slots[key],))

    def __enter__(self) -> Context:
        if _running_task() is not self._task:
            raise InvalidSchedulerAccessException("a context can be entered only in the task that it belongs to")
        self._slots[0].adopt()
        _narrowed.setdefault(_stack_key(self._task), []).append(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        key = _stack_key(self._task)
        stack = _narrowed[key]
        stack.pop()
        if not stack:
            del _narrowed[key]
        # Not "what was before": an `await` may have moved the task to another thread.
        if self._slots[0].number is not None and _running_task() is self._task:
            get_current_context()._slots[0].adopt()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Context):
            return NotImplemented
        return self._task is other._task and self.devices == other.devices

    def __hash__(self) -> int:
        return hash((id(self._task), self.devices))

    def __repr__(self) -> str:
        return f"<Context of {', '.join(map(repr, self.devices))}>"


#: The contexts entered by tasks, innermost last. By task and not by thread, since a task may change threads at an
#: ``await``; an entry lives only inside a ``with`` and so keeps no finished task.
_narrowed: dict[tuple[int, int], list[Context]] = {}


class _Lent(threading.local):
    """The task on whose behalf a thread of `Context.parfor` works."""

    task: _native.Task | None = None
    number: int = 0


_lent = _Lent()


def _stack_key(task: _native.Task) -> tuple[int, int]:
    return id(task), _lent.number


def _running_task() -> _native.Task | None:
    return _lent.task or _native.current_task()


def _run_on_all(parts: list[Context], body: Callable[[Context], T]) -> list[T]:
    """Call `body` for each part, the first one on this thread and the others on threads of their own."""
    results: list[Any] = [None] * len(parts)
    errors: list[BaseException | None] = [None] * len(parts)

    def work(i: int) -> None:
        before = _lent.task, _lent.number
        _lent.task, _lent.number = parts[i]._task, threading.get_ident()
        try:
            with parts[i]:
                results[i] = body(parts[i])
        except BaseException as error:  # raised again by this function's end
            errors[i] = error
        finally:
            _lent.task, _lent.number = before

    def work_on_a_thread_of_its_own(i: int) -> None:
        number = parts[i]._slots[0].number
        if number is not None:
            _native.lend_task(parts[i]._task, number)
        try:
            work(i)
        finally:
            if number is not None:
                _native.lend_task(None)

    threads = [
        threading.Thread(target=work_on_a_thread_of_its_own, args=(i,), name=f"parla parfor {i}")
        for i in range(1, len(parts))
    ]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()
    raised = [error for error in errors if error is not None]
    if raised:
        if sys.version_info >= (3, 11):
            for error in raised[1:]:
                raised[0].add_note(f"parfor also failed with {type(error).__name__}: {error}")
        raise raised[0]
    return results


def get_current_task() -> _native.Task:
    """The running task.

    Raises:
        InvalidSchedulerAccessException: no task runs on this thread.
    """
    task = _running_task()
    if task is None:
        raise InvalidSchedulerAccessException("this can be asked only inside a task; no task runs on this thread")
    return task


def get_current_context() -> Context:
    """The devices and streams of the running task.

    Raises:
        InvalidSchedulerAccessException: no task runs on this thread.
    """
    task = get_current_task()
    stack = _narrowed.get(_stack_key(task))
    if stack:
        return stack[-1]
    return Context(task, _slots_of(task))


def part_on(device: Device) -> Context:
    """The context of one of the running task's devices.

    Raises:
        InvalidSchedulerAccessException: no task runs on this thread.
        ValueError: the task does not have the device.
    """
    task = get_current_task()
    whole = Context(task, _slots_of(task))
    if device not in whole.devices:
        raise ValueError(f"{task!r} does not have {device!r}, but {', '.join(map(repr, whole.devices))}")
    return whole[whole.devices.index(device)]


def _slots_of(task: _native.Task) -> tuple[_Slot, ...]:
    """All devices of the running task."""
    placed = _native.assignment()
    if placed is not None:
        return _slots(placed)
    placement = task.placement
    if placement is None:
        raise ParlaError(f"{task!r} has no placement")
    devices = placement.options[chosen_option(task)]
    return tuple(_Slot(None, device, None, _CPU_STREAM) for device in devices)


def chosen_option(task: _native.Task) -> int:
    """Which option of its placement a running task has.

    Where each worker is a CPU device, and the task may run on any, it has that of the worker which runs it when this is first asked,
    and keeps it, also when another worker goes on with it after an `await`.
    """
    choice = task._choice
    if choice is not None:
        return choice
    options = task.placement.options
    worker = _native.current_worker()
    if worker is None or len(options) == 1 or task.placement.affinity >= 0:
        return 0
    core = get_architecture("cpu")(worker % len(options))
    return task._choose(options.index((core,)) if (core,) in options else 0)


def _slots(assignment: list[dict[str, Any]]) -> tuple[_Slot, ...]:
    """What an assignment of the native library says, in our terms."""
    slots = []
    for number, entry in enumerate(assignment):
        device = get_architecture(entry["architecture"])(entry["index"])
        native = entry["stream"]
        stream = _CPU_STREAM if native is None else GpuStream(native, device)
        slots.append(_Slot(number, device, entry["ordinal"], stream))
    return tuple(slots)


def _enter_devices(assignment: list[dict[str, Any]]) -> Any:
    """Make the current device of a task, and its stream, current for GPU libraries; called before each stretch of its body.

    Returns:
        What `_leave_devices` needs.
    """
    ordinals = [entry["ordinal"] for entry in assignment if entry["ordinal"] is not None]
    if not ordinals:
        return None
    saved = _libraries.save(ordinals)
    try:
        if saved:
            task = _running_task()
            stack = None if task is None else _narrowed.get(_stack_key(task))
            slot = stack[-1]._slots[0] if stack else _slots(assignment)[0]
            if slot.ordinal is not None:
                _libraries.adopt(slot.ordinal, slot.stream)
    except BaseException:
        _libraries.restore(saved)
        raise
    return saved


def _leave_devices(token: Any) -> bool:
    """Make current what was before `_enter_devices`; called after each stretch of a body, however it ended.

    Returns:
        Whether the thread is to keep the context that is current now, if it had none before.
    """
    return token is not None and _libraries.restore(token)


def get_current_devices() -> list[Device]:
    """The devices of the running task, in the order of its placement.

    Raises:
        InvalidSchedulerAccessException: no task runs on this thread.
    """
    return list(get_current_context().devices)


def get_current_stream() -> Stream:
    """The stream of the current device, a `GpuStream`; on a CPU an object that stands for "none".

    Raises:
        InvalidSchedulerAccessException: no task runs on this thread.
    """
    return get_current_context().stream


def has_environment() -> bool:
    """Whether a task runs on this thread, so that the other functions of this module have an answer."""
    return _running_task() is not None
