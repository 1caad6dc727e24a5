"""Checks that programs give what they must, also where memory is short and devices fail."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from checking import check


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


@check("gpu", PARLA_VIRTUAL_GPUS="4")
def halo_exchange() -> dict[str, Any]:
    """Jacobi's method on four GPUs that are made of what there is: NumPy's result, and no byte more moved than must be."""
    from parla import Parla, TaskSpace, _native, get_current_stream, spawn
    from parla.devices import gpu
    from parla.parray import asarray

    n, n_steps, n_bands = 512, 30, len(gpu)
    grid = np.zeros((n, n))
    grid[0] = 1.0
    arrays = [grid.copy(), np.empty_like(grid)]
    both = [asarray(array) for array in arrays]
    edges = [n * band // n_bands for band in range(n_bands + 1)]
    with Parla() as rt:
        T = TaskSpace("T")
        for step in range(n_steps):
            old, new = both[step % 2], both[(step + 1) % 2]
            for band, (start, stop) in enumerate(zip(edges, edges[1:])):
                halo = max(start - 1, 0)
                around, inside = old[halo : min(stop + 1, n)], new[start:stop]
                before = [T[step - 1, near] for near in (band - 1, band, band + 1) if near < n_bands]

                @spawn(T[step, band], before, placement=gpu(band), input=[around], output=[inside])
                def sweep():
                    # A kernel belongs to the card that it was loaded on.
                    driver = driver_of(_native.assignment()[0]["ordinal"])
                    driver.sweep(around.array, inside.array, start - halo, get_current_stream().ptr)

    expected, other = grid.copy(), grid.copy()
    for _ in range(n_steps):
        inner = expected[:-2, 1:-1] + expected[2:, 1:-1] + expected[1:-1, :-2] + expected[1:-1, 2:]
        other[1:-1, 1:-1] = 0.25 * inner
        expected, other = other, expected
    if not np.array_equal(arrays[n_steps % 2], expected):
        raise AssertionError("the result is not NumPy's")
    # There: the bands and their sides once, then two rows per border and step. Back: both arrays.
    least = (n + 2 * (n_bands - 1) * n_steps + 2 * n) * grid.nbytes // n
    moved = sum(
        n_bytes
        for memory in rt.stats()["memories"]
        for source, n_bytes in memory["bytes_from"].items()
        if source != memory["name"]
    )
    if moved > least:
        raise AssertionError(f"{moved} bytes were moved, {least} had to be")
    return {"gpus": n_bands, "steps": n_steps, "bytes_moved": moved}


@check("gpu", PARLA_VIRTUAL_GPUS="2")
def synthetic_graphs() -> dict[str, Any]:
    """Chains and a reduction with kernels of 2 ms on two GPUs that are made of what there is: right, and how long each way of moving data took."""
    from parla import graphs

    work, seconds = graphs.Work(2000.0), {}
    shapes = {
        "chain": graphs.serial(20, work, size=10_000, n_gpus=2),
        "own data": graphs.serial(20, work, size=10_000, n_gpus=2, own_data=True),
        "reduction": graphs.reduction(4, 2, work, size=10_000, n_gpus=2),
    }
    for name, graph in shapes.items():
        for mode in graphs.MODES:
            trace = graphs.run(graph, mode, width=100)
            if problems := graphs.verify(graph, trace):
                raise AssertionError(f"{name}, {mode}: {'; '.join(problems[:3])}")
            seconds[f"{name}, {mode}"] = round(trace.seconds, 4)
    return {"seconds": seconds}


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
                    driver.scale(part.array, get_current_stream().ptr)

        T.wait()
        evictions = sum(memory["evictions"] for memory in rt.stats()["memories"])
    for i, part in enumerate(parts):
        if not (np.asarray(part.array) == (i * 1.5 + 1) * 1.5 + 1).all():
            raise AssertionError(f"part {i} is wrong")
    return {"bytes": sum(part.nbytes for part in parts), "evictions": evictions}


@check("gpu", PARLA_GPU_MEM="64M")
def full_device() -> dict[str, Any]:
    """A body that asks for more than there is gets an error with the numbers; the next one works."""
    from driver import Driver
    from parla import DeviceOutOfMemory, Parla, get_current_stream, spawn
    from parla.device_array import empty
    from parla.devices import gpu

    driver = Driver()
    with Parla():

        @spawn(placement=gpu(0))
        def too_much():
            empty((1 << 27,), np.uint8)

        error = too_much.exception(60)
        if not isinstance(error, DeviceOutOfMemory):
            raise AssertionError(f"expected DeviceOutOfMemory, got {error!r}")

        @spawn(placement=gpu(0))
        def enough():
            scratch = empty((64, 64))
            scratch.copy_from_host(np.ones((64, 64)))
            driver.scale(scratch, get_current_stream().ptr)
            return bool((scratch.copy_to_host() == 2.5).all())

        if not enough.result(60):
            raise AssertionError("the task after it computed something else")
    return {"error": str(error).splitlines()[0]}


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
                driver.launch("crash", get_current_stream().ptr)

            @spawn(placement=cpu)
            def fine():
                seen.append("cpu")

    except DeviceError as error:
        seen.append(str(error))
    if seen[:1] != ["cpu"] or "is lost" not in seen[-1]:
        raise AssertionError(f"expected the CPU's task and a lost device, got {seen}")
    return {"error": seen[-1].splitlines()[0]}


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
