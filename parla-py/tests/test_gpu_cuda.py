"""Devices, contexts and current streams on CUDA GPUs that the driver for tests makes up (``cargo build -p parla-fake-cuda``)."""

from __future__ import annotations

import textwrap

import pytest
from support import run_py

# A CuPy that remembers, per thread, the current device and each device's current stream.
CUPY = """
import sys, threading, types

class State(threading.local):
    device = 7
    def __init__(self):
        self.streams = {7: "user"}

state = State()

class Device:
    def __init__(self, ordinal=None):
        self.id = state.device if ordinal is None else ordinal
    def use(self):
        state.device = self.id

class Stream:
    def __init__(self, handle):
        self.handle = handle
    @classmethod
    def from_external(cls, stream):
        version, handle = stream.__cuda_stream__()
        assert version == 0
        return cls(handle)
    def use(self):
        state.streams[state.device] = self.handle

cupy = types.ModuleType("cupy")
cupy.cuda = types.SimpleNamespace(
    runtime=types.SimpleNamespace(getDeviceCount=lambda: 8), Device=Device, Stream=Stream, get_current_stream=lambda: Stream(state.streams.get(state.device, "default"))
)
sys.modules["cupy"] = cupy

from parla import Parla, get_current_context, get_current_devices, get_current_stream, spawn
from parla.cpu import cpu
from parla.cuda import gpu

def current():
    return state.device, state.streams.get(state.device)

def is_mine():
    "CuPy's device and stream are those of the task."
    stream = get_current_stream()
    assert stream.ptr and stream.__cuda_stream__() == (0, stream.ptr), stream
    assert current() == (get_current_devices()[0].index, stream.ptr), (current(), get_current_devices(), stream)
"""


@pytest.fixture
def cuda(driver):
    """Runs a program on two GPUs that the driver for tests makes up."""

    def run(program, **settings):
        run_py(CUPY + textwrap.dedent(program), env={"LD_LIBRARY_PATH": str(driver), **settings}, timeout=50)

    return run


def test_the_devices(cuda):
    cuda("""
        assert len(gpu) == 2 and gpu.unavailable is None
        assert gpu(0).resources["vcus"] == 1.0 and gpu(1).resources["memory"] > 0
        assert gpu(0).np is cupy
    """)


def test_cupys_device_and_stream_are_those_of_the_task(cuda):
    cuda("""
        with Parla(workers=2):
            for i in 2 * [0, 1]:
                @spawn(placement=gpu(i))
                def body():
                    is_mine()
                body.result(20)
                # The thread is as it was for whoever comes next.
                assert spawn(placement=cpu)(current).result(20) == (7, "user")
    """)


def test_they_are_as_before_after_an_error(cuda):
    cuda("""
        with Parla(workers=1):
            for _ in range(3):
                @spawn(placement=gpu(1))
                def body():
                    is_mine()
                    raise KeyError("mine")
                assert isinstance(body.exception(20), KeyError)
                assert spawn(placement=cpu)(current).result(20) == (7, "user")
    """)


def test_they_follow_the_parts_of_a_context(cuda):
    cuda("""
        with Parla(workers=2):
            @spawn(placement=[(gpu(1), gpu(0))])
            def body():
                cx = get_current_context()
                assert cx.devices == (gpu(1), gpu(0))
                is_mine()
                seen = set()
                for device in cx.loop():
                    is_mine()
                    seen.add(current())
                assert len(seen) == 2
                is_mine()
                with cx[1]:
                    assert current()[0] == 0
                    is_mine()

                @cx.parfor()
                def each(part):
                    is_mine()
                    part.synchronize()
                    return current()[0]

                assert each == [1, 0]
                is_mine()
                cx.synchronize()
            body.result(20)
            assert spawn(placement=cpu)(current).result(20) == (7, "user")
    """)


def test_they_follow_the_task_over_an_await(cuda):
    cuda("""
        with Parla(workers=3):
            @spawn(placement=[(gpu(0), gpu(1))])
            async def body():
                cx = get_current_context()
                with cx[1]:
                    for _ in range(5):
                        await spawn(placement=cpu)(lambda: None)
                        assert current()[0] == 1
                        is_mine()
                assert current()[0] == 0
                is_mine()
            body.result(20)
            for _ in range(6):
                assert spawn(placement=cpu)(current).result(20) == (7, "user")
    """)


def test_modelled_kernels_take_their_time_and_compute_nothing(cuda):
    cuda("""
        import time
        from parla import sim
        from parla.errors import DeviceError
        with Parla(workers=1):
            error = spawn(placement=gpu(0))(lambda: sim.kernel(5, lambda: None)).exception(20)
            assert isinstance(error, DeviceError) and "real GPU" in str(error), error
            start, returned = time.perf_counter(), []

            @spawn(placement=gpu(0))
            def occupies():
                sim.kernel(300_000)
                returned.append(time.perf_counter() - start)

            occupies.wait(20)
            assert time.perf_counter() - start >= 0.3 > returned[0], (returned, time.perf_counter() - start)
    """)


def test_simulated_gpus_take_the_place_of_real_ones(cuda):
    cuda("""
        assert len(gpu) == 3
        with Parla(workers=1):
            assert spawn(placement=gpu(2))(lambda: get_current_stream().ptr).result(20) is None
    """, PARLA_SIM_GPUS="3")
