"""Checks that measure: copies, launches, the overlap of the two."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from ctypes import c_uint64
from typing import Any

import numpy as np
from checking import BYTES, check, reach


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
def links() -> dict[str, Any]:
    """``python -m parla --measure-links`` measures every link, and the next process has them."""
    with tempfile.TemporaryDirectory() as directory:
        settings = {**os.environ, "PARLA_LINK_FILE": os.path.join(directory, "links")}

        def parla(*arguments: str) -> list[str]:
            command = [sys.executable, "-m", "parla", *arguments]
            return subprocess.run(command, env=settings, check=True, capture_output=True, text=True, timeout=120).stdout.splitlines()

        measured = parla("--measure-links")
        if "links (measured):" not in measured or parla() != measured[:-1]:
            raise AssertionError(f"measured, then read back: {measured}, {parla()}")
    return {"links": [line.strip() for line in measured if " to " in line]}


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
    from parla import get_current_stream

    driver = Driver()
    stream = driver.stream()

    def bare() -> None:
        driver.launch("empty", stream.value)

    def launch() -> None:
        driver.launch("empty", get_current_stream().ptr)

    measured = chain(bare, lambda: driver.synchronize(stream), launch)
    return reach(measured, task_us=("<=", 12))


@check("cupy")
def empty_cupy_kernels() -> dict[str, Any]:
    """The same with CuPy's kernels, on the stream that the task makes CuPy's current one."""
    import cupy
    from checking import HERE

    kernel = cupy.RawModule(path=str(HERE / "kernels.ptx")).get_function("empty")

    def launch() -> None:
        kernel((1,), (1,), ())

    return chain(launch, cupy.cuda.get_current_stream().synchronize, launch)


def chain(bare: Any, finish: Any, body: Any) -> dict[str, Any]:
    """Microseconds per launch without Parla and per task of a chain, the best of three times 1 000."""
    from parla import Parla, TaskSpace, spawn
    from parla.devices import gpu

    n = 1000

    def launches() -> float:
        began = time.perf_counter()
        for _ in range(n):
            bare()
        finish()
        return (time.perf_counter() - began) / n * 1e6

    def tasks() -> float:
        with Parla():
            T = TaskSpace("T")
            began = time.perf_counter()
            for i in range(n):
                spawn(T[i], [T[i - 1]], placement=gpu(0))(body)
            T.wait()
            return (time.perf_counter() - began) / n * 1e6

    launch_us, task_us = (min(run() for _ in range(3)) for run in (launches, tasks))
    return {"task_us": task_us, "launch_us": launch_us, "ratio": task_us / launch_us}


@check("gpu")
def no_host_synchronisation() -> dict[str, Any]:
    """All bodies of a chain have run before the first one's kernel has ended: nobody on the host waited for it."""
    from driver import Driver
    from parla import Parla, TaskSpace, get_current_stream, spawn
    from parla.devices import gpu

    driver, long, n_before = Driver(), c_uint64(2_000_000_000), []
    with Parla():
        T = TaskSpace("T")
        for i in range(200):

            @spawn(T[i], [T[i - 1]], placement=gpu(0))
            def launch():
                stream = get_current_stream()
                driver.launch("spin" if i == 0 else "empty", stream.ptr, *([long] if i == 0 else []))
                if not stream.done:
                    n_before.append(i)

    if len(n_before) != 200:
        raise AssertionError(f"only {len(n_before)} of 200 bodies ran before the first kernel had ended")
    return {"tasks": len(n_before)}


@check("gpu")
def pipeline() -> dict[str, Any]:
    """Copy in, compute, copy out in equal stages: little more than the longest of the three takes in all."""
    from driver import Driver
    from parla import Parla, TaskSpace, get_current_stream, spawn
    from parla.devices import cpu, gpu
    from parla.parray import asarray

    # Many, as filling and emptying the pipeline takes two stages more.
    driver, n_chunks = Driver(), 64
    n_bytes = BYTES // n_chunks
    rates = driver.copy_rates(n_bytes)
    copy_s = n_bytes / min(rates.values())
    spin = c_uint64(int(copy_s * 1e9))
    pinned = [driver.pinned(n_bytes) for _ in range(n_chunks)]
    chunks = [asarray(memory) for memory in pinned]

    def once() -> float:
        with Parla() as rt:
            T = TaskSpace("T")
            began = time.perf_counter()
            for i, chunk in enumerate(chunks):

                @spawn(T[i, 0], placement=gpu(0), inout=[chunk])
                def compute():
                    driver.launch("spin", get_current_stream().ptr, spin)

                # Writing it at home brings it back, and has it copied in again the next time.
                @spawn(T[i, 1], [T[i, 0]], placement=cpu, inout=[chunk], vcus=0)
                def back():
                    pass

            T.wait()
            took = time.perf_counter() - began
            moved = sum(sum(memory["bytes_from"].values()) for memory in rt.stats()["memories"])
        if moved != 2 * n_bytes * n_chunks:
            raise AssertionError(f"{moved} bytes were copied instead of {2 * n_bytes * n_chunks}")
        return took

    took, bare = min(once() for _ in range(3)), min(driver.pipeline(pinned, spin) for _ in range(3))
    measured = {
        "stage_ms": copy_s * 1e3,
        "stages": n_chunks,
        "times_longest_stage": took / (copy_s * n_chunks),
        # The same without Parla: copies in both directions at once may be slower than one.
        "driver_times_longest_stage": bare / (copy_s * n_chunks),
        "ratio": took / bare,
    }
    return reach(measured, times_longest_stage=("<=", 1.15))
