"""0.3's module name for what a running task can ask about itself, and for CuPy where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from parla._gone import Gone
from parla.context import (
    get_current_context,
    get_current_devices,
    get_current_stream,
    get_current_task,
    has_environment,
    reserve_persistent_memory,
)

if TYPE_CHECKING:
    from parla.device import Device

__all__ = [
    "DeviceType",
    "SynchronizationType",
    "get_active_device",
    "get_current_context",
    "get_current_devices",
    "get_current_stream",
    "get_current_task",
    "has_environment",
    "reserve_persistent_memory",
]


class DeviceType(IntEnum):
    """0.3's numbers for kinds of devices."""

    INVALID = -2
    ANY = -1
    CPU = 0
    GPU = 1
    CUDA = 1


class SynchronizationType(IntEnum):
    """0.3's names for ``spawn(runahead=...)``."""

    NONE = 0
    BLOCKING = 1
    NON_BLOCKING = 2
    USER = 3


def get_active_device() -> Device:
    """The current device of the running task.

    Raises:
        InvalidSchedulerAccessException: no task runs on this thread.
    """
    return get_current_context().device


def __getattr__(name: str) -> Any:
    """`cupy`, the module or None where it is not installed, and `CUPY_ENABLED`; imported when a program asks for them."""
    if name == "CUPY_ENABLED":
        return importlib.util.find_spec("cupy") is not None
    if name in ("get_scheduler", "get_device_manager", "get_stream_pool"):
        return Gone(name)
    if name == "cupy":
        return importlib.import_module("cupy") if importlib.util.find_spec("cupy") is not None else None
    raise AttributeError(
        f"module 'parla.common.globals' has no attribute {name!r}: what 0.3's runtime kept here for itself does not exist any more"
    )
