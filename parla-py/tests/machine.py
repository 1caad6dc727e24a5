"""A made-up machine for tests of devices and placement, without changing the one they run on."""

from __future__ import annotations

import contextlib
import gc

import pytest
from parla import _machine, _native, _placement

GIB = 2**30
VARIABLES = (
    "PARLA_CPU_ARCHITECTURE",
    "PARLA_CORES",
    "PARLA_CPU_MEM",
    "PARLA_NUM_THREADS",
    "PARLA_SIM_FAULTS",
    "PARLA_SIM_GPUS",
    "PARLA_SIM_GPU_MEM",
    "PARLA_SIM_LINK",
    "PARLA_SIM_TIME",
)


def _forget() -> None:
    _machine._known = None
    _placement.forget()


def _device(architecture: str, index: int, memory: int, capacity: int, workers: int, *, simulated: bool = True) -> dict[str, object]:
    on_host = architecture == "cpu" or simulated
    return {
        "architecture": architecture,
        "index": index,
        "name": f"{architecture}:{index}",
        "memory": memory,
        "capacity": capacity,
        "workers": workers,
        "host_access": on_host,
        "stream_ordered": not on_host,
        "ordinal": None if on_host else index,
    }


@contextlib.contextmanager
def pretend(
    cores: int = 4,
    memory: int = 24 * GIB,
    *,
    per_core: bool = False,
    gpus: list[int] | None = None,
    simulated: bool = True,
    why_no_gpu: str = "libcuda.so.1 not found",
):
    """Let the CPU have so many cores and so much memory, in one device or one per core, with GPUs of so many bytes each."""
    gpus = gpus or []
    cpus = cores if per_core else 1
    devices = [_device("cpu", i, 0, memory // cpus, cores // cpus) for i in range(cpus)]
    devices += [_device("gpu", i, i + 1, size, 1, simulated=simulated) for i, size in enumerate(gpus)]
    names = ["host", *(f"gpu:{i}" for i in range(len(gpus)))]
    link = {"latency_ns": 0, "bytes_per_second": 1e10, "direct": True}
    machine = {
        "devices": devices,
        "memories": [{"name": n, "capacity": c} for n, c in zip(names, [memory, *gpus], strict=True)],
        "links": [[link] * len(names) for _ in names],
        "unavailable": {"gpu": None if gpus else why_no_gpu},
    }
    topology = {"workers": cores, "cores": cores, "pus": cores, "memory": memory, "packages": 1, "numa_nodes": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "topology", lambda: {**topology, "source": "sysfs"})
        patch.setattr(_native, "machine", lambda: machine)
        _forget()
        try:
            yield
        finally:
            _forget()


@contextlib.contextmanager
def configured(config: dict[str, object] | None = None, **environment: str):
    """Let the process have the machine that these variables and no others of ours, and `config`, describe."""
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        _native.configure_machine(config)
        _forget()
        try:
            yield
        finally:
            patch.undo()
            _native.configure_machine(None)
            _forget()


@pytest.fixture
def two_gpus():
    """A machine with two simulated GPUs."""
    with configured(PARLA_SIM_GPUS="2"):
        yield


@pytest.fixture
def two_small_gpus():
    """A machine with two simulated GPUs of 1 MiB, for one test."""
    _native.configure_machine({"sim_gpus": 2, "gpu_memory": 1 << 20})
    try:
        yield
    finally:
        gc.collect()
        _native.configure_machine(None)


@pytest.fixture
def no_gpus():
    """A machine with CPUs only, whatever the environment says."""
    _native.configure_machine({"sim_gpus": 0})
    try:
        yield
    finally:
        _native.configure_machine(None)
