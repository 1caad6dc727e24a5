"""Tasks on CUDA devices beside other users of the driver: contexts, memory that outlives its task, streams of others, a profiler."""

from __future__ import annotations

from pathlib import Path

import pytest
from cuda_driver import ROOT, run

pytest.importorskip("numpy")

# The driver's functions by ctypes, as the checks on real GPUs use them.
PRELUDE = f"""
import sys
sys.path.insert(0, {str(ROOT / "parla-py/gpu")!r})
from ctypes import byref, c_int, c_size_t, c_uint64, c_void_p
from driver import Driver
from parla import Parla, TaskSpace, get_current_context, get_current_stream, spawn
from parla.devices import cpu, gpu
"""


def test_the_context_of_the_tasks_device_is_current(driver):
    """For libraries that work on whatever context is current; and afterwards it is as before."""
    run(
        driver,
        PRELUDE
        + """
driver = Driver()
driver.call("cuCtxSetCurrent", None)
contexts = []
for ordinal in (0, 1):
    context = c_void_p()
    driver.call("cuDevicePrimaryCtxRetain", byref(context), c_int(ordinal))
    contexts.append(context.value)

def current():
    context = c_void_p()
    driver.call("cuCtxGetCurrent", byref(context))
    return context.value

with Parla(workers=1):
    for i in (0, 1):
        assert spawn(placement=gpu(i))(current).result(20) == contexts[i]
        assert spawn(placement=cpu)(current).result(20) is None

    @spawn(placement=gpu(1))
    def fails():
        raise KeyError(current())

    assert fails.exception(20).args == (contexts[1],)
    assert spawn(placement=cpu)(current).result(20) is None

    @spawn(placement=[(gpu(1), gpu(0))])
    async def both():
        cx, seen = get_current_context(), [current()]
        with cx[1]:
            seen.append(current())
            await spawn(placement=cpu)(lambda: None)
            seen.append(current())

            @cx.parfor()
            def each(part):
                return current()

        return [*seen, current(), *each]

    first, second = contexts
    assert both.result(20) == [second, first, first, second, second, first]
    assert spawn(placement=cpu)(current).result(20) is None
assert current() is None
""",
        FAKE_CUDA_DEVICES="2",
    )


def test_cupys_context_stays_on_a_thread_that_had_none(driver):
    """CuPy makes a context current once per thread and device, by CUDA's runtime, and from then on counts on it when it launches kernels."""
    run(
        driver,
        PRELUDE
        + """
import sys, threading, types
driver, seen = Driver(), threading.local()
driver.call("cuCtxSetCurrent", None)

class Device:
    def __init__(self, ordinal=None):
        self.id = getattr(seen, "device", 0) if ordinal is None else ordinal

    def use(self):
        seen.device = self.id
        context = c_void_p()
        driver.call("cuDevicePrimaryCtxRetain", byref(context), c_int(self.id))
        driver.call("cuCtxSetCurrent", context)

class Stream:
    @classmethod
    def from_external(cls, stream):
        return cls()

    def use(self):
        pass

cupy = types.ModuleType("cupy")
runtime = types.SimpleNamespace(getDeviceCount=lambda: 2)
cupy.cuda = types.SimpleNamespace(runtime=runtime, Device=Device, Stream=Stream, get_current_stream=Stream)
sys.modules["cupy"] = cupy

def launch():
    ordinal = Device().id
    initialized = seen.__dict__.setdefault("initialized", set())
    if ordinal not in initialized:
        Device().use()
        initialized.add(ordinal)
    context, primary = c_void_p(), c_void_p()
    driver.call("cuCtxGetCurrent", byref(context))
    driver.call("cuDevicePrimaryCtxRetain", byref(primary), c_int(ordinal))
    return context.value == primary.value

with Parla(workers=1):
    for i in (0, 1, 0):
        assert spawn(placement=gpu(i))(launch).result(20)
        assert spawn(placement=cpu)(launch).result(20), i
""",
        FAKE_CUDA_DEVICES="2",
    )


def test_memory_set_aside_is_there_for_other_libraries(driver):
    """What arrays of Parla's had goes back to the card, when it is reserved and when a body is run again that could not have it."""
    run(
        driver,
        PRELUDE
        + """
import numpy as np
from parla import reserve_persistent_memory
from parla.parray import asarray
driver, MB, taken = Driver(), 1 << 20, []

class OutOfMemoryError(RuntimeError):
    "Torch's is none of Python's MemoryErrors."

def take():
    address = c_uint64()
    code = driver.library.cuMemAlloc_v2(byref(address), c_size_t(80 * MB))
    if code == 2:
        taken.append(None)
        raise OutOfMemoryError
    assert code == 0, code
    taken.append(address)

def fill():
    with Parla():
        arrays = [asarray(np.zeros(20 * MB, np.uint8)) for _ in range(3)]
        for array in arrays:
            spawn(placement=gpu(0), input=[array])(lambda: None).result(20)
        yield

for _ in fill():
    assert isinstance(spawn(placement=gpu(0))(take).exception(20), OutOfMemoryError)
    spawn(placement=gpu(0), retries=1)(take).result(20)
assert taken[:2] == [None, None] and len(taken) == 3, taken
driver.call("cuMemFree_v2", taken[2])
for _ in fill():
    with reserve_persistent_memory(60 * MB, gpu(0)):
        driver.use()
        take()
""",
        FAKE_CUDA_DEVICES="1",
        FAKE_CUDA_MEMORY=str(128 << 20),
        FAKE_CUDA_DELAY_US="0",
        PARLA_GPU_MEM="64M",
    )


