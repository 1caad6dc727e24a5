"""Tasks: spawning, naming and waiting for them."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from parla import _native
from parla._native import Task, TaskID, TaskState, spawn
from parla._spaces import TaskList, TaskSpace, flatten
from parla.context import (
    get_current_context,
    get_current_devices,
    get_current_stream,
    get_current_task,
    has_environment,
    reserve_persistent_memory,
)
from parla.errors import InvalidSchedulerAccessException
from parla.function_decorators import specialize

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "AtomicTaskSpace",
    "CompletedTaskSpace",
    "Task",
    "TaskID",
    "TaskList",
    "TaskSpace",
    "TaskState",
    "Tasks",
    "finish",
    "get_current_context",
    "get_current_devices",
    "get_current_stream",
    "get_current_task",
    "has_environment",
    "reserve_persistent_memory",
    "spawn",
    "specialize",
    "tasks",
]

AtomicTaskSpace = TaskSpace
"""0.3's name: every space can be waited for."""


class CompletedTaskSpace(TaskSpace):
    """A space in which every task has ended already: for the first step of a loop that depends on the one before."""

    __slots__ = ()

    def __new__(cls) -> Self:
        """Every index is valid, also a negative one."""
        return super().__new__(cls, "completed", _completed=True)


def tasks(*args: Task | TaskID | TaskSpace | Iterable[Any]) -> TaskList:
    """Join tasks, ids, spaces and nested iterables of them into one list that can be awaited or depended on.

    Raises:
        TypeError: something among them is none of these; the message names its type.
    """
    return TaskList(flatten(args))


Tasks = TaskList
"""0.2's name for a collection of tasks."""


class finish:
    """``async with finish():`` waits at its end for the tasks that this task spawned inside it.

    Raises the first exception among them, unless the block itself raised.
    """

    def __init__(self) -> None:
        """A block to be entered once."""
        self._spawned: list[Task] = []
        self._outer: list[Task] | None = None

    async def __aenter__(self) -> None:
        """Begin to collect."""
        if _native.current_task() is None:
            raise InvalidSchedulerAccessException("`async with finish():` works inside a task only")
        self._outer = _native.set_finish_scope(self._spawned)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for everything collected; an outer block need not wait for it again."""
        _native.set_finish_scope(self._outer)
        try:
            await TaskList(self._spawned)
        except BaseException:
            if error is None:
                raise


def __getattr__(name: str) -> Any:
    """0.3's `get_scheduler`: a name that says what to use instead."""
    if name == "get_scheduler":
        from parla._gone import Gone

        return Gone(name)
    raise AttributeError(f"module 'parla.tasks' has no attribute {name!r}")
