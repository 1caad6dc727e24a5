"""Programs as they were written for versions 0.2 and 0.3: their imports, their names for things, their ways to wait."""

from __future__ import annotations

import importlib
import threading

import pytest
from parla import AtomicTaskSpace, Parla, TaskSpace, spawn
from support import run_py

FOUR_GPUS = {"PARLA_SIM_GPUS": "4"}

PLACES = {
    "parla": "Parla TaskSpace Tasks TaskEnvironment get_all_architectures get_all_devices get_architecture parray sleep_gil sleep_nogil spawn specialize",
    "parla.array": "PArray array asarray asarray_batch asnumpy clone_here copy get_array_module get_memory is_array storage_size",
    "parla.device": "Gib Memory MemoryKind Mib get_all_devices kib",
    "parla.devices": "cpu gpu",
    "parla.function_decorators": "specialized",
    "parla.task_collections": "CompletedTaskSpace TaskSpace finish",
    "parla.task_runtime": "get_current_devices has_environment",
    "parla.tasks": "AtomicTaskSpace CompletedTaskSpace TaskSpace Tasks finish get_current_context get_current_task spawn specialize tasks",
    "parla.warning": "PerformanceWarning",
    "parla.common.array": "asnumpy clone_here copy get_array_module get_memory is_array storage_size",
    "parla.common.globals": "CUPY_ENABLED DeviceType SynchronizationType cupy get_active_device get_current_context get_current_devices get_current_stream get_current_task has_environment",
    "parla.common.parray": "PArray array asarray asarray_batch",
    "parla.common.parray.core": "PArray",
    "parla.common.parray.from_data": "array asarray asarray_batch",
    "parla.common.spawn": "spawn",
    "parla.cython.core": "cpu_bsleep_gil cpu_bsleep_nogil",
    "parla.cython.device": "PyCPUDevice PyCUDADevice PyDevice PyGPUDevice",
    "parla.cython.device_manager": "cpu cuda gpu",
    "parla.cython.tasks": "AtomicTaskList AtomicTaskSpace BackendTaskSpace CompletedTaskSpace GPUEnvironment Task TaskCollection TaskSpace spawn specialize wait",
    "parla.cython.variants": "specialize specialized",
}


@pytest.mark.parametrize("module", PLACES)
def test_names_are_where_programs_import_them_from(module):
    pytest.importorskip("numpy")
    imported = importlib.import_module(module)
    for name in PLACES[module].split():
        try:
            getattr(imported, name)
        except AttributeError:
            importlib.import_module(f"{module}.{name}")
    for name in getattr(imported, "__all__", ()):
        getattr(imported, name)


def test_both_names_mean_the_same_thing():
    import parla.common.globals
    import parla.common.spawn
    import parla.context
    import parla.cython.device_manager as manager
    import parla.cython.tasks
    import parla.cython.variants
    import parla.devices

    assert parla.common.spawn.spawn is spawn
    assert (manager.cpu, manager.gpu, manager.cuda) == (parla.devices.cpu, parla.devices.gpu, parla.devices.gpu)
    assert parla.cython.tasks.AtomicTaskSpace is TaskSpace
    assert parla.cython.variants.specialize is parla.specialize
    assert parla.common.globals.get_current_devices is parla.context.get_current_devices
    with pytest.raises(AttributeError, match="VCU_BASELINE"):
        parla.common.globals.VCU_BASELINE


def test_all_devices_outside_a_runtime():
    program = """
        from parla import get_all_architectures, get_all_devices, get_architecture
        from parla.cuda import gpu
        from parla.cpu import cpu
        assert get_all_devices() == [cpu(0), *(gpu(i) for i in range(4))]
        assert get_architecture("gpu") is gpu and cpu in get_all_architectures()
        """
    run_py(program, env=FOUR_GPUS)


@pytest.mark.parametrize("wait", [lambda space: space.wait(), lambda space: space.wait(20)], ids=["forever", "20 s"])
def test_waiting_for_a_space_that_its_tasks_fill(workers, wait):
    ended = []

    def split(space, i, depth):
        @spawn(space[i])
        def half():
            if depth:
                split(space, 2 * i, depth - 1)
                split(space, 2 * i + 1, depth - 1)
            ended.append(i)

    with Parla(workers=workers):
        space = AtomicTaskSpace("T")
        split(space, 1, 5)
        wait(space)
        assert sorted(ended) == list(range(1, 64))

        @spawn()
        def inside():
            inner = AtomicTaskSpace("inner")
            split(inner, 1, 3)
            wait(inner)
            return len(inner)

        assert inside.result() == 15


def test_the_time_to_wait_for_a_space_is_for_all_rounds():
    gate = threading.Event()
    with Parla(workers=2):
        space = TaskSpace("T")

        @spawn(space[0])
        def first():
            spawn(space[1])(lambda: gate.wait(20))

        try:
            with pytest.raises(TimeoutError):
                space.wait(0.2)
        finally:
            gate.set()


