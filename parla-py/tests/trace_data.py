"""Checks what a trace says about data, sharing no code with the runtime: is every version that was read the newest, and are there races?

The runtime writes down which version of each box a placed body found where it ran, and which version it wrote: that comes from what was
really copied, not from what the coherence protocol believes. Here the order of the program is rebuilt from the declared
dependencies, waits and spawns alone, and each read is held against it.

A *part* is what a body does between two moments at which it lets go of its arrays: from its start, or from where it goes on after a
wait, to its next wait or its end. Part A comes before part B if

* they belong to one task, in this order;
* B's task, or one that it waited for, depends on A's, directly or not;
* A's task spawned B's in part A or later, or waits for it after part A;
* A had ended before B's task was spawned: whoever spawned it may have waited for A.

The last one takes some for ordered that are so by chance only. So what is reported as a race is one; not every race is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, Any]
Box = tuple[tuple[int, int], ...]

TERMINAL = frozenset({"done", "failed", "cancelled"})
STARTED = frozenset({"running", "resumed"})


@dataclass
class Part:
    """What a body does between two moments at which it lets go of its arrays."""

    number: int
    task: int
    name: str
    before: int
    """The parts before it, a bit for each."""
    uses: list[Record]

    @property
    def bit(self) -> int:
        """Its own bit."""
        return 1 << self.number

    def follows(self, other: Part) -> bool:
        """Whether the program orders it after another part."""
        return bool(self.before & other.bit)


@dataclass
class Order:
    """The parts of all bodies, and what comes before what."""

    parts: list[Part] = field(default_factory=list)
    locations: dict[int, str] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Order:
        """Read a trace."""
        order = cls()
        deps: dict[int, list[int]] = {}
        at_start: dict[int, int] = {}
        so_far: dict[int, int] = {}  # by task, its parts and all before these
        waits: dict[int, list[int]] = {}
        ended = 0
        for record in records:
            event, task = record["event"], record["task"]
            if event == "spawned":
                deps[task] = list(record["deps"])
                order.locations[task] = record.get("location", "")
                at_start[task] = at_start.get(task, 0) | ended | so_far.get(record.get("parent"), 0)
            elif event in STARTED:
                before = so_far.get(task, 0) | at_start.get(task, 0)
                for other in [*deps.get(task, ()), *waits.pop(task, ())]:
                    before |= so_far.get(other, 0)
                part = Part(len(order.parts), task, record["name"], before, list(record.get("uses", ())))
                order.parts.append(part)
                so_far[task] = before | part.bit
            elif event == "suspended":
                waits[task] = list(record["on"])
                ended |= so_far.get(task, 0)
                # It has let go of its arrays: what it waits for uses them after it.
                open_tasks, seen = list(record["on"]), set()
                while open_tasks:
                    other = open_tasks.pop()
                    if other not in seen and other not in so_far:
                        seen.add(other)
                        at_start[other] = at_start.get(other, 0) | so_far.get(task, 0)
                        open_tasks += deps.get(other, ())
            elif event in TERMINAL:
                ended |= so_far.get(task, 0)
                if event == "failed":
                    order.failed.add(task)
        return order


def overlap(a: Box, b: Box) -> Box | None:
    """The part that two boxes have in common; None if there is none."""
    common = tuple((max(x[0], y[0]), min(x[1], y[1])) for x, y in zip(a, b, strict=True))
    return common if all(start < stop for start, stop in common) else None


def check_versions(records: Iterable[Record]) -> list[str]:
    """One sentence per read that did not find the newest version, naming the tasks."""
    order = Order.of(records)
    writers: dict[int, list[tuple[Part, Record]]] = {}
    by_version: dict[int, Part] = {}
    for part in order.parts:
        for use in part.uses:
            if use["writes"] is not None:
                writers.setdefault(use["array"], []).append((part, use))
                by_version[use["writes"]] = part
    violations = []
    for part in order.parts:
        for use in part.uses:
            for box, version in use["reads"]:
                what = f"{part.name}: read {_text(use, box)} in the memory of {use['memory']}"
                if version is None:
                    violations.append(f"{what}, where nobody wrote it or copied it to")
                    continue
                unfinished = by_version.get(version + 1)
                if unfinished is not None and version not in by_version and part.follows(unfinished):
                    violations.append(f"{what} as it was while {unfinished.name} wrote it")
                    continue
                found = by_version.get(version)
                for writer, written in writers.get(use["array"], ()):
                    common = overlap(box, written["region"])
                    if common is None or writer.task in order.failed or not part.follows(writer):
                        continue
                    # Two writers that nothing orders may have come in any order.
                    if version < written["writes"] and (found is None or writer.follows(found)):
                        source = "as it was in the beginning" if version == 0 else "from before that"
                        source = source if found is None else f"as {found.name} wrote it"
                        violations.append(f"{what} {source}, not as {writer.name} did")
                        break
    return violations


def find_races(records: Iterable[Record]) -> list[str]:
    """One sentence per pair of tasks that use the same elements, at least one of them writing, in no order: faults of the program."""
    order = Order.of(records)
    uses: dict[int, list[tuple[Part, Record]]] = {}
    for part in order.parts:
        for use in part.uses:
            uses.setdefault(use["array"], []).append((part, use))
    races: dict[tuple[int, int, int], str] = {}
    for array, those in uses.items():
        for i, (b, second) in enumerate(those):
            for a, first in those[:i]:
                key = (array, a.task, b.task)
                if a.task == b.task or b.follows(a) or a.follows(b) or key in races:
                    continue
                writes = [use["access"] != "input" for use in (first, second)]
                # Boxes around elements with gaps may overlap though the elements do not.
                if not any(writes) or not (first["exact"] and second["exact"]):
                    continue
                common = overlap(first["region"], second["region"])
                if common is not None:
                    verbs = ["writes" if write else "reads" for write in writes]
                    races[key] = (
                        f"a race of the program: {a.name} ({order.locations.get(a.task, '?')}) {verbs[0]} and {b.name} "
                        f"({order.locations.get(b.task, '?')}) {verbs[1]} {_text(first, common)}, and nothing orders the two"
                    )
    return list(races.values())


def _text(use: Record, box: Box) -> str:
    return f"{use['name']}[{', '.join(f'{start}:{stop}' for start, stop in box)}]"
