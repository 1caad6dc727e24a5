"""A made-up machine for tests of devices and placement, without changing the one they run on."""

from __future__ import annotations

import contextlib

import pytest
from parla import _native, _placement
from parla import cpu as cpu_module

GIB = 2**30
VARIABLES = ("PARLA_CPU_ARCHITECTURE", "PARLA_CORES", "PARLA_CPU_MEM", "PARLA_SIM_GPUS", "PARLA_NUM_THREADS")


def _forget() -> None:
    cpu_module._configuration.cache_clear()
    cpu_module._devices.cache_clear()
    _placement.forget()


@contextlib.contextmanager
def pretend(cores: int = 4, memory: int = 24 * GIB, **environment: str):
    """Let the CPU have so many cores and so much memory, with these variables and no others of ours set."""
    topology = {"workers": cores, "cores": cores, "pus": cores, "memory": memory, "packages": 1, "numa_nodes": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "topology", lambda: {**topology, "source": "sysfs"})
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        _forget()
        try:
            yield
        finally:
            _forget()
