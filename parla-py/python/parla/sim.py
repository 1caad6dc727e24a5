"""Kernels that take a known time: programs are modelled with them, and on simulated GPUs many GPUs make sense on few processors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from parla import context
from parla.errors import DeviceError
from parla.kernels import sleep_nogil

__all__ = ["kernel"]


def kernel(us: float, fn: Callable[[], Any] | None = None) -> None:
    """Occupy the current device for `us` microseconds, and call `fn` as the kernel's work.

    In a task on a simulated GPU the kernel is enqueued on the current stream and this returns at once: `fn` runs in the order of the
    stream, and the processors are free while the simulated device is busy. On a real GPU a kernel that computes nothing fills it for
    that time; the first one on a GPU is loaded there, for which CUDA may wait until the GPU has nothing to do. On a CPU, also outside tasks, it calls `fn` and then waits `us` microseconds, with the GIL released.

    Args:
        us: microseconds of the modelled kernel; the time that `fn` takes counts towards it on a simulated GPU.
        fn: what the kernel computes, for example ``lambda: numpy.add(a, b, out=c)``; its result is ignored, an exception fails the task.

    Raises:
        TypeError, ValueError: `us` is no number, negative or not finite, or `fn` can't be called.
        DeviceError: the current device is a real GPU and there is an `fn`: it cannot run that.
    """
    if isinstance(us, bool) or not isinstance(us, (int, float)):
        raise TypeError(f"us must be a number of microseconds, not {type(us).__name__}")
    if not (math.isfinite(us) and us >= 0):
        raise ValueError(f"us must be finite and not negative, got {us!r}")
    if fn is not None and not callable(fn):
        raise TypeError(f"fn must be a function, not {type(fn).__name__}")
    stream = context.get_current_stream() if context.has_environment() else None
    if isinstance(stream, context.GpuStream):
        if stream.ptr is not None and fn is not None:
            raise DeviceError(f"parla.sim.kernel: {stream.device.name} is a real GPU; only simulated ones run a function as their kernel")
        stream.launch(fn, us)
        return
    if fn is not None:
        fn()
    if us:
        sleep_nogil(us)
