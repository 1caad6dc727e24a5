"""Checks a run of a graph against the graph, sharing no code with the runtime."""

from __future__ import annotations

from collections.abc import Iterable

from parla.graphs.model import ANY_GPU, ANYWHERE, CPU, Graph, GraphTask, Target, TaskKey, Work
from parla.graphs.trace import Trace

__all__ = ["races", "verify"]

_CLOCK_S = 1e-6
"""How far apart two looks at the clock on different threads may be."""


def verify(graph: Graph, trace: Trace) -> list[str]:
    """One sentence for everything that is wrong with a run; an empty list if it is right.

    Every task ran once, on devices that it allows, for its time at least, after everything that it depends on; every block that it
    needed was as the last task before it had left it; no device was given away more than once; at the end the CPU has the newest data.
    """
    wrong = [f"{key} ran but is not in the graph" for key in trace.runs if key not in graph.tasks]
    wrong += [f"{task.key} did not run" for task in graph if task.key not in trace.runs]
    if wrong:
        return wrong
    history = _History(graph)
    for task in graph:
        wrong += _order(graph, task, trace)
        wrong += _place(task, trace)
        for block in task.inputs:
            wrong += history.check_version(f"{task.key} found in", block, trace.runs[task.key].seen.get(block), task.key)
    for block in trace.final:
        wrong += history.check_version("in the end the CPU found in", block, trace.final[block], None)
    return wrong + _length(graph, trace) + _claims(graph, trace)


def races(graph: Graph) -> list[str]:
    """One sentence for each pair of tasks that use a block, one of them changing it, with nothing that orders them."""
    history = _History(graph)
    found = []
    for block in range(len(graph.data)):
        users = [task for task in graph if block in task.data]
        for i, one in enumerate(users):
            for other in users[i + 1 :]:
                changed = block in one.outputs or block in other.outputs
                if changed and not history.ordered(one.key, other.key):
                    found.append(f"{one.key} and {other.key} use data block {block} in no order")
    return found


class _History:
    """Which task comes before which, and who may have written a block last."""

    def __init__(self, graph: Graph) -> None:
        self._keys = list(graph.tasks)
        self._number = {key: i for i, key in enumerate(self._keys)}
        self._before: dict[TaskKey, int] = {}  # a bit per task, by number
        for key in graph.order():
            ancestors = 0
            for dependency in graph.tasks[key].dependencies:
                ancestors |= self._before[dependency] | 1 << self._number[dependency]
            self._before[key] = ancestors
        self._writers: list[list[TaskKey]] = [[] for _ in graph.data]
        for task in graph:
            for block in task.outputs:
                self._writers[block].append(task.key)

    def is_before(self, one: TaskKey, other: TaskKey) -> bool:
        return bool(self._before[other] >> self._number[one] & 1)

    def ordered(self, one: TaskKey, other: TaskKey) -> bool:
        return self.is_before(one, other) or self.is_before(other, one)

    def check_version(self, what: str, block: int, version: int | None, reader: TaskKey | None) -> list[str]:
        """Whether a reader (None: the program, after everything) may see this version of a block."""
        if version is None:
            return [f"{what} data block {block}: nothing was recorded"]
        before = [w for w in self._writers[block] if w != reader and (reader is None or self.is_before(w, reader))]
        beside = [w for w in self._writers[block] if reader and w != reader and not self.ordered(w, reader)]
        last = [w for w in before if not any(self.is_before(w, other) for other in before)]
        expected = {self._number[w] + 1 for w in last + beside} or {0}
        if not last:
            expected.add(0)
        if version in expected:
            return []
        wanted = " or ".join(self._name(v) for v in sorted(expected))
        return [f"{what} data block {block} {self._name(version)} instead of {wanted}"]

    def _name(self, version: int) -> str:
        if version == 0:
            return "the initial contents"
        if 1 <= version <= len(self._keys):
            return f"what {self._keys[version - 1]} wrote"
        return "pieces of several versions" if version == -1 else f"bytes that nobody wrote ({version})"


