"""How long a task graph takes at best: schedules computed from its costs and the links, without running anything.

Devices are GPUs only. A copy keeps the source's engine for copies out and the destination's for copies in, a GPU runs one task at a time, and
memory is never short. `schedule` is greedy: of all tasks whose dependencies are scheduled, the one that can start first is next. For a
chain that is the best there is; for other graphs it is a good schedule, and `bound` a time that no schedule can beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from parla.graphs import Graph, GraphTask, TaskKey

HOST = -1
"""A memory; the others are those of GPUs 0, 1, ..."""


@dataclass(frozen=True)
class Links:
    """What copies cost, as Parla's simulated GPUs have it."""

    host_gb_s: float
    """GB/s between the host and each GPU, in each direction."""
    latency_us: float
    """Before the first byte."""
    peer: bool
    """Whether GPUs copy to each other at the same rate; else through the host, in and out one after the other."""

    def seconds(self, source: int, destination: int, n_bytes: int) -> float:
        """How long a copy takes on idle links."""
        ways = 2 if HOST not in (source, destination) and not self.peer else 1
        return ways * (self.latency_us * 1e-6 + n_bytes / (self.host_gb_s * 1e9))


@dataclass
class Schedule:
    """When everything is done, and what was moved."""

    seconds: float = 0.0
    bytes_moved: int = 0
    start: dict[TaskKey, float] = field(default_factory=dict)
    device: dict[TaskKey, int] = field(default_factory=dict)


def schedule(
    graph: Graph,
    links: Links,
    n_gpus: int,
    block_bytes: Sequence[int],
    *,
    prefetch: bool = True,
    overhead_s: float = 0.0,
    choose: bool = False,
) -> Schedule:
    """A schedule of the graph on so many GPUs.

    Args:
        graph: the tasks; each has to name its GPU, unless `choose`.
        links: what copies cost.
        n_gpus: how many GPUs there are.
        block_bytes: the size of each data block.
        prefetch: copies start as soon as the bytes exist; else when the task could start, and its GPU waits for them one after the other.
        overhead_s: added to each task.
        choose: each task goes to the GPU where it can start first, whatever it names.
    """
    state = _State(graph, links, n_gpus, block_bytes, prefetch)
    done: dict[TaskKey, float] = {}
    waiting = {task.key: len(set(task.dependencies)) for task in graph}
    dependents: dict[TaskKey, list[TaskKey]] = {key: [] for key in graph.tasks}
    for before, after in set(graph.edges()):
        dependents[before].append(after)
    position = {key: i for i, key in enumerate(graph.tasks)}
    ready = [key for key, n in waiting.items() if not n]
    result = Schedule()
    while ready:
        best = None
        for key in ready:
            task = graph.tasks[key]
            allowed = max((done[d] for d in task.dependencies), default=0.0)
            for device in range(n_gpus) if choose else [_named_gpu(task, n_gpus)]:
                found = (state.start(task, device, allowed, commit=False), position[key], device, allowed)
                if best is None or found < best:
                    best = found
        assert best is not None
        _, number, device, allowed = best
        task = graph.tasks[next(key for key in ready if position[key] == number)]
        ready.remove(task.key)
        start = state.start(task, device, allowed, commit=True)
        end = start + next(iter(task.work.values())).time_us * 1e-6 + overhead_s
        state.run(task, device, end)
        done[task.key] = end
        result.start[task.key], result.device[task.key] = start, device
        for dependent in dependents[task.key]:
            waiting[dependent] -= 1
            if not waiting[dependent]:
                ready.append(dependent)
    result.seconds = max(done.values(), default=0.0)
    result.bytes_moved = state.bytes_moved
    return result


def bound(graph: Graph, n_gpus: int) -> float:
    """Seconds that no schedule can beat: the longest path, or the work of all tasks divided among the GPUs. Copies are left out."""
    longest: dict[TaskKey, float] = {}
    for key in graph.order():
        task = graph.tasks[key]
        longest[key] = _seconds(task) + max((longest[d] for d in task.dependencies), default=0.0)
    return max(max(longest.values(), default=0.0), sum(map(_seconds, graph)) / n_gpus)


def _seconds(task: GraphTask) -> float:
    return next(iter(task.work.values())).time_us * 1e-6


def _named_gpu(task: GraphTask, n_gpus: int) -> int:
    location = next(iter(task.work))[0]
    if not 1 <= location <= n_gpus:
        raise ValueError(f"{task.key} names location {location}; a schedule needs one of {n_gpus} GPUs")
    return location - 1


class _State:
    """Who is busy until when, and since when which memory has which block."""

    def __init__(self, graph: Graph, links: Links, n_gpus: int, block_bytes: Sequence[int], prefetch: bool) -> None:
        self._links = links
        self._bytes = block_bytes
        self._prefetch = prefetch
        self._compute = [0.0] * n_gpus
        # Engines for copies by (memory, direction); the host's are never short.
        self._engine: dict[tuple[int, str], float] = {}
        self._valid = [{HOST if block.location < 1 else block.location - 1: 0.0} for block in graph.data]
        self.bytes_moved = 0

    def start(self, task: GraphTask, device: int, allowed: float, commit: bool) -> float:
        """When a task can start on a device, its data there; `commit` plans the copies."""
        engine = self._engine if commit else dict(self._engine)
        earliest = 0.0 if self._prefetch else max(allowed, self._compute[device])
        there = max(allowed, self._compute[device])
        for block in task.inputs:
            valid = self._valid[block]
            if device in valid:
                there = max(there, valid[device])
                continue
            begun, seconds, source = min(
                (max(since, earliest, self._free(engine, memory, device)), self._links.seconds(memory, device, self._bytes[block]), memory)
                for memory, since in valid.items()
            )
            ended = begun + seconds
            for key in self._engines(source, device):
                engine[key] = ended
            if not self._prefetch:
                earliest = ended
            there = max(there, ended)
            if commit:
                valid[device] = ended
                self.bytes_moved += self._bytes[block]
        return there

    def run(self, task: GraphTask, device: int, end: float) -> None:
        """A task keeps its device until `end`, and what it writes is only there."""
        self._compute[device] = end
        for block in task.outputs:
            self._valid[block] = {device: end}

    def _engines(self, source: int, destination: int) -> list[tuple[int, str]]:
        return [key for key in ((source, "out"), (destination, "in")) if key[0] != HOST]

    def _free(self, engine: dict[tuple[int, str], float], source: int, destination: int) -> float:
        return max((engine.get(key, 0.0) for key in self._engines(source, destination)), default=0.0)
