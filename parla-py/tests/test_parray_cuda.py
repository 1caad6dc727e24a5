"""PArrays on CUDA GPUs without a GPU: the native CUDA code runs on a driver for tests whose memory the host can't guess."""

from __future__ import annotations

import textwrap

import pytest
from support import run_py

pytest.importorskip("numpy")

PRELUDE = """
    import sys
    sys.modules["cupy"] = None  # where it is installed it does not run on this driver, and says so
    import numpy as np
    from parla import Parla, array, spawn
    from parla.device_array import DeviceArray, empty
    from parla.devices import cpu, gpu
    from parla.parray import asarray

    def run(device, body, **operands):
        return spawn(placement=device, **operands)(body).result(20)

    class Foreign:
        "An array of another library."
        def __init__(self, x):
            self.x = x
            self.__cuda_array_interface__ = x.__cuda_array_interface__
        def __dlpack_device__(self):
            return self.x.__dlpack_device__()
"""


@pytest.fixture
def cuda(driver):
    """Runs a program on two GPUs that the driver for tests makes up."""

    def run(program, **settings):
        env = {"LD_LIBRARY_PATH": str(driver), **{f"FAKE_CUDA_{k}": str(v) for k, v in settings.items()}}
        run_py(textwrap.dedent(PRELUDE) + textwrap.dedent(program), env=env, timeout=50)

    return run


def test_local_views_are_device_arrays_in_order_with_the_stream(cuda):
    cuda(
        """
        a = np.arange(24.0).reshape(4, 6)
        wanted = a.copy()
        p = asarray(a, name="A")

        def change():
            x = p[1:3, ::-2].array
            assert isinstance(x, DeviceArray) and x.writable and x.device == gpu(0)
            host = x.copy_to_host()
            assert host.tolist() == wanted[1:3, ::-2].tolist()
            x.copy_from_host(host * 10)
            p[0] = 7
            p[3] = p[0]
            p[3, 1:3] = np.arange(2)
            assert np.asarray(p[0]).tolist() == [7] * 6
            assert (float(p[3, 2]), len(p)) == (1.0, 4)

        with Parla():
            run(gpu(0), change, inout=[p])
            wanted[1:3, ::-2] *= 10
            wanted[0] = wanted[3] = 7
            wanted[3, 1:3] = 0, 1
            assert np.array_equal(p, wanted)
            assert np.array_equal(run(gpu(1), lambda: p.get(), input=[p]), wanted)
        assert np.array_equal(a, wanted)
        """
    )


def test_what_needs_cupy_says_so(cuda):
    cuda(
        """
        p = asarray(np.arange(6.0), name="A")

        def body():
            for use in (lambda: p + 1, lambda: p == 1, lambda: p != p, lambda: p.sum(), lambda: p[[0, 1]].array, lambda: p.__setitem__([0, 2], 1)):
                try:
                    use()
                except TypeError as error:
                    assert "CuPy" in str(error) or "ufuncs" in str(error), error
                else:
                    raise AssertionError("it works?")
            return True

        with Parla():
            assert run(gpu, body, inout=[p])
        try:
            array.get_array_module(empty(3, device=gpu(0)))
        except TypeError as error:
            assert "install CuPy" in str(error)
        """
    )


def test_inputs_are_read_only(cuda):
    cuda(
        """
        p = asarray(np.arange(6.0), name="A")

        def body():
            x = p.array
            assert not x.writable and x.__cuda_array_interface__["data"][1]
            for write in (lambda: x.copy_from_host(1), lambda: array.copy(x, 1), lambda: p.__setitem__(0, 1)):
                try:
                    write()
                except Exception as error:
                    assert "read-only" in str(error) or "input only" in str(error), error
                else:
                    raise AssertionError("it was written")
            try:
                x.__dlpack__()
            except BufferError as error:
                assert "read-only" in str(error)
            assert "dltensor_versioned" in repr(x.__dlpack__(max_version=(1, 0)))

        with Parla():
            run(gpu, body, input=[p])
        assert p.tolist() == list(range(6))
        """
    )


def test_other_libraries(cuda):
    cuda(
        """
        from parla import _dlpack

        p = asarray(np.arange(12.0).reshape(3, 4))

        def body():
            x = p[1:, ::2].array
            described = x.__cuda_array_interface__
            assert (described["shape"], described["typestr"], described["strides"]) == ((2, 2), "<f8", (32, 16))
            assert described["stream"] not in (None, 0)
            assert p[1:, ::2].__cuda_array_interface__["data"] == described["data"]
            assert x.__dlpack_device__() == p.__dlpack_device__() == (2, 1)
            assert "dltensor" in repr(p.__dlpack__())
            theirs = Foreign(x)
            assert array.is_array(theirs)
            assert array.get_memory(theirs).device == gpu(1)
            assert array.storage_size(theirs) == 32
            assert array.asnumpy(theirs).tolist() == [[4, 6], [8, 10]]
            clone = array.clone_here(theirs)
            assert isinstance(clone, DeviceArray) and clone.device == gpu(1)
            array.copy(theirs, 1.5)
            assert x.copy_to_host().tolist() == [[1.5] * 2] * 2
            array.copy(theirs, clone)
            return asarray(theirs)

        with Parla():
            q = run(gpu(1), body, inout=[p])
        assert q.tolist() == [[4, 6], [8, 10]]
        assert p.tolist() == np.arange(12.0).reshape(3, 4).tolist()
        assert not _dlpack._lent
        """
    )


