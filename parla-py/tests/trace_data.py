"""Checks what a trace says about data, sharing no code with the native runtime: is every version that was read the newest?

The runtime writes down which version of each box a placed body found where it ran, and which version it wrote: that comes from what was
really copied, not from what the coherence protocol believes. Here the order of the program is rebuilt from the declared
dependencies, waits and spawns alone (`parla.races` describes how), and each read is held against it.
"""

from __future__ import annotations

from collections.abc import Iterable

from parla.races import Box, Part, Record, overlap, parts


def check_versions(records: Iterable[Record]) -> list[str]:
    """One sentence per read that did not find the newest version, naming the tasks."""
    records = list(records)
    all_parts = list(parts(records))
    failed = {record["task"] for record in records if record["event"] == "failed"}
    writers: dict[int, list[tuple[Part, Record]]] = {}
    by_version: dict[int, Part] = {}
    parents = {record["task"]: record.get("parent") for record in records if record["event"] == "spawned"}
    for part in all_parts:
        for use in part.uses:
            if use["writes"] is not None:
                writers.setdefault(use["array"], []).append((part, use))
                by_version[use["writes"]] = part
    violations = []
    for part in all_parts:
        for use in part.uses:
            for box, version in use["reads"]:
                what = f"{part.name}: read {_text(use, box)} in the memory of {use['memory']}"
                if version is None:
                    violations.append(f"{what}, where nobody wrote it or copied it to")
                    continue
                unfinished = by_version.get(version + 1)
                if unfinished is not None and version not in by_version and _shares_home(part, use, unfinished, parents):
                    version += 1  # the body has done what it did before it spawned this one, and may let go of it later
                elif unfinished is not None and version not in by_version and part.follows(unfinished):
                    violations.append(f"{what} as it was while {unfinished.name} wrote it")
                    continue
                found = by_version.get(version)
                for writer, written in writers.get(use["array"], ()):
                    common = overlap(box, written["region"])
                    if common is None or writer.task in failed or not part.follows(writer):
                        continue
                    # Two writers that nothing orders may have come in any order.
                    if version < written["writes"] and (found is None or writer.follows(found)):
                        source = "as it was in the beginning" if version == 0 else "from before that"
                        source = source if found is None else f"as {found.name} wrote it"
                        violations.append(f"{what} {source}, not as {writer.name} did")
                        break
    return violations


def _shares_home(part: Part, use: Record, writer: Part, parents: dict[int, int | None]) -> bool:
    """Whether a task reads at home what a body that it comes from still holds there: both use the same bytes, and need not wait for each other."""
    task: int | None = part.task
    while task is not None and task != writer.task:
        task = parents.get(task)
    at_home = any(mine["array"] == use["array"] and mine["memory"] == "host" for mine in writer.uses)
    return task is not None and use["memory"] == "host" and at_home


def _text(use: Record, box: Box) -> str:
    return f"{use['name']}[{', '.join(f'{start}:{stop}' for start, stop in box)}]"
