"""Races of a program: tasks that use the same elements of an array in no order, at least one of them writing.

What such tasks read and leave behind is undefined. `Parla(check=True)` looks for them at the end of its block and raises a `RaceError`;
``python -m parla.races run.json`` looks in a trace that `Parla(trace="run.json")` or ``PARLA_TRACE`` has written, and ends with status 1 if there are any.

Only what the runtime knows of makes an order, as data moves by that alone: dependencies, waits, and what is spawned when. Locks and events of
the program's own do not, and neither do accesses from outside of tasks count. A *part* is what a body does between two moments at which it lets go of its arrays: from its
start, or from where it goes on after a wait, to its next wait or its end. Part A comes before part B if

* they belong to one task, in this order;
* B's task, or one that it waited for, depends on A's, directly or not;
* A's task spawned B's in part A or later, or waits for it after part A;
* somebody outside of tasks has waited for A's task, or asked and heard that it has ended, before B's was spawned.

In doubt two parts count as ordered, and operands with gaps (``a[::2]``) are left out. So what is reported as a race is one; not every race is found.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parla.errors import RaceError

__all__ = ["Access", "Race", "find_races", "main"]

Record = Mapping[str, Any]
Box = tuple[tuple[int, int], ...]

_STARTED = ("running", "resumed")
_TERMINAL = ("done", "failed", "cancelled")
_MOST = 20
"""So many races an error names."""
_ENOUGH = 10_000
"""After so many races nobody looks for more."""
_RIVALS = 8
"""So many tasks that race for the same elements are held against later ones."""


@dataclass(frozen=True)
class Access:
    """What one of the two tasks does."""

    task: str
    """Its name."""
    location: str
    """Where it was spawned, as ``file:line``."""
    writes: bool

    def __str__(self) -> str:
        """In words."""
        return f"{self.task} ({self.location}) {'writes' if self.writes else 'reads'}"


@dataclass(frozen=True)
class Race:
    """Two tasks that use the same elements of an array in no order."""

    array: str
    """The array's name."""
    box: Box
    """The elements: (start, stop) for each dimension."""
    first: Access
    second: Access

    def __str__(self) -> str:
        """In words."""
        elements = ", ".join(f"{start}:{stop}" for start, stop in self.box)
        return f"{self.first} and {self.second} {self.array}[{elements or '()'}]"


class Part:
    """What a body does between two moments at which it lets go of its arrays."""

    __slots__ = ("before", "name", "number", "task", "uses", "waited")

    def __init__(self, number: int, task: int, name: str, before: int, uses: list[Record]) -> None:
        """Number of the part and of its task, the parts before it (a bit for each), the arrays it uses."""
        self.number = number
        self.task = task
        self.name = name
        self.before = before
        self.uses = uses
        self.waited = 0
        """What it has waited for without letting go."""

    def follows(self, other: Part) -> bool:
        """Whether the program orders it after another part."""
        return bool(self.before >> other.number & 1)


def parts(records: Iterable[Record]) -> Iterator[Part]:
    """The parts of all bodies that use arrays, in the order in which they began."""
    return _Order(records).parts()


