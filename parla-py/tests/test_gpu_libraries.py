"""GPU libraries that can't use the GPUs, that come late, and that a body leaves in disorder; stand-ins for them, on the driver for tests."""

from __future__ import annotations

import textwrap

import pytest
from support import run_py

pytest.importorskip("numpy")

PRELUDE = """
    import sys, types, warnings
    import numpy as np
    from parla import Parla, get_current_stream, spawn
    from parla.device_array import DeviceArray
    from parla.devices import cpu, gpu
    from parla.parray import asarray

    def run(device, body, **operands):
        return spawn(placement=device, **operands)(body).result(20)

    def fails(*_):
        raise OSError("this driver is too old")
"""


@pytest.fixture
def cuda(driver):
    """Runs a program on two GPUs that the driver for tests makes up."""

    def run(program, **settings):
        source = textwrap.dedent(PRELUDE) + textwrap.dedent(program)
        run_py(source, env={"LD_LIBRARY_PATH": str(driver), **settings}, timeout=50)

    return run


def test_a_library_that_can_not_use_the_gpus_is_left_alone(cuda):
    """Tasks that don't need it run, and what CuPy would be used for says once that it is not."""
    cuda("""
        cupy, numba = types.ModuleType("cupy"), types.ModuleType("numba.cuda")
        cupy.__version__ = "1.2.3"
        cupy.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=fails), Device=fails)

        class Gpus:
            __len__ = __getitem__ = fails

        numba.gpus = Gpus()
        torch = types.ModuleType("torch")
        torch.cuda = types.SimpleNamespace(is_available=lambda: False, current_device=fails)
        sys.modules.update({"cupy": cupy, "numba.cuda": numba, "torch": torch})
        p = asarray(np.arange(6.0))
        with warnings.catch_warnings(record=True) as said, Parla(workers=1):
            warnings.simplefilter("always")
            for device in gpu.devices:
                assert run(device, lambda: type(p.array), inout=[p]) is DeviceArray
        (warning,) = said
        assert warning.category is RuntimeWarning, warning
        assert "CuPy 1.2.3 can't use this machine's GPUs (this driver is too old)" in str(warning.message)
    """)


def test_numbas_simulator_is_left_alone(cuda):
    """Its one device is none of the machine's."""
    cuda("""
        numba, simulator = types.ModuleType("numba"), types.ModuleType("numba.cuda")
        numba.config = types.SimpleNamespace(ENABLE_CUDASIM=True)
        simulator.gpus = []
        sys.modules.update({"numba": numba, "numba.cuda": simulator})
        with Parla(workers=1):
            assert run(gpu(1), lambda: "ran") == "ran"
    """)


def test_a_library_that_the_body_imports_takes_part_from_its_first_array_on(cuda):
    """CuPy's work on an array belongs on the task's stream, also if nobody needed CuPy before."""
    cuda("""
        from unittest.mock import MagicMock

        state = {"device": 7, "stream": "user"}

        class Device:
            def __init__(self, ordinal=None):
                self.id = state["device"] if ordinal is None else ordinal
            def use(self):
                state["device"] = self.id

        class Stream:
            def __init__(self, handle):
                self.handle = handle
            @classmethod
            def from_external(cls, stream):
                return cls(stream.ptr)
            def use(self):
                state["stream"] = self.handle

        cupy = types.ModuleType("cupy")
        cupy.cuda = MagicMock(Device=Device, Stream=Stream, get_current_stream=lambda: Stream(state["stream"]))
        cupy.ndarray = MagicMock()
        p = asarray(np.arange(6.0))

        def first():
            sys.modules["cupy"] = cupy
            assert state == {"device": 7, "stream": "user"}
            p.array
            assert state == {"device": 1, "stream": get_current_stream().ptr}, state

        with Parla(workers=1):
            run(gpu(1), first, inout=[p])
            assert state == {"device": 7, "stream": "user"}, state
    """)


@pytest.mark.parametrize("left", ["push(1)", "push(0)", "push(0); push(1)", "pop(); pop()"])
def test_what_a_body_leaves_on_the_stack_of_contexts_is_taken_off(cuda, left):
    """A body that selects another device with Numba, or closes all: as after any other body, what was current before is current again."""
    cuda(f"""
        import ctypes
        driver = ctypes.CDLL("libcuda.so.1")
        assert driver.cuInit(0) == 0

        def primary(ordinal):
            context = ctypes.c_void_p()
            assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal) == 0
            return context

        def push(ordinal):
            assert driver.cuCtxPushCurrent_v2(contexts[ordinal]) == 0

        def pop():
            context = ctypes.c_void_p()
            driver.cuCtxPopCurrent_v2(ctypes.byref(context))
            return context.value

        def stack():
            found = []
            while (context := pop()) is not None:
                found.append([c.value for c in contexts].index(context))
            for ordinal in reversed(found):
                push(ordinal)
            return found

        class Gpu:
            def __init__(self, ordinal):
                self.ordinal = ordinal
            def __enter__(self):
                push(self.ordinal)
            def __exit__(self, *exc):
                assert int(pop()) == contexts[self.ordinal].value

        numba = types.ModuleType("numba.cuda")
        numba.gpus = [Gpu(0), Gpu(1)]
        sys.modules["numba.cuda"] = numba
        contexts = [primary(0), primary(1)]

        def body():
            assert stack() == [1, 1]
            {left}

        with Parla(workers=1):
            run(gpu(1), body)
            assert run(cpu, stack) == []
            run(cpu, lambda: push(0))
            run(gpu(1), lambda: None)
            assert run(cpu, stack) == [0]
    """)


def test_bodies_that_import_cupy_at_the_same_time(cuda, tmp_path):
    """The first one imports it; the others wait for that, and don't use a module that is there by half."""
    (tmp_path / "cupy.py").write_text(
        textwrap.dedent("""
            import builtins, time
            from unittest.mock import MagicMock
            builtins.imports.set()
            assert builtins.others.wait(20)
            time.sleep(0.1)  # the time that an import takes
            cuda, ndarray = MagicMock(), MagicMock()
        """)
    )
    cuda(
        f"""
        import builtins, threading
        sys.path.insert(0, {str(tmp_path)!r})
        builtins.imports, builtins.others = threading.Event(), threading.Event()
        arrays = [asarray(np.zeros(3)) for _ in range(2)]

        def second():
            assert builtins.imports.wait(20)
            builtins.others.set()
            return arrays[1].array

        with Parla(workers=2):
            tasks = [
                spawn(placement=gpu(0), inout=[arrays[0]])(lambda: arrays[0].array),
                spawn(placement=gpu(1), inout=[arrays[1]])(second),
            ]
        import cupy
        assert [task.result() for task in tasks] == [cupy.ndarray()] * 2
        """
    )


def test_a_failing_property_says_what_failed(cuda):
    """Not that there is no such attribute."""
    cuda("""
        cupy = types.ModuleType("cupy")
        cupy.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=lambda: 2))
        p = asarray(np.zeros(3))

        def body():
            sys.modules["cupy"] = cupy
            p.array

        with Parla(workers=1):
            error = spawn(placement=gpu(0), inout=[p])(body).exception(20)
        assert isinstance(error, AttributeError) and "Device" in str(error), error
    """)