@pytest.mark.parametrize("where", ["in a task that has ended", "outside tasks"])
def test_memory_of_others_is_kept_until_the_kernels_are_done(driver, where):
    """A task is the last to have a device array that it did not make: its kernels use it after its body has ended."""
    made = "spawn(placement=gpu(0))(make).result(20)" if "task" in where.split()[:3] else "make()"
    run(
        driver,
        PRELUDE
        + f"""
from parla.device_array import empty
driver, ms20 = Driver(), c_uint64(20_000_000)

def make():
    return empty((16, 16), float, gpu(0))

with Parla(workers=2):
    for _ in range(3):
        kept = [{made}]

        def use():
            array = kept.pop()
            stream = get_current_stream().ptr
            driver.launch("spin", stream, ms20)
            driver.scale(array, stream)

        spawn(placement=gpu(0))(use).result(20)
""",
        FAKE_CUDA_DEVICES="1",
    )


def test_an_array_of_another_library_is_read_after_its_stream(driver):
    """``__cuda_array_interface__`` names a stream with work that the contents come from; no CuPy is there to wait for it."""
    run(
        driver,
        PRELUDE
        + """
import numpy as np
from parla import array
from parla.device_array import empty

class Foreign:
    def __init__(self, array, stream):
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "stream": stream}

driver, ms20 = Driver(), c_uint64(20_000_000)
there, stream = empty((16, 16), float, gpu(0)), driver.stream()
there.copy_from_host(np.ones((16, 16)))
driver.launch("spin", stream, ms20)
driver.scale(there, stream)
assert (array.asnumpy(Foreign(there, stream.value)) == 2.5).all()
assert (array.asnumpy(Foreign(there, None)) == 2.5).all()
""",
        FAKE_CUDA_DEVICES="1",
    )


def ranges(log: Path) -> dict[str, list[str]]:
    """What each thread did, by thread: names of ranges that began, ``<`` for each that ended."""
    threads: dict[str, list[str]] = {}
    for line in log.read_text().splitlines():
        kind, thread, rest = line.split(" ", 2)
        threads.setdefault(thread, []).append(rest if kind == "push" else "<")
    for done in threads.values():
        open_ranges = 0
        for word in done:
            open_ranges += -1 if word == "<" else 1
            assert open_ranges >= 0, done
        assert open_ranges == 0, done
    return threads


def test_a_profiler_is_shown_bodies_and_copies(driver, tmp_path):
    """The tests' driver plays the profiler's library too. Ranges are balanced on every thread, whatever bodies do."""
    log = tmp_path / "ranges"
    program = """
import numpy as np
from parla import Parla, TaskSpace, spawn
from parla.devices import cpu, gpu
from parla.parray import asarray

array = asarray(np.ones(1000))
# One worker: what a body spawns and awaits cannot have ended before.
with Parla(workers=1):
    T = TaskSpace("work")

    @spawn(T[0], placement=gpu(0), inout=[array])
    def uses():
        array.array

    @spawn(T[1])
    async def waits():
        await T[0]

    @spawn(T[2])
    def fails():
        raise KeyError

    @spawn(T[3])
    async def fails_later():
        await spawn(T[4])(lambda: None)
        raise KeyError

    for failed in (fails, fails_later):
        assert isinstance(failed.exception(20), KeyError)
"""
    settings = {"FAKE_CUDA_DEVICES": "1", "FAKE_CUDA_NVTX": str(log)}
    run(driver, program, NVTX_INJECTION64_PATH=str(driver / "libcuda.so.1"), **settings)
    names = [name for done in ranges(log).values() for name in done if name != "<"]
    bodies = [name.removeprefix("Parla: ") for name in names if "copy" not in name]
    # A body that awaits is on the line of a thread once for each stretch.
    assert bodies.count("fails_later") == 2
    assert set(bodies) == {"uses", "waits", "fails", "fails_later", "<lambda>"}
    assert "Parla: copy host to gpu:0, 8000 bytes" in names
    assert "Parla: copy gpu:0 to host, 8000 bytes" in names
    log.unlink()
    run(driver, program, **settings)
    assert not log.exists()
