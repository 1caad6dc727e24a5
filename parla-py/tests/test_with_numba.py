"""Numba itself in tasks: compiled bodies on the CPUs, and its CUDA part (its own, or the package numba-cuda) on the driver for tests."""

from __future__ import annotations

import textwrap

import pytest
from support import WORKER_COUNTS, run_py

pytest.importorskip("numpy")
pytest.importorskip("numba")

CPU = """
    import ctypes, threading
    import numpy as np
    from numba import njit, prange
    from parla import Parla, TaskSpace, spawn
    from parla.devices import cpu, gpu
    from parla.parray import asarray
"""


def on_cpus(program, **env):
    """Runs a program with Numba."""
    run_py(textwrap.dedent(CPU) + textwrap.dedent(program), env=env, timeout=50)


@pytest.mark.parametrize("workers", WORKER_COUNTS)
def test_bodies_that_compile_the_same_function_at_the_same_time(workers):
    on_cpus(f"""
        @njit(nogil=True)
        def total(a):
            s = 0.0
            for x in a:
                s += x
            return s

        values = [np.arange(1000, dtype=dtype) for dtype in ("f8", "f4", "i8")]
        with Parla(workers={workers}):
            T = TaskSpace("T")
            for i in range(12):
                @spawn(T[i], placement=cpu)
                def body():
                    return total(values[i % 3])
        assert {{T[i].task.result() for i in range(12)}} == {{499500.0}}
    """)


def test_bodies_without_the_gil_run_at_the_same_time():
    """Each waits in compiled code for the other."""
    on_cpus("""
        usleep = ctypes.CDLL(None).usleep
        usleep.argtypes, usleep.restype = [ctypes.c_uint], ctypes.c_int

        @njit(nogil=True)
        def meet(here, me):
            here[me] = 1
            for _ in range(100_000):
                usleep(100)
                if here[1 - me]:
                    return True
            return False

        meet(np.ones(2, np.int64), 0)
        here, tasks = np.zeros(2, np.int64), []
        with Parla(workers=2):
            for me in range(2):
                @spawn(placement=cpu)
                def body():
                    return meet(here, me)
                tasks.append(body)
        assert [task.result() for task in tasks] == [True, True]
    """)


@pytest.mark.parametrize("gpus", ["0", "2"])
def test_parts_of_an_array_in_compiled_code(gpus):
    """On CPUs and simulated GPUs the local view is NumPy's; the array itself is refused by Numba by its name."""
    on_cpus(
        """
        @njit(nogil=True)
        def scale(x, k):
            for i in range(x.shape[0]):
                x[i] *= k

        @njit(parallel=True, nogil=True)
        def total(x):
            s = 0.0
            for i in prange(x.shape[0]):
                s += x[i]
            return s

        p = asarray(np.ones(1000), name="A")
        with Parla(workers=3):
            T = TaskSpace("T")
            for i in range(8):
                part = p[i * 125 : (i + 1) * 125]

                @spawn(T[i], placement=[cpu, gpu], inout=[part])
                def body():
                    scale(part.array, i)

            sums = [spawn(None, T[:8], placement=cpu, input=[p])(lambda: total(p.array)) for _ in range(3)]
            refused = spawn(placement=cpu, input=[p])(lambda: total(p)).exception()
        assert [task.result() for task in sums] == [3500.0] * 3
        assert "PArray" in str(refused), refused
        """,
        PARLA_SIM_GPUS=gpus,
    )


def test_errors_of_compiled_code_are_the_tasks():
    on_cpus("""
        @njit(nogil=True)
        def fails():
            raise KeyError("compiled")

        with Parla():
            error = spawn(placement=cpu)(fails).exception()
        assert type(error) is KeyError and error.args == ("compiled",), error
    """)


# Numba's CUDA part. Kernels can't run without a GPU (see gpu/with_libraries.py): devices, contexts, streams and arrays can.

CUDA = """
    import numpy as np
    from numba import cuda
    from parla import Parla, array, get_current_context, get_current_stream, spawn
    from parla.devices import cpu, gpu
    from parla.parray import asarray

    def current():
        "The device of the context that Numba finds current on this thread."
        device = cuda.gpus.current
        return None if device is None else device.id

    def mine():
        "A stream of Numba's that is the task's."
        return cuda.external_stream(get_current_stream().ptr)

    def run(device, body, **operands):
        return spawn(placement=device, **operands)(body).result(20)
"""


