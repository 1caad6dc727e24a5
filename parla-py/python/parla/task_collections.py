"""0.2's module name for spaces and lists of tasks."""

from parla.tasks import CompletedTaskSpace, TaskSpace, finish, tasks

__all__ = ["CompletedTaskSpace", "TaskSpace", "finish", "tasks"]
