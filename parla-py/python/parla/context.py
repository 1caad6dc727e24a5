"""Where am I? The task, the devices and the streams of the body that is running.

Everything here is answered for the calling task, also after an ``await`` moved it to another thread. Called
outside a task, all but `has_environment` raise `InvalidSchedulerAccessException`.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from parla import _native
from parla.errors import InvalidSchedulerAccessException, ParlaError

if TYPE_CHECKING:
    from parla.device import Device

__all__ = [
    "Context",
    "CpuStream",
    "get_current_context",
    "get_current_devices",
    "get_current_stream",
    "get_current_task",
    "has_environment",
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


class Context:
    """The devices that a task has, or some of them, in the order of its placement.

    ``ctx[i]`` and ``ctx[a:b]`` are contexts of fewer devices. Inside ``with ctx[i]:`` the current context and
    devices are those, and specialized functions choose their variant by them.
    """

    __slots__ = ("_task", "devices")

    devices: tuple[Device, ...]

    def __init__(self, task: _native.Task, devices: tuple[Device, ...]) -> None:
        """Made by `get_current_context`."""
        self._task = task
        self.devices = devices

    @property
    def device(self) -> Device:
        """The first device: the only one of most tasks."""
        return self.devices[0]

    @property
    def streams(self) -> tuple[CpuStream, ...]:
        """One stream per device."""
        return (_CPU_STREAM,) * len(self.devices)

    @property
    def stream(self) -> CpuStream:
        """The stream of the first device."""
        return _CPU_STREAM

    def synchronize(self) -> None:
        """Wait until the devices have done what this task gave them; CPUs always have."""
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
        return len(self.devices)

    def __iter__(self) -> Iterator[Context]:
        return (Context(self._task, (device,)) for device in self.devices)

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
            devices = self.devices[key]
            if not devices:
                raise IndexError(f"context[{key.start}:{key.stop}] has no device; the task has {len(self)}")
            return Context(self._task, devices)
        if not -len(self) <= key < len(self):
            raise IndexError(f"context[{key}]: the context has {len(self)} device(s)")
        return Context(self._task, (self.devices[key],))

    def __enter__(self) -> Context:
        if _running_task() is not self._task:
            raise InvalidSchedulerAccessException("a context can be entered only in the task that it belongs to")
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

    threads = [threading.Thread(target=work, args=(i,), name=f"parla parfor {i}") for i in range(1, len(parts))]
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
    return Context(task, _devices_of(task))


def _devices_of(task: _native.Task) -> tuple[Device, ...]:
    placement = task.placement
    if placement is None:
        raise ParlaError(f"{task!r} has no placement")
    devices: tuple[Device, ...] = placement.devices
    return devices


def get_current_devices() -> list[Device]:
    """The devices of the running task, in the order of its placement.

    Raises:
        InvalidSchedulerAccessException: no task runs on this thread.
    """
    return list(get_current_context().devices)


def get_current_stream() -> CpuStream:
    """The stream of the current device; on a CPU an object that stands for "none".

    Raises:
        InvalidSchedulerAccessException: no task runs on this thread.
    """
    return get_current_context().stream


def has_environment() -> bool:
    """Whether a task runs on this thread, so that the other functions of this module have an answer."""
    return _running_task() is not None
