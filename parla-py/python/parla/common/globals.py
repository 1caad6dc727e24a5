"""0.3's module name for what a running task can ask about itself, and for CuPy where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

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
    """`cupy`, the module or None where it is not installed, and `CUPY_ENABLED`; imported when a program asks for them."""
    if name == "CUPY_ENABLED":
        return importlib.util.find_spec("cupy") is not None
    if name == "cupy":
        return importlib.import_module("cupy") if importlib.util.find_spec("cupy") is not None else None
    raise AttributeError(
        f"module 'parla.common.globals' has no attribute {name!r}: what 0.3's runtime kept here for itself does not exist any more"
    )
