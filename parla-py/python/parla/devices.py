"""Every architecture by name; this module can be imported on any machine.

`gpu` is empty in this version: ``placement=[cpu, gpu]`` runs on the CPU, ``placement=gpu`` alone is a
`PlacementError`.
"""

from __future__ import annotations

import os

from parla.cpu import cpu
from parla.device import Architecture, Device, register_architecture

__all__ = ["cpu", "gpu"]

_UNAVAILABLE = (
    "this version of Parla runs tasks on CPUs only, it has no GPU backend; "
    "write placement=cpu, or placement=[cpu, gpu] to use GPUs where a version supports them"
)


class _GpuArchitecture(Architecture):
    """GPUs: named, so that portable programs can be written, and absent."""

    __slots__ = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Always empty in this version.

        Raises:
            ValueError: ``PARLA_SIM_GPUS`` asks for simulated GPUs, which this version doesn't have.
        """
        _refuse_simulated_gpus()
        return ()

    @property
    def unavailable(self) -> str:
        """Why there are none."""
        return _UNAVAILABLE


def check_environment() -> None:
    """Check every environment variable that describes devices.

    Raises:
        ValueError: one has a value that makes no sense or can't be served; the text names it.
    """
    _refuse_simulated_gpus()
    len(cpu)


def _refuse_simulated_gpus() -> None:
    simulated = os.environ.get("PARLA_SIM_GPUS", "").strip()
    if simulated not in ("", "0"):
        raise ValueError(f"PARLA_SIM_GPUS={simulated}: this version of Parla has no simulated GPUs; unset it")


#: GPUs; empty in this version.
gpu: Architecture = _GpuArchitecture("gpu")
register_architecture(gpu)
