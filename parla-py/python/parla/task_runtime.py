"""0.2's module name for what a running task can ask about itself."""

from typing import Any

from parla._gone import Gone
from parla.context import (
    get_current_context,
    get_current_devices,
    get_current_stream,
    get_current_task,
    has_environment,
    reserve_persistent_memory,
)

__all__ = [
    "get_current_context",
    "get_current_devices",
    "get_current_stream",
    "get_current_task",
    "has_environment",
    "reserve_persistent_memory",
]


def __getattr__(name: str) -> Any:
    """What was the scheduler's: names that say what to use instead."""
    if name in ("Scheduler", "get_scheduler_context"):
        return Gone(name)
    raise AttributeError(f"module 'parla.task_runtime' has no attribute {name!r}: what 0.2's runtime kept here for itself is gone")
