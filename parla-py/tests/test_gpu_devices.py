"""GPUs as devices, outside a runtime: what is there, what is named, what is said where there is none."""

from __future__ import annotations

import pickle
import sys
import types

import pytest
from machine import GIB, pretend
from parla.cpu import cpu
from parla.device import Memory, MemoryKind, get_all_devices, get_default_architectures
from parla.devices import check_environment, gpu


@pytest.fixture
def four():
    """A machine with four simulated GPUs, the last of them small."""
    with pretend(gpus=[16 * GIB, 16 * GIB, 16 * GIB, 8 * GIB]):
        yield


def test_the_devices_of_the_machine(four):
    assert gpu.devices == [gpu(0), gpu(1), gpu(2), gpu(3)]
    assert (len(gpu), gpu.num_devices, gpu.unavailable, bool(gpu)) == (4, 4, None, True)
    assert gpu[0] is gpu(0) is gpu.devices[0]
    assert gpu[-1] == gpu(3)
    assert gpu[0:2] == [gpu(0), gpu(1)]
    assert gpu[::2] == [gpu(0), gpu(2)]
    assert list(gpu) == list(gpu.devices)
    assert gpu(3) in gpu
    assert gpu(4) not in gpu
    assert get_all_devices() == [cpu(0), *gpu.devices]
    with pytest.raises(IndexError, match=r"gpu\[4\]: this machine has 4 gpu devices"):
        gpu[4]


def test_resources(four):
    assert gpu(0).resources == {"vcus": 1.0, "memory": 16 * GIB}
    assert gpu(3).resources["memory"] == 8 * GIB
    with pytest.raises(IndexError, match=r"gpu\(4\) does not exist: this machine has 4 gpu devices"):
        _ = gpu(4).resources
    half = gpu[{"vcus": 0.5, "memory": 2**30}]
    assert (half.target, half.vcus, half.memory) == (gpu, 500, 2**30)
    assert gpu(1)[{"memory": 5}].target == gpu(1)


def test_names_and_values(four):
    assert (repr(gpu), repr(gpu(2)), gpu.name, gpu.id) == ("gpu", "gpu(2)", "gpu", "gpu")
    assert gpu * 2 == (gpu, gpu)
    assert gpu(0) != cpu(0)
    assert pickle.loads(pickle.dumps(gpu(2))) is gpu(2)


def test_without_a_gpu_the_reason_and_a_remedy():
    with pretend(why_no_gpu="the driver is too old (11.4)"):
        assert gpu.devices == []
        for text in ("the driver is too old (11.4)", "PARLA_SIM_GPUS=2"):
            assert text in gpu.unavailable
            with pytest.raises(IndexError, match=text.replace("(", r"\(").replace(")", r"\)")):
                gpu[0]


def test_the_machine_may_be_replaced():
    with pretend(gpus=[GIB]):
        assert len(gpu) == 1
        with pretend(gpus=[GIB, 2 * GIB]):
            assert [device.resources["memory"] for device in gpu] == [GIB, 2 * GIB]
        assert len(gpu) == 1


def test_errors_of_the_probe_reach_the_caller():
    def fail():
        raise ValueError("PARLA_SIM_GPUS: expected a number, got 'many'")

    with pretend(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("parla._native.machine", fail)
        for ask in (check_environment, lambda: len(gpu), lambda: gpu.devices, lambda: gpu[0], lambda: gpu(0).exists):
            with pytest.raises(ValueError, match="PARLA_SIM_GPUS.*'many'"):
                ask()


@pytest.fixture
def parla_cuda():
    """Lets `parla.cuda` be imported anew, and undoes what that did."""
    from parla import _placement, device

    before = sys.modules.pop("parla.cuda", None)
    defaults = list(device._defaults)
    device._defaults.clear()
    _placement.forget()
    yield
    sys.modules.pop("parla.cuda", None)
    if before is not None:
        sys.modules["parla.cuda"] = before
    device._defaults[:] = defaults
    _placement.forget()


def test_importing_parla_cuda(parla_cuda, four):
    assert get_default_architectures() == [cpu]
    import parla.cuda

    assert parla.cuda.gpu is gpu
    assert get_default_architectures() == [cpu, gpu]


def test_importing_parla_cuda_without_a_gpu(parla_cuda):
    with pretend(why_no_gpu="libcuda.so.1 not found"):
        for _ in range(2):
            with pytest.raises(ImportError, match="libcuda.so.1 not found.*PARLA_SIM_GPUS=2") as caught:
                import parla.cuda  # noqa: F401
            assert caught.value.name == "parla.cuda"
        assert get_default_architectures() == [cpu]


def test_the_array_module(four):
    numpy = pytest.importorskip("numpy")
    assert gpu(0).np is gpu(0).memory(MemoryKind.Fast).np is cpu(0).np is numpy
    assert gpu.memory() == Memory(gpu(0))
    with pytest.raises(IndexError, match=r"gpu\(9\) does not exist"):
        _ = gpu(9).np


def test_the_array_module_of_a_cuda_gpu(monkeypatch):
    def fails():
        raise OSError("insufficient driver")

    cupy, too_new = types.ModuleType("cupy"), types.ModuleType("cupy")
    for module, count in ((cupy, lambda: 1), (too_new, fails)):
        module.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=count))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pretend(gpus=[GIB], simulated=False):
        assert gpu(0).np is cupy
        monkeypatch.setitem(sys.modules, "cupy", too_new)
        with pytest.raises(ImportError, match="CuPy can't use this machine's GPUs: insufficient driver"):
            _ = gpu(0).np
        monkeypatch.setitem(sys.modules, "cupy", None)
        with pytest.raises(ImportError, match="cupy"):
            _ = gpu(0).np
