"""Everything together on CUDA devices, with the tests' own driver: data follows tasks that run ahead of their streams."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from cuda_driver import ROOT, run

pytest.importorskip("numpy")

RANDOM_PROGRAM = """
import random, sys
import numpy as np
from parla import Parla, TaskSpace, spawn
from parla.devices import cpu, gpu
from parla.parray import asarray

for seed in range(4):
    rng = random.Random(seed)
    data = np.arange(6400.0).reshape(80, 80)
    expected = data.copy()
    whole = asarray(data)
    with Parla():
        T = TaskSpace("T")
        for k in range(50):
            (a, b), (c, d) = sorted(rng.sample(range(81), 2)), sorted(rng.sample(range(81), 2))
            piece = whole[a:b, c:d]
            place = rng.choice([cpu, *gpu.devices, *gpu.devices])

            @spawn(T[k], [T[k - 1]], placement=place, inout=[piece])
            def change():
                here = piece.array
                if isinstance(here, np.ndarray):
                    here[...] = here * 1.5 + 1
                else:
                    here[...] = here.copy_to_host() * 1.5 + 1

            expected[a:b, c:d] = expected[a:b, c:d] * 1.5 + 1
    assert np.array_equal(data, expected), seed
print(len(gpu), "gpus: right")
"""


@pytest.mark.parametrize(("virtual", "peer"), [("2", "1"), ("2", "0"), ("5", "1")])
def test_random_programs_give_what_numpy_gives(driver, virtual, peer):
    """Two cards, which reach each other's memory or not; with five GPUs on them copies go inside a card, too."""
    machine = {"FAKE_CUDA_DEVICES": "2", "FAKE_CUDA_PEER": peer, "FAKE_CUDA_DELAY_US": "100"}
    printed = run(driver, RANDOM_PROGRAM, PARLA_VIRTUAL_GPUS=virtual, **machine)
    assert printed == f"{virtual} gpus: right\n"


def test_little_memory(driver):
    """GPUs that hold the array once, but not twice: copies are evicted."""
    run(driver, RANDOM_PROGRAM, FAKE_CUDA_DEVICES="2", PARLA_GPU_MEM="70000", FAKE_CUDA_DELAY_US="20")


def test_memory_that_another_library_has(driver):
    """The card has less than we are to use: copies make room, what never fits is an error with the card's numbers, and the rest goes on."""
    program = """
import ctypes
import numpy as np
from parla import DeviceOutOfMemory, Parla, TaskSpace, spawn
from parla.devices import gpu
from parla.parray import asarray

cuda = ctypes.CDLL("libcuda.so.1")
arrays, large = [asarray(np.zeros(25_000)) for _ in range(4)], asarray(np.zeros(75_000))

def another_library():
    assert cuda.cuMemAlloc_v2(ctypes.byref(ctypes.c_uint64()), ctypes.c_size_t(500_000)) == 0

with Parla() as rt:
    spawn(placement=gpu(0))(another_library).wait()
    T = TaskSpace("T")
    for i in range(12):
        array = arrays[i % 4]

        @spawn(T[i], [T[i - 1]], placement=gpu(0), inout=[array])
        def add():
            array.array[...] = array.array.copy_to_host() + 1

    T.wait()
    error = spawn(placement=gpu(0), input=[large])(lambda: None).exception()
    assert isinstance(error, DeviceOutOfMemory), repr(error)
    print(error)
    spawn(placement=gpu(0), input=[arrays[0]])(lambda: None).result()
    assert rt.stats()["memories"][1]["evictions"] >= 10, rt.stats()
assert all((array.array == 3).all() for array in arrays)
"""
    printed = run(driver, program, FAKE_CUDA_DEVICES="1", FAKE_CUDA_MEMORY="1000000", PARLA_GPU_MEM="900000")
    assert printed == "gpu:0 is out of memory: 600000 bytes requested, 500000 free of 1000000\n"


