"""A made-up machine for tests of devices and placement, without changing the one they run on."""

from __future__ import annotations

import contextlib

import pytest
from parla import _machine, _native, _placement
from parla import cpu as cpu_module

GIB = 2**30
VARIABLES = ("PARLA_CPU_ARCHITECTURE", "PARLA_CORES", "PARLA_CPU_MEM", "PARLA_SIM_GPUS", "PARLA_NUM_THREADS")


def _forget() -> None:
    cpu_module._configuration.cache_clear()
    cpu_module._devices.cache_clear()
    _machine._known = None
    _placement.forget()


def _device(architecture: str, index: int, memory: int, capacity: int, *, simulated: bool = True) -> dict[str, object]:
    on_host = architecture == "cpu" or simulated
    return {
        "architecture": architecture,
        "index": index,
        "name": f"{architecture}:{index}",
        "memory": memory,
        "capacity": capacity,
        "workers": 4 if architecture == "cpu" else 1,
        "host_access": on_host,
        "stream_ordered": not on_host,
        "ordinal": None if on_host else index,
    }


def _machine_of(memory: int, gpus: list[int], simulated: bool, why_no_gpu: str) -> dict[str, object]:
    """As `_native.machine` describes a machine with GPUs of so many bytes each."""
    devices = [_device("cpu", 0, 0, memory)]
    devices += [_device("gpu", i, i + 1, size, simulated=simulated) for i, size in enumerate(gpus)]
    names = ["host", *(f"gpu:{i}" for i in range(len(gpus)))]
    link = {"latency_ns": 0, "bytes_per_second": 1e10, "direct": True}
    return {
        "devices": devices,
        "memories": [{"name": n, "capacity": c} for n, c in zip(names, [memory, *gpus], strict=True)],
        "links": [[link] * len(names) for _ in names],
        "unavailable": {"gpu": None if gpus else why_no_gpu},
    }


@contextlib.contextmanager
def pretend(
    cores: int = 4,
    memory: int = 24 * GIB,
    gpus: list[int] | None = None,
    simulated: bool = True,
    why_no_gpu: str = "libcuda.so.1 not found",
    **environment: str,
):
    """Let the CPU have so many cores and so much memory, with GPUs of so many bytes each, and no variables of ours but these set."""
    topology = {"workers": cores, "cores": cores, "pus": cores, "memory": memory, "packages": 1, "numa_nodes": 1}
    machine = _machine_of(memory, gpus or [], simulated, why_no_gpu)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "topology", lambda: {**topology, "source": "sysfs"})
        patch.setattr(_native, "machine", lambda: machine, raising=False)
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        _forget()
        try:
            yield
        finally:
            _forget()