@pytest.fixture(scope="module")
def importable():
    """Skips where that is not so: the package numba-cuda looks for CUDA's runtime library."""
    done = run_py("from numba import cuda", check=False)
    if done.returncode:
        pytest.skip(f"numba.cuda can't be imported: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture
def numba_cuda(driver, importable):
    """Runs a program with Numba on two GPUs that the driver for tests makes up."""

    def run(program, **settings):
        source = textwrap.dedent(CUDA) + textwrap.dedent(program)
        # CuPy, where it is installed, does not run on this driver: arrays are the same with and without it.
        source = "import sys; sys.modules['cupy'] = None\n" + source
        env = {"LD_LIBRARY_PATH": str(driver), "CUDA_PYTHON_DISABLE_MAJOR_VERSION_WARNING": "1", **settings}
        run_py(source, env=env, timeout=50)

    return run


def test_numbas_device_is_the_tasks(numba_cuda):
    numba_cuda("""
        def body():
            context = get_current_context()
            seen = [current(), cuda.get_current_device().id]
            for device in context.loop():
                seen.append(current())

            @context.parfor()
            def each(part):
                return current()

            return [*seen, each, current()]

        async def waits():
            before = current()
            await spawn(placement=gpu(0))(lambda: None)
            return before, current()

        def fails():
            assert current() == 1
            raise KeyError("mine")

        with Parla(workers=1):
            assert run(cpu, current) is None
            assert run(gpu(1), current) == 1
            assert run([(gpu(1), gpu(0))], body) == [1, 1, 1, 0, [1, 0], 1]
            assert run(gpu(1), waits) == (1, 1)
            assert isinstance(spawn(placement=gpu(1))(fails).exception(20), KeyError)
            assert run(cpu, current) is None
            run(cpu, lambda: cuda.select_device(0))
            assert run(gpu(1), current) == 1
            assert run(cpu, current) == 0
    """)


@pytest.mark.parametrize(
    "leaves",
    [
        "cuda.select_device(0)",
        "cuda.select_device(1)",
        "cuda.select_device(0); cuda.gpus[1].__enter__()",
        "cuda.close()",
    ],
)
def test_a_body_that_changes_numbas_contexts_disturbs_nobody(numba_cuda, leaves):
    numba_cuda(f"""
        def body():
            {leaves}

        p = asarray(np.arange(4.0))
        with Parla(workers=1):
            for _ in range(2):
                run(gpu(1), body, inout=[p])
                assert run(cpu, current) is None
                assert run(gpu(1), current) == 1
                assert run(gpu(0), lambda: p.array.copy_to_host().tolist(), input=[p]) == [0, 1, 2, 3]
    """)


def test_arrays_go_both_ways(numba_cuda):
    """What a task has is an array of Numba's without a copy; arrays of Numba's are arrays for Parla, wherever they are."""
    numba_cuda("""
        p = asarray(np.arange(6.0).reshape(2, 3))

        def reads():
            return cuda.as_cuda_array(p.array, sync=False).copy_to_host(stream=mine()).tolist()

        def writes():
            x = cuda.as_cuda_array(p.array, sync=False)
            x.copy_to_device(np.full((2, 3), 7.0), stream=mine())
            assert array.is_array(x) and array.storage_size(x) == 48
            return array.get_memory(x)

        def own():
            x = cuda.to_device(np.arange(5.0), stream=mine())
            array.copy(x, x[::-1])
            array.copy(x[:2], np.zeros(2))
            return array.get_memory(x), array.asnumpy(x).tolist(), x

        with Parla(workers=2):
            for device in gpu.devices:
                assert run(device, reads, input=[p]) == p.tolist()
            assert run(gpu(1), writes, inout=[p]) == gpu(1).memory()
            made = {device: run(device, own) for device in gpu.devices}
            for device, (memory, values, x) in made.items():
                assert (memory, values) == (device.memory(), [0, 0, 2, 1, 0])
                for elsewhere in (cpu, *gpu.devices):
                    assert run(elsewhere, lambda: array.get_memory(x)) == memory
                    assert run(elsewhere, lambda: array.asnumpy(x).tolist()) == values
        assert (p.array == 7).all()
        assert asarray(made[gpu(1)][2]).tolist() == [0, 0, 2, 1, 0]
    """)


@pytest.mark.parametrize("where", ["simulated", "cuda", "none"])
def test_numbas_simulator_does_not_confuse_tasks(numba_cuda, where):
    """NUMBA_ENABLE_CUDASIM: kernels run on NumPy's arrays, whatever GPUs there are."""
    settings = {"simulated": {"PARLA_SIM_GPUS": "2"}, "cuda": {}, "none": {"FAKE_CUDA_DEVICES": "0"}}[where]
    numba_cuda(
        """
        @cuda.jit
        def increment(x):
            i = cuda.grid(1)
            if i < x.shape[0]:
                x[i] += 1

        p = asarray(np.zeros(8))

        def body():
            here = array.asnumpy(p.array)
            increment[1, 8](here)
            array.copy(p.array, here)

        with Parla(workers=1):
            for device in (cpu(0), *gpu.devices[1:]):
                run(device, body, inout=[p])
        assert (p.array == 1 + len(gpu.devices[1:])).all()
        x = cuda.to_device(np.arange(3.0))
        assert (array.get_memory(x), array.asnumpy(x).tolist()) == (cpu(0).memory(), [0, 1, 2])
        """,
        NUMBA_ENABLE_CUDASIM="1",
        **settings,
    )
