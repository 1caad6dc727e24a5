"""0.3's module name for tasks, spaces and collections of them."""

from __future__ import annotations

from typing import Any

from parla._native import Task
from parla.device import Device
from parla.function_decorators import specialize
from parla.tasks import AtomicTaskSpace, CompletedTaskSpace, TaskList, TaskSpace, spawn

__all__ = [
    "AtomicTaskList",
    "AtomicTaskSpace",
    "BackendTaskSpace",
    "CompletedTaskSpace",
    "GPUEnvironment",
    "Task",
    "TaskCollection",
    "TaskList",
    "TaskSpace",
    "spawn",
    "specialize",
    "wait",
]

TaskCollection = TaskList
AtomicTaskList = TaskList
BackendTaskSpace = TaskSpace
GPUEnvironment = Device  # what a context consists of, to which libraries register conversions


def wait(barrier: Any) -> None:
    """Wait for a task, a space or a list of tasks: the same as ``barrier.wait()``."""
    barrier.wait()
