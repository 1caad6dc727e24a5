"""The checks, each a function that returns what it measured and raises what is wrong; `run.py` runs each in a process of its own.

`python checks.py NAME` runs one here and prints its result as JSON on the last line.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from ctypes import c_uint64
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
# A gibibyte; less for trying the checks themselves.
BYTES = int(os.environ.get("GPU_CHECK_BYTES", 1 << 30))
CHECKS: list[tuple[Callable[[], dict[str, Any]], str, dict[str, str]]] = []


class Missed(AssertionError):
    """A number that is worse than it has to be; the rest is in `measured`."""

    def __init__(self, what: str, measured: dict[str, Any]) -> None:
        """Remember what was measured."""
        super().__init__(what)
        self.measured = measured


def check(needs: str = "", **environment: str) -> Callable[[Any], Any]:
    """Register a check that needs a `gpu`, `cupy` or nothing, and runs with these environment variables."""

    def register(function: Any) -> Any:
        CHECKS.append((function, needs, environment))
        return function

    return register


def reach(measured: dict[str, Any], **limits: tuple[str, float]) -> dict[str, Any]:
    """`measured`, if all its numbers keep their limits (``("<=", 12)``)."""
    missed = [
        f"{name} is {measured[name]:.4g}, must be {relation} {limit}"
        for name, (relation, limit) in limits.items()
        if not (measured[name] <= limit if relation == "<=" else measured[name] >= limit)
    ]
    if missed:
        raise Missed("; ".join(missed), measured)
    return measured


@check()
def import_time() -> dict[str, Any]:
    """Importing parla takes at most 150 ms more than importing NumPy."""

    def seconds(program: str) -> float:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
            times.append(time.perf_counter() - began)
        return min(times)

    extra = seconds("import numpy, parla, parla.parray") - seconds("import numpy")
    return reach({"milliseconds": extra * 1e3}, milliseconds=("<=", 150))


@check()
def cpu_program() -> dict[str, Any]:
    """A program with arrays on the CPU gives what NumPy gives."""
    return random_programs(lambda: [], 3)


@check(PARLA_SIM_GPUS="4")
def simulated_gpus() -> dict[str, Any]:
    """Random programs on the CPU and four simulated GPUs give what NumPy gives."""
    from parla.devices import gpu

    return random_programs(lambda: list(gpu.devices), 5)


@check("gpu")
def devices() -> dict[str, Any]:
    """Parla finds the devices that the driver tells of."""
    from driver import Driver
    from parla import _native

    driver = Driver()
    found = [device for device in _native.machine()["devices"] if device["architecture"] == "gpu"]
    for device in found:
        total = driver.total_memory(device["ordinal"])
        if not 0 < device["capacity"] <= total:
            raise AssertionError(f"{device['name']} has {device['capacity']} bytes of {total}")
    names = [driver.name(device["ordinal"]) for device in found]
    return {"driver": driver.version(), "devices": names, "capacity": [device["capacity"] for device in found]}


@check("gpu")
def copies() -> dict[str, Any]:
    """Copies from and to page-locked and ordinary memory, against the driver's own page-locked rate."""
    from driver import Driver
    from parla import _native

    driver = Driver()
    own = driver.copy_rates(BYTES)
    number = next(i for i, device in enumerate(_native.machine()["devices"]) if device["architecture"] == "gpu")
    block = _native.device_array(number, (BYTES,), 1)
    pageable = np.ones(BYTES, np.uint8)
    measured: dict[str, Any] = {"bytes": BYTES}
    for kind, host in (("pinned", driver.pinned(BYTES)), ("pageable", pageable)):
        host[:] = np.arange(BYTES, dtype=np.uint32).astype(np.uint8)
        there, here = (number, block.address, (1,)), (None, host.ctypes.data, (1,))
        expected = host[:: 1 << 12].copy()
        for direction, ends in (("to_device", (*there, *here)), ("to_host", (*here, *there))):
            times = []
            for _ in range(3):
                if direction == "to_host":
                    host[:: 1 << 12] = 0
                began = time.perf_counter()
                _native.copy_strided(*ends, (BYTES,), 1, (host, block))
                times.append(time.perf_counter() - began)
            measured[f"{kind}_{direction}"] = BYTES / min(times) / own[direction]
            measured[f"{kind}_{direction}_gb_per_s"] = BYTES / min(times) / 1e9
        if not np.array_equal(host[:: 1 << 12], expected):
            raise AssertionError(f"{kind}: what came back is not what went there")
    measured |= {f"driver_{direction}_gb_per_s": rate / 1e9 for direction, rate in own.items()}
    return reach(
        measured,
        pinned_to_device=(">=", 0.9),
        pinned_to_host=(">=", 0.9),
        pageable_to_device=(">=", 0.6),
        pageable_to_host=(">=", 0.6),
    )


