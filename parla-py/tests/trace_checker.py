"""Checks a recorded trace against what the program declared, sharing no code with the runtime.

Input is `rt.trace`: records in time order, each with `event`, `task`, `name`, `time` and `worker`; `spawned` also has
`deps`, `vcus`, `memory` and `location`, `suspended` has `on`. The checker rebuilds from them which task had to run
after which, what was claimed at every moment, and what state each task was in, and says in words where the run disagrees.
`trace_data` does the same for the versions of data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trace_data import check_versions

TERMINAL = frozenset({"done", "failed", "cancelled"})
STARTED = frozenset({"running", "resumed"})

# Which events may follow an event of the same task. A task that waits may be cancelled where it waits.
FOLLOWS: dict[str | None, frozenset[str]] = {
    None: frozenset({"spawned"}),
    "spawned": frozenset({"ready", "cancelled"}),
    "ready": frozenset({"placed", "running", "resumed", "cancelled"}),
    "placed": frozenset({"running", "failed", "cancelled"}),
    "running": frozenset({"suspended", "draining", "done", "failed", "cancelled", "ready"}),
    "suspended": frozenset({"ready", "resumed", "failed", "cancelled"}),
    "resumed": frozenset({"suspended", "draining", "done", "failed", "cancelled", "ready"}),
    "draining": frozenset({"resumed", "done", "failed", "cancelled"}),
    "done": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}

Record = Mapping[str, Any]


@dataclass
class TaskStory:
    """What the trace says about one task."""

    name: str
    spawned: Record | None = None
    last: str | None = None
    runs: list[float] = field(default_factory=list)
    finished: float | None = None
    outcome: str | None = None
    waits_on: tuple[int, ...] = ()


def check_trace(
    records: Iterable[Record],
    *,
    vcus: float | None = None,
    memory: float | None = None,
    complete: bool = True,
    abandoned: bool = False,
) -> list[str]:
    """Returns one sentence per violation, naming the tasks; an empty list when the run kept its promises.

    `vcus` and `memory` are the machine's capacities in the trace's own units; None leaves that check out.
    `complete` says that the runtime has ended, so every task must have ended too. `abandoned` says that it gave up on
    waiting tasks (deadlock, Ctrl-C, an error of the block), which then go on early with an error thrown in.
    """
    records = list(records)
    violations: list[str] = []
    stories: dict[int, TaskStory] = {}
    _check_sequences(records, stories, violations)
    _check_edges(stories, violations)
    if not abandoned:
        _check_waits(records, stories, violations)
    _check_claims(records, stories, vcus, memory, violations)
    if complete:
        _check_ends(stories, violations)
    if any("uses" in record for record in records):
        violations += check_versions(records)
    return violations


def _check_sequences(records: list[Record], stories: dict[int, TaskStory], violations: list[str]) -> None:
    """Each task's events follow one another as `FOLLOWS` allows, and time never runs backwards."""
    now = float("-inf")
    for record in records:
        event, task, time = record["event"], record["task"], record["time"]
        story = stories.setdefault(task, TaskStory(record["name"]))
        if event == "waited":
            if record["on"] and story.last not in STARTED:
                violations.append(f"{story.name}: waited though its last event is {story.last}")
            continue
        if event not in FOLLOWS:
            violations.append(f"{story.name}: unknown event {event!r}")
            continue
        if time < now:
            violations.append(f"{story.name}: {event} at {time} is recorded after an event at {now}")
        now = max(now, time)
        if record["name"] != story.name:
            violations.append(f"{story.name}: renamed to {record['name']!r} at its event {event}")
        if event not in FOLLOWS[story.last]:
            place = "as its first event" if story.last is None else f"after {story.last}"
            violations.append(f"{story.name}: {event} {place}")
        if event == "spawned" and story.spawned is None:
            story.spawned = record
        if event in STARTED:
            if event == "running":
                story.runs.append(time)
                # A body that blocked in a wait goes on beside the workers, so this holds for the first event only.
                if record["worker"] < 0:
                    violations.append(f"{story.name}: {event} on no worker")
        if event in TERMINAL and story.outcome is None:
            story.finished, story.outcome = time, event
        story.last = event


def _check_edges(stories: dict[int, TaskStory], violations: list[str]) -> None:
    """A body starts only after every declared dependency is done, and never when one of them isn't."""
    for story in stories.values():
        if story.spawned is None:
            continue
        for dep in story.spawned["deps"]:
            source = stories.get(dep)
            if source is None or source.spawned is None:
                name = f"task {dep}" if source is None else source.name
                if story.runs:
                    violations.append(f"{story.name}: ran though its dependency {name} was never spawned")
                continue
            if story.runs and source.outcome != "done":
                end = source.outcome or "not finished"
                violations.append(f"{story.name}: ran though its dependency {source.name} is {end}")
            elif story.runs and story.runs[0] < source.finished:
                violations.append(
                    f"{story.name}: ran at {story.runs[0]}, before its dependency {source.name} was done at "
                    f"{source.finished}"
                )
            if source.outcome in ("failed", "cancelled") and story.outcome not in ("cancelled", None):
                violations.append(
                    f"{story.name}: {story.outcome} though its dependency {source.name} is {source.outcome}"
                )


def _check_waits(records: list[Record], stories: dict[int, TaskStory], violations: list[str]) -> None:
    """An await goes on when all it waits for has ended, or as soon as one of them has failed."""
    waiting: dict[int, tuple[int, ...]] = {}
    ended: dict[int, str] = {}
    for record in records:
        event, task = record["event"], record["task"]
        if event == "suspended":
            waiting[task] = tuple(record["on"])
        elif event == "resumed" and task in waiting:
            on = waiting.pop(task)
            if any(ended.get(t) in ("failed", "cancelled") for t in on):
                continue
            for other in on:
                if other not in ended:
                    name = stories[other].name if other in stories else f"task {other}"
                    violations.append(f"{stories[task].name}: resumed at {record['time']}, before {name} had ended")
        if event in TERMINAL:
            ended[task] = event


def _check_claims(
    records: list[Record],
    stories: dict[int, TaskStory],
    vcus: float | None,
    memory: float | None,
    violations: list[str],
) -> None:
    """What running bodies claim never exceeds the machine, and all of it is back at the end."""
    for what, capacity in (("vcus", vcus), ("memory", memory)):
        if capacity is None:
            continue
        held: dict[int, float] = {}
        reported = False
        for record in records:
            event, task = record["event"], record["task"]
            spawned = stories[task].spawned
            if spawned is None:
                continue
            if event in STARTED:
                held[task] = spawned[what]
            elif event == "suspended" or event in TERMINAL or event == "ready":
                held.pop(task, None)
            total = sum(held.values())
            if total > capacity + 1e-9 and not reported:  # sums of fractions
                reported = True
                names = ", ".join(stories[t].name for t, claim in held.items() if claim)
                violations.append(f"{names}: hold {total} {what} of {capacity} at {record['time']}")
        for task, claim in held.items():
            if claim:
                violations.append(f"{stories[task].name}: {claim} {what} never given back")


def _check_ends(stories: dict[int, TaskStory], violations: list[str]) -> None:
    """Spawned minus finished is nothing: every task ended exactly once."""
    for story in stories.values():
        if story.spawned is not None and story.outcome is None:
            violations.append(f"{story.name}: never ended, its last event is {story.last}")
