"""Every architecture by name; this module can be imported on any machine.

Where there is no GPU, `gpu` is empty: ``placement=[cpu, gpu]`` runs on the CPU, ``placement=gpu`` alone is a `PlacementError` that
says why. With ``PARLA_SIM_GPUS=n`` in the environment there are `n` simulated GPUs, with memory of their own, on any machine.
"""

from __future__ import annotations

from parla import _machine
from parla.cpu import cpu
from parla.device import Architecture, Device, Resources, register_architecture

__all__ = ["cpu", "gpu"]

_HOW_TO_SIMULATE = "set PARLA_SIM_GPUS=2 in the environment to simulate two GPUs"


class _GpuArchitecture(Architecture):
    """GPUs: real ones, or simulated ones that look the same to a program. They are looked for when they are first asked for."""

    __slots__ = ()

    @property
    def devices(self) -> list[Device]:
        """The GPUs that this process can use; none where there is neither a real nor a simulated one.

        Raises:
            ValueError: an environment variable such as ``PARLA_SIM_GPUS`` has a value that makes no sense; the text names it.
        """
        return [self(info.index) for info in _machine.current().of("gpu")]

    @property
    def num_devices(self) -> int:
        """How many GPUs there are."""
        return len(_machine.current().of("gpu"))

    @property
    def unavailable(self) -> str | None:
        """Why there is none, and how to simulate some; None where there is one."""
        machine = _machine.current()
        if machine.of("gpu"):
            return None
        reason = machine.unavailable.get("gpu", "this machine has no GPU")
        return reason if "PARLA_SIM_GPUS" in reason else f"{reason}; {_HOW_TO_SIMULATE}"

    def resources_of(self, index: int) -> Resources:
        """One whole device, and the bytes that tasks and arrays may use on it."""
        info = _machine.current().find("gpu", index)
        if info is None:
            raise IndexError(f"gpu({index}) does not exist: {self.describe_devices()}")
        return {"vcus": 1.0, "memory": info.capacity}

    def host_access(self, index: int) -> bool:
        """True for simulated GPUs."""
        info = _machine.current().find("gpu", index)
        return info is not None and info.host_access


def check_environment() -> None:
    """Check every environment variable that describes devices.

    Raises:
        ValueError: one has a value that makes no sense or can't be served; the text names it.
    """
    len(cpu)
    len(gpu)


#: GPUs, real or simulated; empty where there are none.
gpu: Architecture = _GpuArchitecture("gpu")
register_architecture(gpu)
