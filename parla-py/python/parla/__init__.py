"""Parla: tasks for Python on one machine with many CPUs and GPUs.

    from parla import Parla, TaskSpace, spawn
    from parla.cpu import cpu

    with Parla():
        T = TaskSpace("T")
        for i in range(4):
            @spawn(T[i], [T[i - 1]], placement=cpu)
            def step():
                print(f"step {i}")

Leaving the block waits for all tasks. `parla.tasks` has everything about tasks, `parla.devices` about where they run.
"""

from parla.context import (
    get_current_context,
    get_current_devices,
    get_current_stream,
    get_current_task,
    has_environment,
    reserve_persistent_memory,
)
from parla.device import (
    Gib,
    Memory,
    MemoryKind,
    Mib,
    get_all_architectures,
    get_all_devices,
    get_architecture,
    kib,
)
from parla.errors import (
    DeadlockError,
    DependencyFailed,
    DeviceError,
    DeviceOutOfMemory,
    InvalidSchedulerAccessException,
    ParlaError,
    PlacementError,
    PolicyError,
    SpawnError,
    TaskCancelled,
    VariantDefinitionError,
)
from parla.function_decorators import specialize, specialized
from parla.kernels import sleep_gil, sleep_nogil
from parla.parray import PArray, asarray
from parla.runtime import Parla
from parla.tasks import (
    AtomicTaskSpace,
    CompletedTaskSpace,
    Task,
    TaskID,
    TaskList,
    Tasks,
    TaskSpace,
    TaskState,
    finish,
    spawn,
    tasks,
)

__version__ = "0.1.0"

__all__ = [
    "AtomicTaskSpace",
    "CompletedTaskSpace",
    "DeadlockError",
    "DependencyFailed",
    "DeviceError",
    "DeviceOutOfMemory",
    "Gib",
    "InvalidSchedulerAccessException",
    "Memory",
    "MemoryKind",
    "Mib",
    "PArray",
    "Parla",
    "ParlaError",
    "PlacementError",
    "PolicyError",
    "SpawnError",
    "Task",
    "TaskCancelled",
    "TaskID",
    "TaskList",
    "TaskSpace",
    "TaskState",
    "Tasks",
    "VariantDefinitionError",
    "asarray",
    "finish",
    "get_all_architectures",
    "get_all_devices",
    "get_architecture",
    "get_current_context",
    "get_current_devices",
    "get_current_stream",
    "get_current_task",
    "has_environment",
    "kib",
    "reserve_persistent_memory",
    "sleep_gil",
    "sleep_nogil",
    "spawn",
    "specialize",
    "specialized",
    "tasks",
]


def __getattr__(name: str) -> object:
    """`TaskEnvironment`, which few programs need, is imported when it is asked for; and 0.3's names of this package."""
    if name == "TaskEnvironment":
        from parla.environments import TaskEnvironment

        return TaskEnvironment
    if name == "parla_num_threads":
        from parla.cpu import default_workers

        return default_workers()
    if name in ("gpu_sleep_gil", "gpu_sleep_nogil"):
        from parla._gone import Gone

        return Gone(name)
    raise AttributeError(f"module 'parla' has no attribute {name!r}")
