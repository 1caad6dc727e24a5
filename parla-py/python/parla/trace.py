"""What happened in a runtime: the records of ``rt.trace`` and files for Perfetto or chrome://tracing.

A record is a dict with ``event`` ("spawned", "ready", "placed" (devices were chosen, data are on their way), "running", "suspended",
"draining" (the body has returned, its devices are still at work), "resumed", "waited" (the body has learnt of the end of other tasks without being suspended for
it), "done", "failed", "cancelled"), ``task`` (a number), ``name``, ``time`` (seconds since the runtime started) and ``worker`` (-1: a thread that is no worker).
"placed" adds ``devices`` (their names) and ``why`` (the parts of the policy's score, if it says); "spawned" adds ``deps`` (task numbers), ``parent`` (the task whose body
spawned it, or None), ``vcus`` and ``memory`` (what it will claim) and ``location`` (``file:line``); "suspended"
and "waited" add ``on`` (none: a thread outside of bodies has learnt of this task's end); "running" and "resumed" of tasks that use arrays add ``uses``, a list with a dict for each operand: ``array`` (a number), ``name``,
``region`` (pairs of bounds), ``access`` ("input", "output", "inout"), ``exact`` (whether it uses every element of the region), ``memory``, ``reads`` (pairs of
a region and the version found there: the number of a write, 0 for the first contents, None for none) and ``writes`` (the version it
makes, or None; there are no versions where no policy had to place the task); "suspended", "done" and "failed" add ``gil``: seconds since the body last started, less the time in waits and kernels known to release the GIL.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["to_chrome", "write"]

_BEGINS = ("running", "resumed")
_DEVICES = 1
_ENDS = ("suspended", "draining", "done", "failed")


def check_writable(path: Path) -> None:
    """Raise at the start of a run, not at its end, what writing the trace would raise."""
    with path.open("w"):
        pass


def to_chrome(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The records as a document in Chrome's trace event format: a row per worker and per device, an arrow per dependency."""
    events: list[dict[str, Any]] = []
    begun: dict[int, dict[str, Any]] = {}
    ended: dict[int, dict[str, Any]] = {}
    spawned: dict[int, dict[str, Any]] = {}
    placed: dict[int, list[str]] = {}
    started: dict[int, float] = {}
    for record in records:
        task, event = record["task"], record["event"]
        if event == "spawned":
            spawned[task] = record
        elif event == "placed":
            placed[task] = record["devices"]
        elif event in _BEGINS:
            begun[task] = record
            started.setdefault(task, record["time"])
            for dep in spawned.get(task, {}).get("deps", ()) if event == "running" else ():
                if dep in ended:
                    events += _arrow(len(events), ended[dep], record)
        elif event in _ENDS and task in begun:
            begin = begun.pop(task)
            arguments = {
                "task": task,
                "event": event,
                "gil_us": record.get("gil", 0.0) * 1e6,
                "spawned_at": spawned.get(task, {}).get("location"),
            }
            events.append(
                {
                    "name": record["name"],
                    "cat": "task",
                    "ph": "X",
                    "ts": begin["time"] * 1e6,
                    "dur": (record["time"] - begin["time"]) * 1e6,
                    "pid": 0,
                    "tid": begin["worker"] + 1,
                    "args": arguments,
                }
            )
            if event not in ("suspended", "draining"):
                ended[task] = record
                events += [_on_device(device, record, started[task]) for device in placed.get(task, ())]
        elif event == "cancelled":
            events.append(
                {
                    "name": f"{record['name']} cancelled",
                    "ph": "i",
                    "s": "g",
                    "ts": record["time"] * 1e6,
                    "pid": 0,
                    "tid": 0,
                }
            )
    devices = sorted({event["tid"] for event in events if event["pid"] == _DEVICES})
    for row, name in enumerate(devices):
        events.append({"name": "thread_name", "ph": "M", "pid": _DEVICES, "tid": row, "args": {"name": name}})
    for event in events:
        if isinstance(event["tid"], str):
            event["tid"] = devices.index(event["tid"])
    if devices:
        events.append({"name": "process_name", "ph": "M", "pid": _DEVICES, "tid": 0, "args": {"name": "devices"}})
    threads = sorted({event["tid"] for event in events if event["pid"] != _DEVICES})
    for tid in threads:
        name = f"worker {tid - 1}" if tid else "outside"
        events.append({"name": "thread_name", "ph": "M", "pid": 0, "tid": tid, "args": {"name": name}})
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _on_device(device: str, end: dict[str, Any], start: float) -> dict[str, Any]:
    """A task on a device, from the start of its body to the end of what this gave to the device; ``tid`` is the device's name for now."""
    return {
        "name": end["name"],
        "cat": "device",
        "ph": "X",
        "ts": start * 1e6,
        "dur": (end["time"] - start) * 1e6,
        "pid": _DEVICES,
        "tid": device,
        "args": {"task": end["task"], "event": end["event"]},
    }


def _arrow(number: int, source: dict[str, Any], target: dict[str, Any]) -> list[dict[str, Any]]:
    common = {"name": "dependency", "cat": "dependency", "id": number, "pid": 0}
    return [
        {**common, "ph": "s", "ts": source["time"] * 1e6, "tid": source["worker"] + 1},
        {**common, "ph": "f", "bp": "e", "ts": target["time"] * 1e6, "tid": target["worker"] + 1},
    ]


def write(path: Path, records: list[dict[str, Any]]) -> None:
    """Write `to_chrome` of the records as JSON; the records themselves are in it too, under ``parlaRecords``."""
    path.write_text(json.dumps({**to_chrome(records), "parlaRecords": records}))