@check("gpu")
def empty_kernels() -> dict[str, Any]:
    """A chain of 1 000 tasks that launch an empty kernel each, against 1 000 launches."""
    from driver import Driver
    from parla import Parla, TaskSpace, get_current_stream, spawn
    from parla.devices import gpu

    n, driver = 1000, Driver()
    stream = driver.stream()

    def bare() -> float:
        began = time.perf_counter()
        for _ in range(n):
            driver.launch("empty", stream.value)
        driver.synchronize(stream)
        return (time.perf_counter() - began) / n * 1e6

    def spawned() -> float:
        with Parla():
            T = TaskSpace("T")
            began = time.perf_counter()
            for i in range(n):

                @spawn(T[i], [T[i - 1]], placement=gpu(0))
                def launch():
                    driver.use()
                    driver.launch("empty", get_current_stream().ptr)

            T.wait()
            return (time.perf_counter() - began) / n * 1e6

    launch_us = min(bare() for _ in range(3))
    task_us = min(spawned() for _ in range(3))
    return reach({"task_us": task_us, "launch_us": launch_us, "ratio": task_us / launch_us}, task_us=("<=", 12))


@check("gpu")
def pipeline() -> dict[str, Any]:
    """Copy in, compute, copy out in equal stages: little more than the longest of the three takes in all."""
    from driver import Driver
    from parla import Parla, TaskSpace, get_current_stream, spawn
    from parla.devices import cpu, gpu
    from parla.parray import asarray

    driver, n_chunks = Driver(), 16
    n_bytes = BYTES // n_chunks
    rates = driver.copy_rates(n_bytes)
    copy_s = n_bytes / min(rates.values())
    spin = c_uint64(int(copy_s * 1e9))
    chunks = [asarray(driver.pinned(n_bytes)) for _ in range(n_chunks)]

    def once() -> float:
        with Parla():
            T = TaskSpace("T")
            began = time.perf_counter()
            for i, chunk in enumerate(chunks):

                @spawn(T[i, 0], placement=gpu(0), inout=[chunk])
                def compute():
                    driver.use()
                    driver.launch("spin", get_current_stream().ptr, spin)

                # Reading it at home brings it back.
                @spawn(T[i, 1], [T[i, 0]], placement=cpu, input=[chunk], vcus=0)
                def back():
                    pass

            T.wait()
            return time.perf_counter() - began

    took = min(once() for _ in range(3))
    measured = {"stage_ms": copy_s * 1e3, "stages": n_chunks, "times_longest_stage": took / (copy_s * n_chunks)}
    return reach(measured, times_longest_stage=("<=", 1.15))


@check("gpu")
def arrays() -> dict[str, Any]:
    """Random programs with kernels on the GPUs and NumPy on the CPU give what NumPy gives."""
    from parla.devices import gpu

    return random_programs(lambda: list(gpu.devices), 20)


@check("gpu", PARLA_VIRTUAL_GPUS="4")
def virtual_gpus() -> dict[str, Any]:
    """The same on four GPUs that are made of what there is."""
    from parla.devices import gpu

    if len(gpu) != 4:
        raise AssertionError(f"PARLA_VIRTUAL_GPUS=4 gives {len(gpu)}")
    return random_programs(lambda: list(gpu.devices), 20)


@check("gpu", PARLA_GPU_MEM="64M")
def little_memory() -> dict[str, Any]:
    """Four times as much data as a GPU may hold goes through it."""
    from driver import Driver
    from parla import Parla, TaskSpace, get_current_stream, spawn
    from parla.devices import gpu
    from parla.parray import asarray

    driver = Driver()
    parts = [asarray(np.full((1024, 1024), float(i))) for i in range(32)]
    with Parla() as rt:
        T = TaskSpace("T")
        for step in range(2):
            for i, part in enumerate(parts):

                @spawn(T[step, i], [T[step - 1, i]], placement=gpu(0), inout=[part])
                def scale():
                    driver.use()
                    driver.scale(part.array, get_current_stream().ptr)

        T.wait()
        evictions = sum(memory["evictions"] for memory in rt.stats()["memories"])
    for i, part in enumerate(parts):
        if not (np.asarray(part.array) == (i * 1.5 + 1) * 1.5 + 1).all():
            raise AssertionError(f"part {i} is wrong")
    return {"bytes": sum(part.nbytes for part in parts), "evictions": evictions}


