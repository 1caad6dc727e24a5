"""Synthetic task graphs as plain data: tasks with costs, dependencies and accesses, and blocks of data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

__all__ = ["ANYWHERE", "ANY_GPU", "CPU", "DataBlock", "Graph", "GraphError", "GraphTask", "Target", "TaskKey", "Work", "gpu_location"]

ANYWHERE = -2
"""A location: any device."""
CPU = -1
"""A location: the CPU."""
ANY_GPU = 0
"""A location: any GPU. The locations 1, 2, ... are ``gpu:0``, ``gpu:1``, ..."""

Target = tuple[int, ...]
"""The locations of one way to run a task; several of them mean several devices together."""


class GraphError(ValueError):
    """A graph, or the file it comes from, makes no sense; the text names the file and line where there are some."""


def gpu_location(index: int) -> int:
    """The location that means the GPU of this index."""
    return index + 1


@dataclass(frozen=True, order=True)
class TaskKey:
    """What a task is called: an index in a space of tasks."""

    index: tuple[int, ...]
    space: str = "T"

    def __str__(self) -> str:
        """As it is written in programs: ``T[0, 1]``."""
        return f"{self.space}[{', '.join(map(str, self.index))}]"


@dataclass(frozen=True)
class Work:
    """What a task costs on one kind of device."""

    time_us: float
    """Microseconds that it takes, those with the GIL included."""
    vcus: float = 1.0
    """The fraction of the device that it keeps; 0 claims nothing."""
    gil_accesses: int = 0
    """How many times it takes the GIL, at even distances."""
    gil_fraction: float = 0.0
    """The part of its time in which it holds the GIL."""
    memory: int = 0
    """Bytes that it needs on the device beside its data."""

    def __post_init__(self) -> None:
        """Refuse what can't be.

        Raises:
            GraphError: a number is out of its range.
        """
        if not 0 <= self.time_us < 1e12:
            raise GraphError(f"a time of {self.time_us} us: expected 0 or more")
        if not 0 <= self.vcus <= 1:
            raise GraphError(f"{self.vcus} of a device: expected 0 to 1")
        if self.gil_accesses < 0:
            raise GraphError(f"{self.gil_accesses} accesses to the GIL: expected 0 or more")
        if not 0 <= self.gil_fraction <= 1:
            raise GraphError(f"{self.gil_fraction} of the time with the GIL: expected 0 to 1")
        if self.memory < 0:
            raise GraphError(f"{self.memory} bytes of memory: expected 0 or more")

    @property
    def gil_us(self) -> float:
        """Microseconds with the GIL at each access."""
        return self.time_us * self.gil_fraction / self.gil_accesses if self.gil_accesses else 0.0

    @property
    def free_us(self) -> float:
        """Microseconds without the GIL, all together."""
        return self.time_us - self.gil_us * self.gil_accesses


@dataclass(frozen=True)
class DataBlock:
    """A block of data: how many elements it has, and where it is at first."""

    size: int
    location: int = CPU

    def __post_init__(self) -> None:
        """Refuse what can't be.

        Raises:
            GraphError: a negative size, or a location that is not the CPU or a certain GPU.
        """
        if self.size < 0:
            raise GraphError(f"a block of {self.size} elements: expected 0 or more")
        if self.location != CPU and self.location < 1:
            raise GraphError(f"data at location {self.location}: expected -1 (CPU) or 1, 2, ... (GPU 0, 1, ...)")


@dataclass(frozen=True)
class GraphTask:
    """A task: its costs by target, what it depends on, and which blocks of data it uses."""

    key: TaskKey
    work: dict[Target, Work]
    dependencies: tuple[TaskKey, ...] = ()
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    readwrites: tuple[int, ...] = ()

    @property
    def inputs(self) -> tuple[int, ...]:
        """The blocks whose contents it needs."""
        return tuple(dict.fromkeys(self.reads + self.readwrites))

    @property
    def outputs(self) -> tuple[int, ...]:
        """The blocks that it changes."""
        return tuple(dict.fromkeys(self.writes + self.readwrites))

    @property
    def data(self) -> tuple[int, ...]:
        """All blocks that it uses, each once."""
        return tuple(dict.fromkeys(self.reads + self.writes + self.readwrites))


@dataclass
class Graph:
    """Tasks in the order in which they are spawned, and the data they work on."""

    tasks: dict[TaskKey, GraphTask] = field(default_factory=dict)
    data: list[DataBlock] = field(default_factory=list)

    @classmethod
    def of(cls, tasks: Iterable[GraphTask], data: Iterable[DataBlock] = ()) -> Graph:
        """A graph of these tasks, checked.

        Raises:
            GraphError: as `check` says, or two tasks have the same name.
        """
        graph = cls(data=list(data))
        for task in tasks:
            if task.key in graph.tasks:
                raise GraphError(f"{task.key} is there twice")
            graph.tasks[task.key] = task
        graph.check()
        return graph

    def __len__(self) -> int:
        """How many tasks there are."""
        return len(self.tasks)

    def __iter__(self) -> Iterator[GraphTask]:
        """The tasks in the order in which they are spawned."""
        return iter(self.tasks.values())

    def edges(self) -> Iterator[tuple[TaskKey, TaskKey]]:
        """Every dependency, as (what must be done before, what depends on it)."""
        for task in self:
            for dependency in task.dependencies:
                yield dependency, task.key

    def check(self) -> None:
        """Check that every name means something and that the tasks can be done in some order.

        Raises:
            GraphError: a task without targets; a dependency or a block that doesn't exist; a block used in two roles; a cycle.
        """
        for task in self:
            check_task(task, self)
        self.order()

    def order(self) -> list[TaskKey]:
        """The tasks so that each comes after its dependencies, otherwise as they are spawned.

        Raises:
            GraphError: they depend on each other in a circle.
        """
        dependents: dict[TaskKey, list[TaskKey]] = {key: [] for key in self.tasks}
        missing: dict[TaskKey, int] = {}
        for task in self:
            dependencies = set(task.dependencies)
            missing[task.key] = len(dependencies)
            for dependency in dependencies:
                dependents[dependency].append(task.key)
        order = [key for key, n in missing.items() if not n]
        for key in order:  # grows while it is read
            for dependent in dependents[key]:
                missing[dependent] -= 1
                if not missing[dependent]:
                    order.append(dependent)
        if len(order) < len(self.tasks):
            circle = [str(key) for key, n in missing.items() if n]
            shown = ", ".join(circle[:5]) + (", ..." if len(circle) > 5 else "")
            raise GraphError(f"tasks depend on each other in a circle, or on one: {shown}")
        return order


def check_task(task: GraphTask, graph: Graph) -> None:
    """Check one task of a graph whose tasks are all known.

    Raises:
        GraphError: as `Graph.check` says, but for cycles.
    """
    if not task.work:
        raise GraphError(f"{task.key} has no device to run on")
    for target in task.work:
        if not target:
            raise GraphError(f"{task.key}: an empty list of devices")
        for location in target:
            if location < ANYWHERE:
                raise GraphError(f"{task.key}: no device has the number {location}")
    for dependency in task.dependencies:
        if dependency not in graph.tasks:
            raise GraphError(f"{task.key} depends on {dependency}, which is not in the graph")
    used: set[int] = set()
    for role in (task.reads, task.writes, task.readwrites):
        for block in role:
            if not 0 <= block < len(graph.data):
                raise GraphError(f"{task.key} uses the data block {block}; there are {len(graph.data)}")
            if block in used:
                raise GraphError(f"{task.key} names the data block {block} twice")
            used.add(block)
