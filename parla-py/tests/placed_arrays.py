"""Tasks run on a device by themselves, and what happened in each memory."""

from __future__ import annotations

from parla import spawn


def memories(rt):
    """What happened in each memory, by its name."""
    return {memory["name"]: memory for memory in rt.stats()["memories"]}


def run_on(device, body, **operands):
    """Runs `body` as a task on its own and gives its result."""
    return spawn(placement=device, **operands)(body).result(20)
