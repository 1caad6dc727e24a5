"""The CPU as an architecture: one device, or one per core.

Environment, read when the devices are first asked for:

* ``PARLA_CPU_ARCHITECTURE``: ``whole`` (the default: one device for all cores) or ``cores`` (one per core).
* ``PARLA_CORES``: how many cores to use; the default is the physical cores open to this process.
* ``PARLA_CPU_MEM``: bytes of memory that tasks may reserve, also ``512M`` or ``8GiB`` (powers of 1024); the
  default is what this process may use. With ``cores`` it is divided evenly.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache

from parla.device import Architecture, Device, Resources, register_architecture

__all__ = ["cpu"]

_SIZE = re.compile(r"(\d+)\s*(?:([KMGT])(?:i?B)?)?", re.IGNORECASE)
_POWERS = {None: 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class _Configuration:
    """The CPU devices of this process."""

    per_core: bool
    n_devices: int
    cores_each: int
    memory_each: int


def _variable(name: str) -> str | None:
    """An environment variable's text; None where it is unset or empty."""
    return os.environ.get(name, "").strip() or None


def _cores(available: int) -> int:
    text = _variable("PARLA_CORES")
    if text is None:
        return available
    if not text.isdecimal() or not 1 <= int(text) <= 65536:
        raise ValueError(f"PARLA_CORES must be a number of cores from 1 to 65536, got {text!r}")
    return int(text)


def _memory(available: int) -> int:
    text = _variable("PARLA_CPU_MEM")
    if text is None:
        return available
    match = _SIZE.fullmatch(text)
    size = 0 if match is None else int(match[1]) * 1024 ** _POWERS[match[2] and match[2].upper()]
    if not 1 <= size < 2**63:
        raise ValueError(f"PARLA_CPU_MEM must be a number of bytes such as 8589934592, 512M or 8GiB, got {text!r}")
    return size


@lru_cache(maxsize=1)
def _configuration() -> _Configuration:
    """Read the environment and the machine, once."""
    from parla import _native

    mode = _variable("PARLA_CPU_ARCHITECTURE") or "whole"
    if mode not in ("whole", "cores"):
        raise ValueError(f"PARLA_CPU_ARCHITECTURE must be 'whole' or 'cores', got {mode!r}")
    machine = _native.topology()
    cores, memory = _cores(machine["cores"]), _memory(machine["memory"])
    if mode == "whole":
        return _Configuration(False, 1, cores, memory)
    return _Configuration(True, cores, 1, memory // cores)


class _CpuArchitecture(Architecture):
    """The processor cores open to this process."""

    __slots__ = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """One device for all cores, or one per core with ``PARLA_CPU_ARCHITECTURE=cores``.

        Raises:
            ValueError: an environment variable has a value that makes no sense; the text names it.
        """
        return _devices(_configuration().n_devices)

    def resources_of(self, index: int) -> Resources:
        """The same share for each device."""
        configuration = _configuration()
        return {"vcus": 1.0, "memory": configuration.memory_each, "cores": configuration.cores_each}


@lru_cache(maxsize=1)
def _devices(n: int) -> tuple[Device, ...]:
    return tuple(cpu(index) for index in range(n))


def one_device_per_core() -> bool:
    """Whether ``PARLA_CPU_ARCHITECTURE=cores`` made one device of each core: worker k is then device k."""
    return _configuration().per_core


def default_workers() -> int:
    """How many workers a runtime has when the program does not say: ``PARLA_NUM_THREADS``, else one per core.

    Raises:
        ValueError: the variable is not a number from 1 to 4096.
    """
    text = _variable("PARLA_NUM_THREADS")
    if text is None:
        from parla import _native

        configuration = _configuration()
        if configuration.per_core or _variable("PARLA_CORES"):
            return configuration.n_devices * configuration.cores_each
        return _native.topology()["workers"]
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise ValueError(f"PARLA_NUM_THREADS must be a number of workers from 1 to 4096, got {text!r}")
    return int(text)


def memory_capacity() -> int:
    """Bytes that tasks on the CPU may reserve together."""
    configuration = _configuration()
    return configuration.memory_each * configuration.n_devices


#: The CPU: ``placement=cpu``.
cpu: Architecture = _CpuArchitecture("cpu")
register_architecture(cpu)