@pytest.mark.parametrize("settings", [{"FAKE_CUDA_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": ""}])
def test_no_device(driver, settings):
    """A driver without a device, or that is to show none, is no GPU, with a reason; the CPU works."""
    program = """
from parla import Parla, PlacementError, spawn
from parla.devices import cpu, gpu
with Parla():
    try:
        spawn(placement=gpu)
    except PlacementError as error:
        print(error)
    assert spawn(placement=[cpu, gpu])(lambda: 3).result() == 3
print(len(gpu), gpu.unavailable)
"""
    printed = run(driver, program, **settings)
    why = "no CUDA device: CUDA_VISIBLE_DEVICES is \"\"" if "CUDA_VISIBLE_DEVICES" in settings else "no CUDA device;"
    refused, unavailable = printed.splitlines()
    assert why in refused and unavailable.startswith(f"0 {why}"), printed


def test_the_gpu_checks(driver, tmp_path):
    """What runs on machines with a GPU runs with this driver, too; what it measures means nothing here."""
    command = [sys.executable, str(ROOT / "parla-py/gpu/run.py"), "--out", str(tmp_path)]
    settings = {**os.environ, "LD_LIBRARY_PATH": str(driver), "FAKE_CUDA_DELAY_US": "0"}
    numba = ["numba_arrays"] if importlib.util.find_spec("numba") else []
    names = ["devices", *numba, "no_host_synchronisation", "halo_exchange", "synthetic_graphs", "full_device", "lost_device"]
    done = subprocess.run([*command, *names], env=settings, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu-check.json").read_text())
    results = {name: check["status"] for name, check in report["checks"].items()}
    if results.get("numba_arrays") == "skipped":  # Numba that can't use this driver, see test_with_numba.py
        del results["numba_arrays"]
        names.remove("numba_arrays")
    assert results == dict.fromkeys(names, "passed")
    assert "| lost_device | passed |" in (tmp_path / "gpu-check.md").read_text()


@pytest.mark.parametrize("mode", ["manual", "auto", "policy"])
def test_graphs_run_on_cuda_devices(driver, mode):
    """Data, placement and lengths are checked; bodies may run ahead of their devices."""
    program = f"""
from parla import graphs
work = graphs.Work(500.0)
shapes = [
    graphs.serial(8, work, size=50, n_gpus=2),
    graphs.serial(8, work, size=50, n_gpus=2, own_data=True),
    graphs.reduction(3, 2, work, size=50, n_gpus=2),
    graphs.serial(3, {{(graphs.CPU,): work}}, size=50),
]
for graph in shapes:
    trace = graphs.run(graph, {mode!r}, width=4, thorough=True)
    assert trace.runs_ahead and graphs.verify(graph, trace) == [], graphs.verify(graph, trace)
"""
    run(driver, program, FAKE_CUDA_DEVICES="2")


def test_a_lost_device_fails_its_tasks_only(driver):
    """An illegal address on the one GPU: an error at the end, the CPU goes on, the process exits."""
    program = """
import numpy as np
from parla import DeviceError, Parla, TaskSpace, spawn
from parla.devices import cpu, gpu
from parla.parray import asarray

array, seen = asarray(np.ones(1 << 20)), []
try:
    with Parla():
        @spawn(placement=gpu(0), inout=[array])
        def lost():
            array.array.copy_to_host()

        @spawn(placement=cpu)
        def fine():
            seen.append("cpu")
except DeviceError as error:
    seen.append(str(error).split(" is lost")[0])
print(seen)
"""
    assert run(driver, program, FAKE_CUDA_DEVICES="1", FAKE_CUDA_FAIL="copy:2=illegal") == "['cpu', 'gpu:0']\n"


@pytest.mark.parametrize("ns", [0, 100_000_000])
def test_what_follows_a_task_whose_device_is_lost_after_its_body(driver, ns):
    """Dependents do not run, whenever they were spawned; who awaits it gets its error."""
    program = f"""
import ctypes, sys
sys.path.insert(0, {str(ROOT / "parla-py/gpu")!r})
from driver import Driver
from parla import DependencyFailed, DeviceError, Parla, get_current_stream, spawn
from parla.devices import cpu, gpu

cuda, fake, ran, caught = Driver(), ctypes.CDLL("libcuda.so.1"), [], []
with Parla(workers=2):
    @spawn(placement=gpu(0))
    def first():
        stream = get_current_stream().ptr
        cuda.launch("spin", stream, ctypes.c_uint64({ns}))
        assert fake.fakeCudaCrash(ctypes.c_void_p(stream)) == 0

    @spawn(placement=cpu)
    async def awaits():
        try:
            await first
        except DeviceError as error:
            caught.append(error)

    dependents = [spawn(dependencies=[first], placement=place)(lambda: ran.append(1)) for place in (cpu, gpu(1), [cpu, gpu(1)])]
    error = first.exception(20)
    assert isinstance(error, DeviceError) and "ILLEGAL_ADDRESS" in str(error), error
    awaits.result(20)
    assert caught == [error], caught
    dependents.append(spawn(dependencies=[first], placement=cpu)(lambda: ran.append(2)))
    dependents.append(spawn(dependencies=[first, dependents[0]], placement=cpu)(lambda: ran.append(3)))
    for task in dependents:
        # In the order of streams a body may have run before.
        failed = task.exception(20)
        assert isinstance(failed, (DependencyFailed, DeviceError)) or task is dependents[1], (task, failed)
        assert not isinstance(failed, DependencyFailed) or failed.__cause__ is error, failed.__cause__
assert ran in ([], [1]), ran
"""
    run(driver, program)


@pytest.mark.parametrize("retries", [0, 1])
def test_who_may_be_run_again_does_not_run_ahead(driver, retries):
    """What depends on a task with retries starts when its kernels have ended; otherwise it need not wait for them."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "parla-py/gpu")!r})
from ctypes import c_uint64
from driver import Driver
from parla import Parla, get_current_stream, spawn
from parla.devices import gpu

cuda, ended = Driver(), []
with Parla():
    @spawn(placement=gpu(0), retries={retries})
    def first():
        cuda.launch("spin", get_current_stream().ptr, c_uint64(300_000_000))

    @spawn(dependencies=[first], placement=gpu(0))
    def second():
        ended.append(first.done())
print(ended)
"""
    assert run(driver, program) == f"[{retries == 1}]\n"


@pytest.mark.timeout(115)
def test_nothing_of_the_driver_is_left_by_many_tasks(driver):
    """Over 100 000 tasks the pools of streams, events and memory stay as big as they were after the first 5 000; no device memory outlives
    the block."""
    program = """
import ctypes, os, time
import numpy as np
from parla import Parla, TaskSpace, spawn
from parla.devices import gpu
from parla.parray import asarray

cuda = ctypes.CDLL("libcuda.so.1")

def live():
    counts = (ctypes.c_uint64 * 5)()
    assert cuda.fakeCudaLive(counts) == 0
    return list(counts)

arrays = [asarray(np.zeros(64)) for _ in range(4)]

def body():
    pass

most = []
with Parla():
    for part in range(20):
        T = TaskSpace("T")
        for i in range(5000):
            spawn(T[i], [T[i - 4]], placement=gpu((i + i // 50) % 2), inout=[arrays[i % 4]])(body)  # they move now and then
        T.wait()
        most.append(live())
for counts in most:
    assert all(later <= first + 500 for first, later in zip(most[0], counts)), most  # how many are under way at once varies
# What is freed last is freed on a stream of its own.
until = time.monotonic() + 20
while live()[2] and time.monotonic() < until:
    os.sched_yield()
assert live()[2] == 0, live()
print("done")
"""
    assert run(driver, program, limit=110, FAKE_CUDA_DEVICES="2", FAKE_CUDA_DELAY_US="0") == "done\n"
