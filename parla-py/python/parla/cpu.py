"""The CPU as an architecture: one device, or one per worker.

Environment, read when the devices are first asked for:

* ``PARLA_CPU_ARCHITECTURE``: ``whole`` (the default: one device for all cores) or ``cores`` (one per worker).
* ``PARLA_CORES``: the most cores to use; the default is the physical cores open to this process.
* ``PARLA_NUM_THREADS``: the number of workers; the default is one per core.
* ``PARLA_CPU_MEM``: bytes of memory that tasks may reserve, also ``512M`` or ``8GiB`` (powers of 1024); the
  default is what this process may use. With ``cores`` it is divided evenly.
"""

from __future__ import annotations

from typing import Any

from parla import _machine
from parla.device import Architecture, Device, Resources, register_architecture

__all__ = ["cpu"]


class _CpuArchitecture(Architecture):
    """The processor cores open to this process."""

    __slots__ = ()

    @property
    def devices(self) -> list[Device]:
        """One device for all cores, or one per worker with ``PARLA_CPU_ARCHITECTURE=cores``.

        Raises:
            ValueError: an environment variable has a value that makes no sense; the text names it.
        """
        return [self(info.index) for info in _machine.current().of("cpu")]

    @property
    def num_devices(self) -> int:
        """How many devices there are."""
        return len(_machine.current().of("cpu"))

    def resources_of(self, index: int) -> Resources:
        """The same share for each device; as many cores as its workers can use."""
        from parla import _native

        info = _machine.current().of("cpu")[index]
        cores = min(info.workers, _native.topology()["cores"])
        return {"vcus": 1.0, "memory": info.capacity, "cores": cores}


def one_device_per_core() -> bool:
    """Whether ``PARLA_CPU_ARCHITECTURE=cores`` made one device of each worker: worker k is then device k."""
    return len(cpu) > 1


def default_workers() -> int:
    """How many workers a runtime has when the program does not say: ``PARLA_NUM_THREADS``, else one per core."""
    return sum(info.workers for info in _machine.current().of("cpu"))


def memory_capacity() -> int:
    """Bytes that tasks on the CPU may reserve together."""
    return sum(info.capacity for info in _machine.current().of("cpu"))


def __getattr__(name: str) -> Any:
    """0.2 has `UnboundCPUComponent` here."""
    if name == "UnboundCPUComponent":
        from parla.environments import UnboundCPUComponent

        return UnboundCPUComponent
    raise AttributeError(f"module 'parla.cpu' has no attribute {name!r}")


#: The CPU: ``placement=cpu``.
cpu: Architecture = _CpuArchitecture("cpu")
register_architecture(cpu)
