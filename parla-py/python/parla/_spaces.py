"""Task spaces and lists: everything about indexing that is more than one integer or string."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from parla import _native
from parla._native import Awaiter, Task, TaskID

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TaskList", "TaskSpace", "flatten", "select"]


class TaskSpace(_native.Space):
    """A family of task names: ``T[3]``, ``T[i, j]``, ``T["solve", k]``, ``T[0:n]``.

    Indexing gives the `TaskID` of one task, whether it is spawned yet or not, or a `TaskList` of several:

    * a slice per dimension (``T[0:j, k]``) is the cartesian product, stop exclusive; a missing stop means the shape, or
      the existing members if there is none;
    * a list per dimension names its elements; a string is one key;
    * a negative integer, or one outside of `start` and `shape`, names nothing: ``[T[i - 1]]`` is right at i = 0.

    Args:
        name: used in the names of its tasks: ``T_3``.
        shape: one past the last index, an integer or one per dimension; None: unbounded.
        start: the first valid index, an integer or one per dimension.
    """

    __slots__ = ()

    def __new__(
        cls,
        name: str = "",
        shape: int | Sequence[int] | None = None,
        start: int | Sequence[int] = 0,
        *,
        _completed: bool = False,
    ) -> Self:
        """Make an empty space."""
        if not isinstance(name, str):
            raise TypeError(f"name: expected a string, not {type(name).__name__}")
        starts = _bounds("start", start)
        made: Self = super().__new__(cls, name, None if shape is None else _bounds("shape", shape), starts, _completed)
        return made

    @property
    def view(self) -> TaskSpace:
        """The space itself (0.3 has a separate object for indexing without creating tasks)."""
        return self

    def wait(self, timeout: float | None = None) -> None:
        """Wait until every task of the space has ended, also those that its tasks spawn into it meanwhile.

        Raises the first exception among them. (``await`` of a space means the tasks spawned so far.)

        Args:
            timeout: seconds for all of them together; None: no limit.

        Raises:
            TimeoutError: not all ended in time.
            DeadlockError: they can never end.
        """
        deadline = None if timeout is None else _now() + _seconds(timeout)
        while True:
            members = TaskList(self)
            Awaiter(members.tasks)._wait(None if deadline is None else deadline - _now(), timeout)
            if len(self) == len(members):
                return

    def __iter__(self) -> Iterator[TaskID]:
        """The ids of the spawned tasks, in the order in which they were first named."""
        return iter(self._ids())

    def __contains__(self, item: object) -> bool:
        """Whether a task (or an id) is of this space and spawned."""
        if isinstance(item, Task):
            item = item.taskid
        return isinstance(item, TaskID) and item.space is self and item.task is not None

    def __add__(self, other: Iterable[Any]) -> TaskList:
        """The tasks of both."""
        return TaskList(flatten((self, other)))

    def __await__(self) -> Any:
        """Wait in a coroutine until every task spawned so far has ended: gives None or raises the first exception."""
        return Awaiter(list(self))._iterator()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self)} tasks)"


class TaskList(Sequence[Any]):
    """Several tasks or ids: to be depended on, awaited, waited for, indexed and joined."""

    __slots__ = ("_members", "_selected")

    def __init__(self, members: Iterable[Task | TaskID] = (), *, _selected: str | None = None) -> None:
        """A list of the members in their order."""
        self._members = tuple(members)
        self._selected = _selected or f"a list of {len(self._members)} tasks"

    @property
    def tasks(self) -> list[Task]:
        """The tasks among the members that are spawned."""
        found = (member if isinstance(member, Task) else member.task for member in self._members)
        return [task for task in found if task is not None]

    def wait(self, timeout: float | None = None) -> None:
        """Wait until every member that is spawned has ended; raises the first exception among them.

        In a task it is one wait: what the task holds is given back until all have ended.

        Args:
            timeout: seconds for all of them together; None: no limit.

        Raises:
            TimeoutError: not all ended in time.
            DeadlockError: they can never end.
        """
        Awaiter(self.tasks)._wait(timeout, timeout)

    def __len__(self) -> int:
        return len(self._members)

    def __bool__(self) -> bool:
        return bool(self._members)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return TaskList(self._members[index])
        return self._members[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._members)

    def __contains__(self, item: object) -> bool:
        if isinstance(item, Task) and item.taskid is not None:
            return item in self._members or item.taskid in self._members
        if isinstance(item, TaskID) and item.task is not None:
            return item in self._members or item.task in self._members
        return item in self._members

    def __add__(self, other: Iterable[Any]) -> TaskList:
        return TaskList(flatten((self, other)))

    def __radd__(self, other: Iterable[Any]) -> TaskList:
        return TaskList(flatten((other, self)))

    def __eq__(self, other: object) -> bool:
        return self._members == other._members if isinstance(other, TaskList) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._members)

    def __await__(self) -> Any:
        """Wait in a coroutine until all have ended: gives None or raises the first exception."""
        return Awaiter(list(self._members))._iterator()

    def __repr__(self) -> str:
        return f"TaskList({', '.join(map(str, self._members[:8]))}{', ...' if len(self) > 8 else ''})"


def flatten(items: Iterable[Any]) -> Iterator[Task | TaskID]:
    """Every task and id in nested iterables, in order."""
    stack = [iter(items)]
    while stack:
        for item in stack[-1]:
            if isinstance(item, Task | TaskID):
                yield item
            elif isinstance(item, str | bytes) or not isinstance(item, Iterable):
                raise TypeError(f"expected a Task, TaskID, TaskSpace or an iterable of those, not {type(item).__name__}")
            elif len(stack) > 100:
                raise ValueError("tasks nested more than 100 deep")
            else:
                stack.append(iter(item))
                break
        else:
            stack.pop()


def select(space: _native.Space, key: Any) -> TaskID | TaskList:
    """Index with anything but integers and strings in range: slices, lists, other objects, what is out of range."""
    parts = key if type(key) is tuple else (key,)
    if any(isinstance(part, slice | list | range) for part in parts):
        axes = [_axis(space, dimension, part) for dimension, part in enumerate(parts)]
        if None in axes:
            found: Iterable[TaskID | None] = _matching(space, parts)
        else:
            found = (space._id(index[0] if len(index) == 1 else index) for index in itertools.product(*axes))  # type: ignore[arg-type]
        ids = [one for one in found if one is not None]
    else:
        one = space._id(key[0] if type(key) is tuple and len(key) == 1 else key)
        ids = [] if one is None else [one]
    if len(ids) == 1:
        return ids[0]
    return TaskList(ids, _selected=f"{space.name or 'the space'}[{_show(key)}]")


def _axis(space: _native.Space, dimension: int, part: Any) -> Iterable[Any] | None:
    """The indices that one part of a key stands for; None: those that exist."""
    if isinstance(part, list):
        return part
    if isinstance(part, range):
        return list(part)
    if not isinstance(part, slice):
        return [part]
    shape, start = space._shape, space._start
    stop = part.stop
    if stop is None:
        if shape is None or dimension >= len(shape):
            return None
        stop = shape[dimension]
    first = start[min(dimension, len(start) - 1)] if start else 0
    begin = first if part.start is None else operator.index(part.start)
    step = 1 if part.step is None else operator.index(part.step)
    if step <= 0:
        raise ValueError(f"the step of a slice of task ids is positive, not {step}")
    # As a task id is never negative, -1 in a slice is just out of range: it does not count from the end.
    begin += -((begin - first) // step) * step if begin < first else 0
    return range(begin, operator.index(stop), step)


def _matching(space: _native.Space, parts: tuple[Any, ...]) -> Iterator[TaskID]:
    """The existing members that a key with an open slice stands for, in order of their index."""
    found = []
    for one in space._ids():
        index = one.id if type(one.id) is tuple else (one.id,)
        if len(index) == len(parts) and all(map(_accepts, parts, index)):
            found.append(one)
    try:
        found.sort(key=lambda one: one.id if type(one.id) is tuple else (one.id,))
    except TypeError:
        pass  # indices of different kinds have no order: as they were spawned
    return iter(found)


def _accepts(part: Any, index: Any) -> bool:
    if isinstance(part, slice):
        if not isinstance(index, int):
            return part == slice(None)
        start = 0 if part.start is None else part.start
        step = 1 if part.step is None else part.step
        return index >= start and (part.stop is None or index < part.stop) and (index - start) % step == 0
    return index in part if isinstance(part, list | range) else bool(index == part)


def _bounds(argument: str, value: Any) -> list[int]:
    values = value if isinstance(value, Iterable) else (value,)
    try:
        bounds = [operator.index(one) for one in values]
    except TypeError:
        raise TypeError(f"{argument}: expected an integer or a sequence of them, not {value!r}") from None
    if any(bound < 0 for bound in bounds):
        raise ValueError(f"{argument}: task indices are not negative, got {value!r}")
    return bounds


def _show(key: Any) -> str:
    def one(part: Any) -> str:
        if isinstance(part, slice):
            text = f"{'' if part.start is None else part.start}:{'' if part.stop is None else part.stop}"
            return text if part.step is None else f"{text}:{part.step}"
        return repr(part)

    return ", ".join(map(one, key)) if type(key) is tuple else one(key)


def _seconds(timeout: Any) -> float:
    if not isinstance(timeout, int | float):
        raise TypeError(f"timeout is a number of seconds or None, not {type(timeout).__name__}")
    if timeout != timeout:
        raise ValueError("timeout is a number of seconds or None, not NaN")
    return float(timeout)


def _now() -> float:
    import time

    return time.monotonic()
