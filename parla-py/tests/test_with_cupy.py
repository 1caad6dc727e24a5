"""CuPy where it is installed and can't use a GPU: on a machine without one, or with a driver that is none for it."""

from __future__ import annotations

import importlib.util

import pytest
from machine import GIB, pretend
from parla import _libraries, device_array
from support import run_py

pytest.importorskip("numpy")
if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

PROGRAM = """
import sys
import numpy as np
import cupy
from parla import Parla, array, spawn
from parla.devices import cpu, gpu
from parla.parray import asarray

try:
    cupy.cuda.runtime.getDeviceCount()
except cupy.cuda.runtime.CUDARuntimeError:
    pass
else:
    sys.exit("skipped")
a, p = np.arange(6.0), asarray(np.arange(6.0))
with Parla(workers=2):
    for place in ([cpu, gpu], cpu, *gpu.devices):
        @spawn(placement=place, inout=[p])
        def body():
            here = array.clone_here(p) * 2
            array.copy(p.array, here)
            assert array.get_array_module(p) is np is place_of(p).np
        body.result(20)
n = 2 + len(gpu)
assert np.array_equal(p.array, a * 2**n)
assert (array.is_array(a), array.storage_size(p), array.get_memory(p)) == (True, 48, cpu(0).memory())
if not len(gpu):
    try:
        import parla.cuda
    except ImportError as error:
        assert "libcuda.so.1 not found" in str(error), error
"""
PROGRAM = PROGRAM.replace("place_of(p)", "array.get_memory(p)")


@pytest.mark.parametrize("gpus", ["0", "2"])
def test_without_a_gpu_cupy_changes_nothing(gpus):
    done = run_py(PROGRAM, env={"PARLA_SIM_GPUS": gpus}, check=False)
    if done.stderr == "skipped\n":
        pytest.skip("CuPy works here: gpu/with_libraries.py has the checks for that")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("imported", [True, False])
def test_on_a_driver_that_is_none_for_cupy_tasks_run_without_it(driver, imported):
    """CuPy's runtime needs what the driver for tests has not, as a new CuPy does on an old driver."""
    run_py(
        f"""
        import warnings
        import numpy as np
        {"import cupy" if imported else ""}
        from parla import Parla, array, spawn
        from parla.device_array import DeviceArray
        from parla.devices import cpu, gpu
        from parla.parray import asarray

        p = asarray(np.arange(6.0))

        def body():
            x = p.array
            assert type(x) is DeviceArray
            x.copy_from_host(x.copy_to_host() * 2)

        with warnings.catch_warnings(record=True) as said, Parla(workers=1):
            warnings.simplefilter("always")
            for device in (gpu(0), gpu(1), gpu(0)):
                spawn(placement=device, inout=[p])(body).result(20)
        ours = [str(w.message) for w in said if w.category is RuntimeWarning]
        assert len(ours) == 1 and "can't use this machine's GPUs (cuda" in ours[0], ours
        assert p.tolist() == [0, 8, 16, 24, 32, 40]
        try:
            gpu(0).np
        except ImportError as error:
            assert "CuPy can't use this machine's GPUs: cuda" in str(error), error
        else:
            raise AssertionError("gpu(0).np")
        """,
        env={"LD_LIBRARY_PATH": str(driver)},
        timeout=50,
    )


def test_what_a_task_gets_is_what_cupys_own_classes_make_of_it(monkeypatch):
    """They describe memory without looking at it, so that no GPU is needed."""
    import cupy
    import numpy as np

    class Stream:
        """Of a task."""

        def __cuda_stream__(self):
            return 0, 1234

    monkeypatch.setattr(_libraries, "_libraries", {"cupy": (cupy, _libraries._CuPy(cupy))})
    whole = np.arange(24.0).reshape(4, 6)
    part = whole[1:3, ::-2]
    with pretend(gpus=[GIB, GIB], simulated=False):
        x = device_array.over(2, part.ctypes.data, part.shape, part.dtype, part.strides, whole, True)
        text = device_array.over(2, part.ctypes.data, (3,), np.dtype("S8"), (8,), whole, True)
    assert type(x) is cupy.ndarray and (x.shape, x.strides, x.dtype) == (part.shape, part.strides, part.dtype)
    assert (x.data.ptr, x.data.device_id) == (part.ctypes.data, 1)
    low = whole[1, 1:].ctypes.data
    assert (x.data.mem.ptr, x.data.mem.size) == (low, whole[2, 5:].ctypes.data + 8 - low)
    assert x[0, ::-1].data.ptr == whole[1, 1:].ctypes.data
    assert type(text) is device_array.DeviceArray
    assert cupy.cuda.Stream.from_external(Stream()).ptr == 1234
