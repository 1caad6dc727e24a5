"""0.3's names for the sleeps that measurements use, in microseconds."""

from typing import Any

from parla._gone import Gone
from parla.kernels import sleep_gil as cpu_bsleep_gil
from parla.kernels import sleep_nogil as cpu_bsleep_nogil

__all__ = ["cpu_bsleep_gil", "cpu_bsleep_nogil"]


def __getattr__(name: str) -> Any:
    """The sleeps on GPUs: names that say what to use instead."""
    if name in ("gpu_bsleep_gil", "gpu_bsleep_nogil"):
        return Gone(name)
    raise AttributeError(f"module 'parla.cython.core' has no attribute {name!r}")