def _order(graph: Graph, task: GraphTask, trace: Trace) -> list[str]:
    run = trace.runs[task.key]
    wrong = []
    if run.target == (CPU,) and run.end - run.start < (seconds := _seconds(graph, trace, task.key)) - _CLOCK_S:
        wrong.append(f"{task.key} took {run.end - run.start:.6f} s instead of {seconds:.6f} s")
    for dependency in task.dependencies:
        other = trace.runs[dependency]
        # A body may return before its device is done, but its time has to pass before anything depends on it.
        done = max(other.end, other.start + _seconds(graph, trace, dependency))
        if trace.runs_ahead and CPU not in (*run.target, *other.target):
            done = other.end  # their streams are in order
        if run.start < done - _CLOCK_S:
            wrong.append(f"{task.key} started at {run.start:.6f} s, before {dependency} was done at {done:.6f} s")
    return wrong


def _length(graph: Graph, trace: Trace) -> list[str]:
    """Nothing ends before the times of the tasks on the longest path have passed."""
    longest: dict[TaskKey, float] = {}
    for key in graph.order():
        before = max((longest[dependency] for dependency in graph.tasks[key].dependencies), default=0.0)
        longest[key] = before + _seconds(graph, trace, key)
    least = max(longest.values(), default=0.0)
    if trace.seconds < least - _CLOCK_S:
        return [f"all was over after {trace.seconds:.6f} s, but tasks of {least:.6f} s follow one another"]
    return []


def _seconds(graph: Graph, trace: Trace, key: TaskKey) -> float:
    """How long a task should have taken where it ran."""
    work = _work(graph.tasks[key], trace)
    return work.time_us * trace.time_scale * 1e-6 if work else 0.0


def _work(task: GraphTask, trace: Trace) -> Work | None:
    """The costs of a task where it ran; None if it may not run there."""
    target = trace.runs[task.key].target
    return next((work for wanted, work in task.work.items() if _allows(wanted, target, trace.mode)), None)


def _place(task: GraphTask, trace: Trace) -> list[str]:
    if _work(task, trace) is not None:
        return []
    return [f"{task.key} ran on {trace.runs[task.key].target}, allowed are {', '.join(map(str, task.work))}"]


def _allows(wanted: Target, actual: Target, mode: str) -> bool:
    if len(wanted) != len(actual) or len(set(actual)) != len(actual):
        return False
    return all(_is_one(want, got, mode) for want, got in zip(wanted, actual, strict=True))


def _is_one(wanted: int, actual: int, mode: str) -> bool:
    if wanted == ANYWHERE:
        return True
    if wanted == CPU or actual == CPU:
        return wanted == actual
    return wanted in (ANY_GPU, actual) or mode == "policy"


def _claims(graph: Graph, trace: Trace) -> list[str]:
    """No device gives more than the whole of itself at any moment."""
    changes: dict[int, list[tuple[float, int, float, TaskKey]]] = {}
    for task in graph:
        run = trace.runs[task.key]
        work = _work(task, trace)
        if work is None or not work.vcus or run.end - run.start <= 2 * _CLOCK_S:
            continue
        for location in run.target:
            at = changes.setdefault(location, [])
            at.append((run.start + _CLOCK_S, 1, work.vcus, task.key))
            at.append((run.end - _CLOCK_S, 0, -work.vcus, task.key))
    wrong = []
    for location, events in changes.items():
        held = 0.0
        running: set[TaskKey] = set()
        for time, begins, vcus, key in sorted(events):
            held += vcus
            (running.add if begins else running.discard)(key)
            if held > 1 + 1e-6:  # sums of fractions
                wrong.append(f"{_names(running)} held {held:g} of device {location} at {time:.6f} s")
                break
    return wrong


def _names(keys: Iterable[TaskKey]) -> str:
    return ", ".join(sorted(map(str, keys)))