@check("gpu")
def lost_device() -> dict[str, Any]:
    """A kernel that writes where nobody may: its task fails with the driver's error, the CPU's go on, the process ends."""
    from driver import Driver
    from parla import DeviceError, Parla, get_current_stream, spawn
    from parla.devices import cpu, gpu
    from parla.parray import asarray

    driver, seen, array = Driver(), [], asarray(np.zeros((8, 8)))
    try:
        with Parla():

            @spawn(placement=gpu(0), inout=[array])
            def lost():
                driver.use()
                driver.launch("crash", get_current_stream().ptr)

            @spawn(placement=cpu)
            def fine():
                seen.append("cpu")

    except DeviceError as error:
        seen.append(str(error))
    if seen[:1] != ["cpu"] or "is lost" not in seen[-1]:
        raise AssertionError(f"expected the CPU's task and a lost device, got {seen}")
    return {"error": seen[-1].splitlines()[0]}


@check("cupy")
def cupy_arrays() -> dict[str, Any]:
    """In a task an array is CuPy's, on the task's stream; afterwards the current stream and device are as before."""
    import cupy
    from parla import Parla, TaskSpace, get_current_stream, spawn
    from parla.devices import gpu
    from parla.parray import asarray

    a = np.random.default_rng(0).random((512, 512))
    array, expected, before = asarray(a.copy()), a, cupy.cuda.get_current_stream().ptr
    with Parla():
        T = TaskSpace("T")
        for step in range(10):
            expected = expected @ a / 256

            @spawn(T[step], [T[step - 1]], placement=gpu(step % len(gpu)), inout=[array])
            def multiply():
                if not isinstance(array.array, cupy.ndarray):
                    raise TypeError(type(array.array).__name__)
                if cupy.cuda.get_current_stream().ptr != get_current_stream().ptr:
                    raise AssertionError("CuPy's current stream is not the task's")
                array.array[...] = array.array @ cupy.asarray(a) / 256

    np.testing.assert_allclose(np.asarray(array.array), expected, rtol=1e-9)
    if cupy.cuda.get_current_stream().ptr != before:
        raise AssertionError("CuPy's current stream is not as before")
    return {"cupy": cupy.__version__}


@check("gpu")
def example_hello() -> dict[str, Any]:
    """The first program."""
    return example("hello_gpu.py", "I run second on any GPU")


@check("cupy")
def example_cholesky() -> dict[str, Any]:
    """The blocked factorisation, where SciPy and threadpoolctl are there."""
    return example("cholesky_parray.py", "", "--n", "4000", "--block", "500", "--on", "gpu")


def example(name: str, says: str, *arguments: str) -> dict[str, Any]:
    """Run one of the examples."""
    began = time.perf_counter()
    command = [sys.executable, str(HERE / "examples" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if done.returncode or says not in done.stdout:
        raise AssertionError(f"status {done.returncode}: {done.stdout[-500:]}{done.stderr[-1500:]}")
    return {"seconds": time.perf_counter() - began, "output": done.stdout.splitlines()[-12:]}


def random_programs(gpus: Callable[[], list[Any]], n_programs: int) -> dict[str, Any]:
    """Tasks in a row that change random boxes of an array, anywhere; the result must be NumPy's to the last bit."""
    from parla import Parla, TaskSpace, _native, get_current_stream, spawn
    from parla.devices import cpu
    from parla.parray import asarray

    n_tasks, moved = 60, 0
    for seed in range(n_programs):
        rng = random.Random(seed)
        data = np.random.default_rng(seed).random((150, 130))
        expected = data.copy()
        whole = asarray(data)
        with Parla() as rt:
            T = TaskSpace("T")
            for k in range(n_tasks):
                (a, b), (c, d) = sorted(rng.sample(range(131), 2)), sorted(rng.sample(range(131), 2))
                piece = whole[a:b, c:d]
                place = rng.choice([cpu, *gpus(), *gpus()])

                @spawn(T[k], [T[k - 1]], placement=place, inout=[piece])
                def change():
                    here = piece.array
                    if isinstance(here, np.ndarray):
                        here[...] = here * 1.5 + 1
                        return
                    driver = driver_of(_native.assignment()[0]["ordinal"])
                    driver.use()
                    driver.scale(here, get_current_stream().ptr)

                expected[a:b, c:d] = expected[a:b, c:d] * 1.5 + 1
            T.wait()
            moved += sum(sum(memory["bytes_from"].values()) for memory in rt.stats()["memories"])
        if not np.array_equal(data, expected):
            raise AssertionError(f"program {seed} gives something else than NumPy")
    return {"programs": n_programs, "tasks": n_programs * n_tasks, "bytes_moved": moved}


@cache
def driver_of(ordinal: int) -> Any:
    """The driver's functions for one of its devices."""
    from driver import Driver

    return Driver(ordinal)


def main(name: str) -> int:
    """Run one check and print its result."""
    function = next(function for function, _, _ in CHECKS if function.__name__ == name)
    try:
        result = {"status": "passed", "measured": function()}
    except Missed as missed:
        result = {"status": "missed", "reason": str(missed), "measured": missed.measured}
    except Exception as error:
        result = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        import traceback

        traceback.print_exc()
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