class _Order:
    """Reads a trace. What came before a task is forgotten when nobody asks for it any more: this is what takes memory."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = list(records)
        self._deps: dict[int, list[int]] = {}
        self._at_start: dict[int, int] = {}
        self._so_far: dict[int, tuple[int, int | None]] = {}
        """By task, what is before its newest part, and the number of that."""
        self._open: dict[int, Part] = {}
        self._waits: dict[int, list[int]] = {}
        self._ended: set[int] = set()
        self._asked: Counter[int] = Counter()
        for record in self._records:
            self._asked.update(record.get("deps") or record.get("on") or ())
            parent = record.get("parent")
            if parent is not None:
                self._asked[parent] += 1
            if record["event"] == "waited":
                self._asked[record["task"]] += 1

    def parts(self) -> Iterator[Part]:
        over = 0  # all parts of which a thread outside of bodies has learnt that they have ended, and those before them
        n_parts = 0
        for record in self._records:
            event, task = record["event"], record["task"]
            if event == "spawned":
                self._deps[task] = list(record["deps"])
                before = _union(self._at_start.get(task, 0), over)
                parent = record.get("parent")
                self._at_start[task] = before if parent is None else self._add(before, [parent])
            elif event in _STARTED:
                before = _union(self._past(task), self._at_start.pop(task, 0))
                before = self._add(before, self._deps.pop(task, ()))
                before = self._add(before, self._waits.pop(task, ()))
                self._so_far[task] = before, None
                if uses := list(record.get("uses", ())):
                    part = Part(n_parts, task, record["name"], before, uses)
                    self._so_far[task] = before, n_parts
                    self._open[task] = part
                    n_parts += 1
                    yield part
            elif event == "waited":
                if not record["on"]:
                    over = self._add(over, [task])
                    continue
                self._asked[task] -= 1
                before = self._add(self._past(task), record["on"])
                self._so_far[task] = before, None
                if task in self._open:
                    self._open[task].waited |= before
            elif event == "suspended":
                self._open.pop(task, None)
                self._waits[task] = list(record["on"])
                self._let_go(task, record["on"])
            elif event in _TERMINAL:
                self._open.pop(task, None)
                self._add(0, self._deps.pop(task, ()))
                self._add(0, self._waits.pop(task, ()))
                self._ended.add(task)
                self._forget(task)

    def _past(self, task: int) -> int:
        """The task's newest part and all before it."""
        found = self._so_far.get(task)
        if found is None:
            return 0
        before, number = found
        if number is None:
            return before
        before |= 1 << number
        if self._asked[task] > 1:
            self._so_far[task] = before, None  # one number for all who ask
        return before

    def _add(self, before: int, tasks: Iterable[int]) -> int:
        for task in tasks:
            before = _union(before, self._past(task))
            self._asked[task] -= 1
            self._forget(task)
        return before

    def _forget(self, task: int) -> None:
        if task in self._ended and self._asked[task] <= 0:
            self._so_far.pop(task, None)

    def _let_go(self, task: int, on: Iterable[int]) -> None:
        """A task that waits has let go of its arrays: what it waits for uses them after it."""
        open_tasks, seen = list(on), set()
        while open_tasks:
            other = open_tasks.pop()
            if other not in seen and other not in self._so_far and other not in self._ended:
                seen.add(other)
                self._at_start[other] = _union(self._at_start.get(other, 0), self._past(task))
                open_tasks += self._deps.get(other, ())


def _union(a: int, b: int) -> int:
    """`a | b`, without a copy where one of them has nothing."""
    return a | b if a and b else a or b


class _Uses:
    """The uses of one box of an array which later ones may race with; what a later one covers and follows is dropped."""

    __slots__ = ("kept", "near", "readers", "writers")

    def __init__(self) -> None:
        self.near: list[tuple[_Uses, Box, bool]] = []
        """The boxes that overlap it, what they have in common with it, and whether they are inside it."""
        self.writers: list[Part] = []
        self.readers: list[Part] = []
        self.kept = 16

    def add(self, part: Part, writes: bool) -> None:
        if writes:
            self.writers.append(part)
            return
        self.readers.append(part)
        if len(self.readers) > self.kept:
            # Who races with an earlier reader that this one follows races with this one.
            self.readers = [reader for reader in self.readers if reader is part or not part.follows(reader)]
            self.kept = 2 * max(len(self.readers), 8)