def test_the_devices_of_an_architecture_are_alternatives():
    """``placement=gpu.devices`` is any GPU; all of them together are ``gpu * n``."""
    program = """
        from parla import Parla, get_current_devices, spawn
        from parla.devices import cpu, gpu
        from parla.ldevice import LDeviceSequenceBlocked

        with Parla():
            for devices in (gpu.devices, gpu[1:3], LDeviceSequenceBlocked(8, placement=[gpu]).devices, cpu.devices + gpu.devices):
                found = spawn(placement=devices)(get_current_devices).result()
                assert len(found) == 1 and found[0] in devices, found
        """
    pytest.importorskip("numpy")
    run_py(program, env=FOUR_GPUS)


def test_blocks_moved_by_hand():
    """0.3's way without PArrays: clones of NumPy arrays, placed with no claim on the device."""
    program = """
        import numpy as np
        from parla import Parla, TaskSpace, spawn
        from parla.common.array import clone_here
        from parla.common.globals import get_current_devices
        from parla.cython.device_manager import cpu, gpu
        from parla.cython.tasks import wait

        n, b = 4, 8
        full = np.random.default_rng(1).random((n * b, n * b))
        full = full @ full.T + n * b * np.eye(n * b)
        a = [[full[i * b : (i + 1) * b, j * b : (j + 1) * b].copy() for j in range(n)] for i in range(n)]

        def factorize():
            syrk, potrf, gemm, trsm = (TaskSpace(name) for name in ("syrk", "potrf", "gemm", "trsm"))
            for j in range(n):
                here = gpu(j % 4)[{"vcus": 0}]
                for k in range(j):

                    @spawn(syrk[j, k], [trsm[j, k], syrk[j, 0:k]], placement=[here])
                    def update_diagonal():
                        out, panel = clone_here(a[j][j]), clone_here(a[j][k])
                        a[j][j] = out - panel @ panel.T

                @spawn(potrf[j], [syrk[j, 0:j]], placement=[here])
                def factor():
                    assert get_current_devices() == [gpu(j % 4)]
                    a[j][j] = np.linalg.cholesky(clone_here(a[j][j]))

                for i in range(j + 1, n):
                    there = gpu(i % 4)[{"vcus": 0}]
                    for k in range(j):

                        @spawn(gemm[i, j, k], [trsm[j, k], trsm[i, k], gemm[i, j, 0:k]], placement=[there])
                        def update():
                            a[i][j] = clone_here(a[i][j]) - clone_here(a[i][k]) @ clone_here(a[j][k]).T

                    @spawn(trsm[i, j], [gemm[i, j, 0:j], potrf[j]], placement=[there])
                    def solve():
                        a[i][j] = np.linalg.solve(clone_here(a[j][j]), clone_here(a[i][j]).T).T

            return potrf[n - 1]

        def main():
            @spawn(placement=cpu, vcus=0)
            async def whole():
                await factorize()

        if __name__ == "__main__":
            with Parla():
                main()
            L = np.tril(np.block([[np.asarray(x) for x in row] for row in a]))
            assert np.allclose(L @ L.T, full)
        """
    pytest.importorskip("numpy")
    run_py(program, env=FOUR_GPUS)


def test_arrays_variants_and_several_devices():
    program = """
        import numpy as np
        from parla import Parla, TaskSpace, spawn
        from parla.common.globals import get_current_context, get_current_devices
        from parla.common.parray import asarray_batch
        from parla.cython.device_manager import cpu, cuda, gpu
        from parla.cython.variants import specialize

        @specialize
        def kind():
            return "default"

        @kind.variant((gpu, gpu))
        def kind_of_two():
            return "two"

        with Parla():

            @spawn(placement=cpu)
            async def main():
                a, b = asarray_batch([np.ones((4, 5)), np.zeros(6)])
                ts = TaskSpace("ts")

                @spawn(task=ts[0], placement=gpu(1), input=[(a, 0)])
                def reads():
                    return a.array.sum()

                @spawn(ts[1], dependencies=[ts[0]], placement=[gpu(0), gpu(1)], input=[(a, 0)], memory=3000)
                def where_the_data_are():
                    assert get_current_devices() == [gpu(1)]

                devices = tuple(cuda(i) for i in range(2))

                @spawn(ts[2], [ts[1]], placement=[devices], inout=[(a, 0), (b, 1)])
                def both():
                    context = get_current_context()
                    for device in context.loop():
                        x = a if device == gpu(0) else b
                        x.array[...] += 1
                    return kind()

                await ts
                assert (await ts[0], await ts[2]) == (20, "two")

                @spawn(ts[3], placement=cpu, inout=[a])
                def grow():
                    a.update(np.arange(3.0))

                await ts
                assert len(a) == 3 and a[-1] == 2
                assert (np.asarray(b) == 1).all()
        """
    pytest.importorskip("numpy")
    run_py(program, env=FOUR_GPUS)
