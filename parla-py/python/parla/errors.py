"""What can go wrong, as exceptions.

Every error of the runtime is a :class:`ParlaError`; where a Python user would expect a builtin (``ValueError`` for a
bad argument of ``spawn``, ``MemoryError`` for a full device) the class is both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parla.races import Race

__all__ = [
    "DeadlockError",
    "DependencyFailed",
    "DeviceError",
    "DeviceOutOfMemory",
    "InputError",
    "InvalidSchedulerAccessException",
    "ParlaError",
    "PlacementError",
    "PolicyError",
    "RaceError",
    "SchedulerException",
    "SpawnError",
    "TaskAwaitTasks",
    "TaskCancelled",
    "TaskException",
    "VariantDefinitionError",
    "WorkerThreadException",
]


class ParlaError(Exception):
    """Base of all errors that the runtime raises itself."""


class SpawnError(ParlaError, ValueError):
    """``spawn`` was given something it cannot use; the message names the argument."""


class PlacementError(ParlaError):
    """No device can run the task: none exists, or none is large enough; the message says which and why."""


class DeadlockError(ParlaError):
    """Tasks remain, but nothing runs and nothing can: each waiting task is named with what it waits for."""


class TaskCancelled(ParlaError):
    """The task was cancelled before it could run."""


class DependencyFailed(TaskCancelled):
    """The task did not run because a task it depends on failed; ``__cause__`` is that task's exception."""


class DeviceError(ParlaError):
    """A device refused or failed an operation."""


class DeviceOutOfMemory(DeviceError, MemoryError):
    """A device has no room, even after everything that can be evicted was."""


class PolicyError(ParlaError):
    """A scheduling policy made an impossible decision."""


class InputError(ParlaError):
    """With ``Parla(check=True)``: a task changed an array that it names as ``input`` only; the message names both.

    What it changed counts as lost where it did so: readers get another valid copy, or an error.
    """


class RaceError(ParlaError):
    """With ``Parla(check=True)``: tasks used the same elements, at least one of them writing, and nothing orders them."""

    def __init__(self, message: str, races: tuple[Race, ...] = ()) -> None:
        """An error about the races found, as text and as `parla.races.Race`."""
        super().__init__(message)
        self.races = races


class VariantDefinitionError(ParlaError):
    """A variant of a specialized function was defined twice, or for something that is no architecture."""


class SchedulerException(ParlaError, RuntimeError):
    """The runtime was used in a way that its state does not allow (0.2's name)."""


class InvalidSchedulerAccessException(SchedulerException):
    """Something that needs a running task or an open runtime was called without one."""


# Names of earlier versions that programs import.
TaskException = ParlaError
WorkerThreadException = SchedulerException
TaskAwaitTasks = TaskCancelled