def test_libraries_that_speak_dlpack_only(cuda):
    cuda(
        """
        import gc
        from parla import _dlpack

        class Speaks:
            "An array of a library without __cuda_array_interface__."
            def __init__(self, x, old=False):
                self.x, self.old, self.streams = x, old, []
            def __dlpack__(self, *, stream=None, **options):
                if self.old and options:
                    raise TypeError("unexpected keyword argument")
                self.streams.append(stream)
                return self.x.__dlpack__(stream=stream, **options)
            def __dlpack_device__(self):
                return self.x.__dlpack_device__()

        p = asarray(np.arange(12.0).reshape(3, 4))
        wanted = [[6, 4], [10, 8]]

        def body():
            x = p[1:, 2::-2].array
            for old in (False, True):
                theirs = Speaks(x, old)
                assert array.is_array(theirs)
                assert array.get_memory(theirs).device == gpu(1)
                assert array.storage_size(theirs) == 32
                assert array.asnumpy(theirs).tolist() == wanted
                assert set(theirs.streams) == {1}
                array.copy(theirs, 1.5)
                assert x.copy_to_host().tolist() == [[1.5] * 2] * 2
                array.copy(theirs, np.array(wanted))
            made = asarray(Speaks(x)), asarray(Speaks(empty((0, 3), "i4")))
            return made

        def reads():
            try:
                array.copy(Speaks(p.array), 0)
            except ValueError as error:
                return str(error)

        class Strange(Speaks):
            def __dlpack__(self, **options):
                return "no capsule"

        with Parla():
            q, none = run(gpu(1), body, inout=[p])
            assert q.tolist() == wanted
            assert (none.shape, none.dtype) == ((0, 3), np.int32)
            assert "read-only" in run(gpu(1), reads, input=[p])
            for wrong, text in ((Strange(empty(3, device=gpu(0))), "no capsule"), (Speaks(empty(3, device=gpu(0))), None)):
                try:
                    asarray(wrong)
                except TypeError as error:
                    assert text in str(error) and "Strange" in str(error)
                else:
                    assert text is None
        del wrong, body
        gc.collect()
        assert not _dlpack._lent, "what was lent has been given back"
        """
    )


def test_copies_between_gpus_and_the_host(cuda):
    cuda(
        """
        values = np.arange(24.0).reshape(4, 6)
        keys = [..., (slice(None, None, -1), slice(1, 4)), (slice(1, None, 2), slice(None, None, -2)), 2]
        for here in (cpu(0), gpu(0), gpu(1)):
            for there in (cpu(0), gpu(0), gpu(1)):
                for key in keys:
                    source, target = here.memory()(values), there.memory()(np.zeros((4, 6)))
                    array.copy(target[key], source[key])
                    wanted = np.zeros((4, 6))
                    wanted[key] = values[key]
                    assert np.array_equal(array.asnumpy(target), wanted), (here, there, key)
                    array.copy(target[1:], target[:-1])
                    assert np.array_equal(array.asnumpy(target)[1:], wanted[:-1])
        """
    )


@pytest.mark.parametrize("peer", [0, 1])
def test_types_travel(cuda, peer):
    cuda(
        """
        for dtype in ["?", "i1", "u2", "f2", "c16", ">i4", "M8[s]", "S3", "U2", [("a", "i1"), ("b", "f8")]]:
            a = np.zeros((3, 4), dtype)
            a[1:] = (1, 2.0) if a.dtype.names else np.ones((), dtype)
            wanted = a.copy()
            wanted[:2] = a[1::-1]
            q = asarray(a)

            def swap():
                x = q[:2].array
                assert x.dtype == a.dtype
                x.copy_from_host(x.copy_to_host()[::-1].copy())

            with Parla():
                run(gpu(0), swap, inout=[q[:2]])
                run(gpu(1), swap, inout=[q[:2]])
                run(gpu(0), swap, inout=[q[:2]])
            assert (a == wanted).all(), dtype
        """,
        PEER=peer,
    )


def test_cupy_is_used_where_it_is_imported(cuda):
    cuda(
        """
        import sys, types, unittest.mock

        # CuPy doesn't run on this driver: what it would get is all that can be seen here.
        cupy = types.ModuleType("cupy")
        cupy.cuda = unittest.mock.MagicMock()
        cupy.cuda.UnownedMemory = lambda pointer, size, owner, device_id: ("memory", pointer, size, owner, device_id)
        cupy.cuda.MemoryPointer = lambda memory, offset: (memory, offset)

        class ndarray:
            __module__ = "cupy"
            def __init__(self, shape, dtype, memptr, strides):
                self.shape, self.dtype, self.strides = shape, dtype, strides
                (_, low, self.size, owner, self.ordinal), offset = memptr
                self.pointer = low + offset
                self.__cuda_array_interface__ = {
                    "shape": shape, "typestr": dtype.str, "data": (self.pointer, False), "strides": strides, "version": 3
                }
            def __dlpack_device__(self):
                return 2, self.ordinal

        cupy.ndarray = ndarray
        sys.modules["cupy"] = cupy
        p = asarray(np.arange(24.0).reshape(4, 6))

        def body():
            x = p[1:3, ::-2].array
            assert type(x) is ndarray and (x.shape, x.strides, x.ordinal) == ((2, 3), (48, -16), 1)
            assert x.size == 48 + 32 + 8
            assert array.asnumpy(x).tolist() == [[11, 9, 7], [17, 15, 13]]
            assert array.get_array_module(x) is cupy

        with Parla():
            run(gpu(1), body, inout=[p])
        """
    )
