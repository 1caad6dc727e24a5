"""PArrays outside tasks: what can be one, over the user's own buffer, and what becomes of its contents."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
from support import run_py

numpy = pytest.importorskip("numpy")

from ndarrays import DTYPES, LAYOUTS, box, filled, numbers, same  # noqa: E402
from parla import array as arrays  # noqa: E402
from parla.parray import PArray, array, asarray, asarray_batch  # noqa: E402

# What can be one.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_type_and_layout(dtype, layout):
    a = LAYOUTS[layout](filled((3, 4), dtype))
    before = a.copy()
    p = asarray(a)
    assert (p.dtype, p.shape) == (a.dtype, (3, 4))
    assert same(p.array, before)
    assert numpy.shares_memory(p.array, a)
    part = p[::-2, 1:]
    assert same(part.array, before[::-2, 1:])
    part[0] = before[0, :3]
    assert same(a[2, 1:], before[0, :3])
    assert same(array(p).array, numpy.array(a))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 4, 5)], ids=str)
def test_every_rank(shape):
    a = numbers(*shape)
    p = asarray(a)
    assert same(p.array, a)
    assert p.T.shape == a.T.shape
    assert box(p) == (tuple((0, n) for n in shape), True)
    p[...] = 4
    assert (a == 4).all()


def test_nothing_is_copied():
    a = numbers(3)
    p = asarray(a)
    assert p.array is a
    p.array[0] = 5
    a[1] = 6
    assert (a[0], p.array[1]) == (5, 6)
    assert asarray(p) is p
    assert array(a, copy=False).array is a
    assert not numpy.shares_memory(array(a).array, a)


def test_the_buffer_lives_as_long_as_the_array():
    a = numbers(1000)
    gone = weakref.ref(a)
    p = asarray(a)[10:]
    del a
    gc.collect()
    assert p.sum() == sum(range(10, 1000))
    assert gone() is not None
    del p
    gc.collect()
    assert gone() is None


def test_the_same_buffer_is_the_same_array():
    a = numbers(4, 4)
    native = asarray(a).__parla_operand__
    assert asarray(a).__parla_operand__()[0] is native()[0]
    assert asarray(a[:]).__parla_operand__()[0] is native()[0]
    assert asarray(a.copy()).__parla_operand__()[0] is not native()[0]
    for part in [a[:2], a.T]:
        assert asarray(part).__parla_operand__()[0] is native()[0]
        assert same(asarray(part).array, part)


@pytest.mark.parametrize(
    "fixed",
    [
        numpy.frombuffer(b"12345678", "u1"),
        numpy.broadcast_to(numpy.arange(4), (3, 4)),
        numpy.lib.stride_tricks.as_strided(numpy.arange(10), (4, 3), (16, 8)),
        numpy.lib.stride_tricks.as_strided(numpy.arange(10), (4, 3), (8, 8)),
    ],
    ids=["bytes", "broadcast", "window", "sliding"],
)
def test_what_cannot_be_written(fixed):
    p = asarray(fixed)
    assert same(p.array, fixed)
    overlapping = fixed.ndim == 2 and fixed.strides[0] < 3 * fixed.strides[1]
    if not fixed.flags.writeable or overlapping:
        with pytest.raises(ValueError, match="read-only"):
            p[...] = 0
        with pytest.raises(ValueError, match="read-only"):
            p.array[...] = 0
        with pytest.raises(ValueError, match="read-only"):
            p += 1


@pytest.mark.parametrize("dtype", ["O", [("a", "O"), ("b", "f8")]], ids=str)
def test_objects_are_refused_by_name(dtype):
    with pytest.raises(TypeError, match="object|'O'"):
        asarray(numpy.zeros(3, dtype))
    with pytest.raises(TypeError, match="object"):
        asarray([object()])
    if hasattr(numpy.dtypes, "StringDType"):
        with pytest.raises(TypeError, match="StringDType"):
            asarray(numpy.array(["a"], numpy.dtypes.StringDType()))


def test_other_refusals():
    with pytest.raises(TypeError, match="masked"):
        asarray(numpy.ma.masked_greater(numbers(3), 1))
    with pytest.raises(TypeError, match="PArray wraps NumPy arrays, not list"):
        PArray([1, 2])


def test_what_asarray_takes():
    assert asarray([[1, 2], [3, 4]]).array.tolist() == [[1, 2], [3, 4]]
    assert asarray(3.5).shape == ()
    assert asarray(range(3), dtype="f4").dtype == numpy.float32
    assert asarray(numbers(2, 2), order="F").array.flags.f_contiguous
    assert array(numbers(3), ndmin=3).shape == (1, 1, 3)
    assert type(asarray(numpy.rec.array([(1, 2.0)])).array) is numpy.ndarray
    assert array(asarray(numbers(3)), dtype="i4").dtype == numpy.int32
    assert array([1], on_gpu=True, like=None, subok=True).tolist() == [1]
    assert asarray(memoryview(b"abc")).tolist() == [97, 98, 99]
    assert asarray(numbers(2), name="A").name == "A"
    first, second = asarray(numbers(2)), asarray(numbers(2))
    assert first.name != second.name


def test_batches_keep_their_structure():
    a, b = numbers(2), numbers(3)
    x, y = asarray_batch(a, {"k": [b, (a,)]})
    assert x.array is a
    assert y["k"][0].array is b
    assert isinstance(y["k"][1], tuple)
    assert asarray_batch(a).array is a
    assert asarray_batch(x) is x
    assert asarray_batch([]) == []
    with pytest.raises(TypeError, match="not int"):
        asarray_batch([a, 3])


# Contents.


def test_update():
    a = numbers(3)
    p = asarray(a, name="A")
    view = p[1:]
    p.update([7.0, 8.0, 9.0])
    assert p.tolist() == [7, 8, 9]
    p.update(numpy.array([1.0, 2.0, 3.0]))
    assert a.tolist() == [1, 2, 3]
    new = numpy.arange(8, dtype="i4").reshape(2, 4)
    p.update(new)
    assert (p.shape, p.dtype, p.name) == ((2, 4), numpy.int32, "A")
    assert p[1, 2] == 6
    assert view.tolist() == [2, 3], "older views keep the older array"
    new[...] = 0
    assert p[1, 2] == 6
    view.update([5.0, 5.0])
    assert a.tolist() == [1, 5, 5]
    with pytest.raises(ValueError, match="update the whole array"):
        view.update(numpy.zeros(5))
    q = asarray(numpy.zeros((2, 4), "i4"))
    q.update(p)
    assert numpy.array_equal(q, p)


def test_copies_and_pickles():
    a = numbers(4, 4)
    p = asarray(a, name="A")
    for duplicate in (copy.copy(p), copy.deepcopy(p), pickle.loads(pickle.dumps(p)), array(p)):
        assert isinstance(duplicate, PArray)
        assert same(duplicate.array, a)
        assert not numpy.shares_memory(duplicate.array, a)
    part = pickle.loads(pickle.dumps(p[1:3, ::-1]))
    assert part.name == "A"
    assert same(part.array, a[1:3, ::-1].copy(order="K"))
    assert type(p.get()) is numpy.ndarray
    assert not numpy.shares_memory(p.get(), a)


def test_numpy_arrays_of_it():
    a = numbers(3)
    p = asarray(a)
    assert numpy.shares_memory(numpy.asarray(p), a)
    assert not numpy.asarray(p).flags.writeable
    assert numpy.array(p).flags.writeable
    assert not numpy.shares_memory(numpy.array(p), a)
    assert numpy.asarray(p, dtype="f4").dtype == numpy.float32
    if int(numpy.__version__.split(".")[0]) >= 2:
        with pytest.raises(ValueError, match="without a copy"):
            numpy.asarray(p, dtype="f4", copy=False)


def test_dlpack():
    a = numbers(2, 3)
    p = asarray(a)
    assert p.__dlpack_device__() == (1, 0)
    other = numpy.from_dlpack(p[:, 1:])
    assert same(other, a[:, 1:])
    assert numpy.shares_memory(other, a)

    class Foreign:
        def __dlpack__(self, **options):
            return a.__dlpack__(**options)

        def __dlpack_device__(self):
            return a.__dlpack_device__()

    assert numpy.shares_memory(asarray(Foreign()).array, a)
    assert not hasattr(p, "__cuda_array_interface__")


def test_parla_array_knows_it():
    a = numbers(2, 3)
    p = asarray(a)
    assert arrays.is_array(p)
    assert arrays.asnumpy(p) is not None
    assert numpy.shares_memory(arrays.asnumpy(p), a)
    assert arrays.get_array_module(p) is numpy
    assert arrays.get_memory(p).device.name == "cpu(0)"
    assert arrays.storage_size(p[0], p[:, [0]]) == 24 + 16
    clone = arrays.clone_here(p)
    assert same(clone, a)
    assert not numpy.shares_memory(clone, a)
    arrays.copy(p[0], p[1])
    assert a[0].tolist() == [3, 4, 5]
    arrays.copy(p, 7)
    assert (a == 7).all()


def test_text_tells_what_it_is():
    p = asarray(numbers(2, 3), name="A")
    assert repr(p) == "<PArray 'A', shape (2, 3), float64>"
    assert repr(p[1:, 0]) == "<PArray 'A' in [1:2, 0:1], shape (1,), float64>"
    assert str(p) == str(p.array)


def test_overview(capsys):
    asarray(numbers(2), name="A").print_overview()
    assert "'A'" in capsys.readouterr().out


def test_where_it_is():
    p = asarray(numbers(2))
    assert p.exists_on_device(-1)
    assert p.nbytes_at(-1) == 16
    assert not p.evict()
    assert not p.evict(-1)
    p.evict_all()
    assert p.tolist() == [0, 1]
    with pytest.raises(IndexError, match=r"gpu\(7\) does not exist"):
        p.exists_on_device(7)
    with pytest.raises(TypeError, match="not str"):
        p.evict("gpu")


def test_arrays_need_no_runtime_and_numpy_only_when_used():
    run_py("""
        import sys
        from parla.parray import asarray
        assert "numpy" not in sys.modules
        import numpy
        p = asarray(numpy.zeros(3))
        p += 1
        assert p.array.tolist() == [1, 1, 1]
        assert "cupy" not in sys.modules
    """)
