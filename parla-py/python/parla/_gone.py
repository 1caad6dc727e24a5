"""What versions 0.2 and 0.3 had and this one can't have: names that say so, and what to use instead, when they are used."""

from __future__ import annotations

from typing import Any

from parla.errors import ParlaError

__all__ = ["Gone"]

_SCHEDULER = (
    "the scheduler is no object of its own any more. `with Parla() as rt:` gives the runtime: `rt.stats()` says what was done, "
    "`rt.why(task)` what a task waits for; `device.resources` says what a device has, `PArray.exists_on_device(device)` where data is"
)
_SLEEP = "it counted clock cycles of one kind of GPU; `parla.sim.kernel(us)` occupies the current device for so many microseconds"

#: Why each name is gone.
REASONS = {
    "get_scheduler": _SCHEDULER,
    "get_scheduler_context": _SCHEDULER,
    "Scheduler": f"{_SCHEDULER}. `with Parla(workers=n):` runs tasks",
    "get_device_manager": "devices are known without a runtime: `parla.get_all_devices()`, `cpu.devices`, `gpu.devices`",
    "get_stream_pool": "the runtime gives each task a stream per device: `get_current_context().streams`",
    "gpu_sleep_gil": _SLEEP,
    "gpu_sleep_nogil": _SLEEP,
    "gpu_bsleep_gil": _SLEEP,
    "gpu_bsleep_nogil": _SLEEP,
}


class Gone:
    """A name that can be imported, since many programs do so without a use for it, and whose use is an error that says why."""

    def __init__(self, name: str) -> None:
        """`name` is among `REASONS`."""
        self._name = name

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Raise the error."""
        raise ParlaError(str(self))

    def __getattr__(self, attribute: str) -> Any:
        raise AttributeError(f"{self}; so there is no {attribute!r}")

    def __str__(self) -> str:
        return f"{self._name}: {REASONS[self._name]}"

    def __repr__(self) -> str:
        return f"<{self}>"
