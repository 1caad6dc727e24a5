"""What happened when a graph was run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from parla.graphs.model import Target, TaskKey

__all__ = ["TaskRun", "Trace"]


@dataclass(frozen=True)
class TaskRun:
    """One task as its body saw it. Times are seconds since the first task was about to be spawned."""

    target: Target
    """Where it ran: -1 is the CPU, 1, 2, ... are GPUs 0, 1, ..."""
    start: float
    end: float
    """When the body returned; a GPU may still have had work to do."""
    seen: dict[int, int] = field(default_factory=dict)
    """For each data block that it needed, who wrote it last: a position in the graph from 1; 0: nobody, -1: pieces of several."""


@dataclass
class Trace:
    """A run of a graph, as `verify` takes it."""

    mode: str
    seconds: float
    """From the first spawn until the last task was done, what devices did included."""
    time_scale: float = 1.0
    """What the times of the graph were multiplied with."""
    runs: dict[TaskKey, TaskRun] = field(default_factory=dict)
    final: dict[int, int] = field(default_factory=dict)
    """Who wrote each data block last, as the program finds it on the CPU after the run; as in `TaskRun.seen`."""
    runs_ahead: bool = False
    """Whether bodies on GPUs start before the kernels of those that they depend on have ended (real GPUs: their streams are in order)."""
    stats: dict[str, Any] = field(default_factory=dict)
    """The runtime's counts: ``Parla.stats()``."""