def find_races(records: Iterable[Record]) -> list[Race]:
    """The races that a trace shows, in the order in which their tasks were spawned.

    Where many tasks race for the same elements not every pair of them is named.

    Args:
        records: those of ``rt.trace``.
    """
    records = list(records)
    all_uses = _by_box(records)
    found: dict[tuple[int, int, int], tuple[Part, Part, Race]] = {}
    where = {record["task"]: record.get("location", "?") for record in records if record["event"] == "spawned"}
    spawned = {task: order for order, task in enumerate(where)}
    for part in parts(records):
        for use in part.uses:
            if not use["exact"]:
                continue  # boxes around elements with gaps may overlap though the elements do not
            writes = use["access"] != "input"
            mine = all_uses[use["array"], _box(use["region"])]
            for uses, common, inside in mine.near:
                for others, other_writes in ((uses.writers, True), (uses.readers, False)):
                    if not (writes or other_writes):
                        continue
                    unordered = [other for other in others if not part.follows(other) and other.task != part.task]
                    for other in unordered:
                        both = [(other, other_writes), (part, writes)]
                        if spawned.get(part.task, 0) < spawned.get(other.task, 0):
                            both.reverse()
                        key = spawned.get(both[0][0].task, 0), spawned.get(both[1][0].task, 0), use["array"]
                        first, second = (Access(one.name, where.get(one.task, "?"), verb) for one, verb in both)
                        found.setdefault(key, (other, part, Race(use["name"], common, first, second)))
                    if writes and inside:
                        others[:] = unordered[-_RIVALS:]
            mine.add(part, writes)
        part.before = 0  # nobody asks what came before it any more
        if len(found) > _ENOUGH:
            break
    # Who has waited for the other is in order with it, and which of the two began first is a matter of chance.
    kept = [key for key, (a, b, _) in found.items() if not (a.waited >> b.number | b.waited >> a.number) & 1]
    return [found[key][2] for key in sorted(kept)]


def _box(region: Any) -> Box:
    return tuple((start, stop) for start, stop in region)


def _by_box(records: list[Record]) -> dict[tuple[int, Box], _Uses]:
    """By array and box, where its uses are kept; each knows those that overlap."""
    boxes: dict[int, set[Box]] = {}
    for record in records:
        for use in record.get("uses", ()):
            if use["exact"]:
                boxes.setdefault(use["array"], set()).add(_box(use["region"]))
    found: dict[tuple[int, Box], _Uses] = {}
    for array, those in boxes.items():
        for box in those:
            found[array, box] = _Uses()
        for a, b in _overlapping(those):
            common = overlap(a, b)
            if common is not None:
                found[array, a].near.append((found[array, b], common, common == b))
                if a != b:
                    found[array, b].near.append((found[array, a], common, common == a))
    return found


def _overlapping(boxes: set[Box]) -> Iterator[tuple[Box, Box]]:
    """The pairs of boxes that overlap along one dimension, each box also with itself."""
    rank = len(next(iter(boxes)))
    if rank == 0:
        yield (), ()
        return
    # The one in which they differ most.
    axis = max(range(rank), key=lambda axis: len({box[axis] for box in boxes}))
    reaching: list[Box] = []
    for box in sorted(boxes, key=lambda box: box[axis]):
        yield box, box
        reaching = [other for other in reaching if other[axis][1] > box[axis][0]]
        for other in reaching:
            yield box, other
        reaching.append(box)


def overlap(a: Box, b: Box) -> Box | None:
    """The part that two boxes have in common; None if there is none."""
    common = tuple((max(x[0], y[0]), min(x[1], y[1])) for x, y in zip(a, b))
    return common if all(start < stop for start, stop in common) else None


def error_of(races: list[Race]) -> RaceError | None:
    """The error that names them; None if there are none."""
    if not races:
        return None
    shown = "".join(f"\n  {race}" for race in races[:_MOST])
    more = f"\n  and {len(races) - _MOST} more" if len(races) > _MOST else ""
    count = "a race" if len(races) == 1 else f"{len(races)} races"
    return RaceError(
        f"{count} of the program: nothing orders tasks that use the same elements, so what they read and leave there is undefined; "
        f"give one of the two the other as dependency{shown}{more}",
        tuple(races),
    )


def main(arguments: list[str]) -> int:
    """Print the races in a trace file; returns the exit status: 1 if there are any, 2 if there is no such file."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(
            "usage: python -m parla.races FILE\n\nLists the races in a trace that Parla(trace=FILE) or PARLA_TRACE=FILE has written."
        )
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        records = json.loads(Path(arguments[0]).read_text())["parlaRecords"]
    except OSError as error:
        print(f"parla.races: {error}", file=sys.stderr)
        return 2
    except (ValueError, KeyError, TypeError):
        print(f"parla.races: {arguments[0]} is no trace that Parla has written to its end", file=sys.stderr)
        return 2
    found = error_of(find_races(records))
    print("no races" if found is None else found)
    return 0 if found is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
