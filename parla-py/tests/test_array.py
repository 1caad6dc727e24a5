"""Arrays: every layout copies right, and what is no array is refused by name."""

from __future__ import annotations

import itertools

import pytest

numpy = pytest.importorskip("numpy")

from parla import Parla, array, spawn  # noqa: E402 - NumPy may be absent
from parla.cpu import cpu  # noqa: E402
from support import run_py  # noqa: E402

DTYPES = [
    "bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "g", "c8", "c16", ">i4", ">f8", "M8[us]", "m8[s]", "S5", "U5",
    "O", [("a", "i4"), ("b", "f8")],
]  # fmt: skip


class DLPack:
    """An array of some other library that offers its memory by DLPack alone."""

    def __init__(self, data, device=(1, 0)):
        self.data, self.device = data, device

    def __dlpack__(self, **options):
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


class Interface:
    """An array of some other library that offers ``__array_interface__`` alone."""

    def __init__(self, data):
        self.data = data
        self.__array_interface__ = data.__array_interface__


class Converts:
    """An object that can be turned into a NumPy array and no more."""

    def __init__(self, data):
        self.data = data

    def __array__(self, dtype=None, copy=None):
        return numpy.array(self.data, dtype=dtype)


class Cuda:
    """An array on a GPU."""

    __cuda_array_interface__ = {"shape": (2,), "typestr": "<f8", "data": (0, False), "version": 3}


class Hostile:
    """An object whose every attribute fails."""

    def __getattr__(self, name):
        raise RuntimeError(name)


def numbers(shape=(2, 3), dtype="f8"):
    return numpy.arange(numpy.prod(shape, dtype=int)).reshape(shape).astype(dtype)


KINDS = [lambda a: a, DLPack, Interface, Converts]
NOT_ARRAYS = [1, 1.5, numpy.float64(2), "text", b"bytes", [1, 2], (1, 2), None, {}, numpy.ndarray, DLPack, object(), bytearray(3), Hostile()]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_an_array(kind):
    assert array.is_array(kind(numbers()))


@pytest.mark.parametrize("value", NOT_ARRAYS, ids=lambda v: type(v).__name__)
def test_what_is_no_array(value):
    assert not array.is_array(value)
    name = type(value).__name__
    for function in (array.asnumpy, array.get_memory, array.get_array_module, array.clone_here, array.storage_size):
        with pytest.raises(TypeError, match=name):
            function(value)
    with pytest.raises(TypeError, match=f"destination.*{name}"):
        array.copy(value, numbers())


@pytest.mark.parametrize("value", [[1, 2], (1,), None, {}, bytearray(2), object()], ids=lambda v: type(v).__name__)
def test_what_cannot_be_copied_from(value):
    with pytest.raises(TypeError, match=f"source.*{type(value).__name__}"):
        array.copy(numbers(), value)


@pytest.mark.parametrize("remote", [Cuda(), DLPack(numbers(), device=(2, 0))], ids=["cuda", "dlpack"])
def test_gpu_arrays_are_refused_by_name(remote):
    assert array.is_array(remote)
    name = type(remote).__name__
    for function in (array.asnumpy, array.get_memory, array.get_array_module, array.clone_here, array.storage_size):
        with pytest.raises(TypeError, match=f"{name}.*CPU memory only"):
            function(remote)
    with pytest.raises(TypeError, match=f"destination.*{name}"):
        array.copy(remote, numbers())
    with pytest.raises(TypeError, match=f"source.*{name}"):
        array.copy(numbers(), remote)


@pytest.mark.parametrize("kind", KINDS)
def test_questions_about_an_array(kind):
    a = kind(numbers((2, 3), "i4"))
    assert array.get_array_module(a) is numpy
    assert array.get_memory(a).device == cpu(0)
    assert array.asnumpy(a).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert array.storage_size(a) == 24
    assert array.storage_size(a, numbers((2,), "u1"), numpy.zeros(0)) == 26
    assert array.storage_size() == 0


def test_an_array_names_its_module():
    class Own(Interface):
        def __array_namespace__(self):
            return itertools

    assert array.get_array_module(Own(numbers())) is itertools


def test_storage_counts_elements_not_the_base():
    base = numpy.zeros((100, 100))
    assert array.storage_size(base[::2, :1]) == 50 * 8
    assert array.storage_size(numpy.broadcast_to(base[0], (7, 100))) == 700 * 8


def test_asnumpy_does_not_copy():
    a = numbers()
    assert array.asnumpy(a) is a
    for kind in (DLPack, Interface):
        assert numpy.shares_memory(array.asnumpy(kind(a)), a)


@pytest.mark.parametrize("destination", [lambda a: a, DLPack, Interface])
@pytest.mark.parametrize("source", KINDS)
def test_copies_between_kinds(destination, source):
    to = numpy.zeros((2, 3))
    array.copy(destination(to), source(numbers()))
    assert to.tolist() == numbers().tolist()


def test_a_destination_must_be_writable_in_place():
    with pytest.raises(TypeError, match="destination: Converts can be read.*not written"):
        array.copy(Converts(numbers()), numbers())
    fixed = numbers()
    fixed.flags.writeable = False
    for kind in (lambda a: a, Interface):
        with pytest.raises(ValueError, match="destination is read-only"):
            array.copy(kind(fixed), numbers())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype):
    source, destination = numpy.zeros((3, 4), dtype), numpy.zeros((3, 4), dtype)
    if source.dtype.names:
        source["a"][1], source["b"][0, 0] = 3, 2
    else:
        source[1] = "ab" if source.dtype.kind in "SU" else numpy.array(3).astype(dtype)
    assert source.tolist() != destination.tolist()
    array.copy(destination, source)
    clone = array.clone_here(source)
    for result in (destination, clone):
        assert result.dtype == source.dtype
        assert result.tolist() == source.tolist()
    assert not numpy.shares_memory(clone, source)


LAYOUTS = {
    "c": lambda a: a,
    "f": lambda a: a.copy(order="F"),
    "transposed": lambda a: a.T.copy().T,
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "strided": lambda a: numpy.repeat(numpy.repeat(a, 2, 0), 3, 1)[::2, ::3],
    "unaligned": lambda a: numpy.frombuffer(bytearray(b"x" + a.tobytes()), a.dtype, offset=1).reshape(a.shape),
}


@pytest.mark.parametrize(("source", "destination"), list(itertools.product(LAYOUTS, LAYOUTS)))
def test_every_layout(source, destination):
    expected = numbers((4, 5))
    to = LAYOUTS[destination](numpy.zeros((4, 5)))
    array.copy(to, LAYOUTS[source](expected))
    assert numpy.array_equal(to, expected)
    clone = array.clone_here(LAYOUTS[source](expected))
    assert numpy.array_equal(clone, expected)
    assert clone.flags.writeable


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 4, 5)], ids=str)
def test_every_rank(shape):
    source, to = numbers(shape), numpy.full(shape, -1.0)
    array.copy(to, source)
    assert numpy.array_equal(to, source)
    assert array.clone_here(source).shape == shape


@pytest.mark.parametrize("scalar", [3, 2.5, True, numpy.float32(1.5), numpy.int8(4)], ids=repr)
def test_scalars_fill(scalar):
    to = numpy.zeros((2, 2))
    array.copy(to, scalar)
    assert to.tolist() == [[scalar] * 2] * 2


def test_broadcasting():
    to = numpy.zeros((2, 3))
    array.copy(to, numpy.arange(3.0))
    assert to.tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize(("to", "source"), [((2, 3), (2, 2)), ((3,), (4,)), ((2,), (2, 2)), ((), (2,)), ((0,), (2,))])
def test_shapes_that_do_not_match_are_named(to, source):
    destination = numpy.full(to, 7.0)
    with pytest.raises(ValueError) as caught:
        array.copy(destination, numpy.zeros(source))
    assert str(to) in str(caught.value)
    assert str(source) in str(caught.value)
    assert (destination == 7).all()


def test_values_are_converted_where_nothing_is_lost_silently():
    single = numpy.zeros(2, "f4")
    array.copy(single, numpy.array([0.5, 2.0]))
    assert single.tolist() == [0.5, 2.0]
    with pytest.raises(TypeError, match="float64.*int32"):
        array.copy(numpy.zeros(2, "i4"), numpy.array([0.5, 2.0]))


def test_overlapping_copies_are_as_if_by_a_temporary():
    random = numpy.random.default_rng(5)
    for _ in range(300):
        base = random.integers(0, 1000, (9, 9))
        expected = base.copy()

        def window():
            rows, columns = (int(x) for x in random.integers(0, 5, 2))
            return (
                slice(rows, rows + 4) if random.random() < 0.7 else slice(rows + 4, rows or None, -1),
                slice(columns, columns + 4) if random.random() < 0.7 else slice(columns + 4, columns or None, -1),
            )

        to, source = window(), window()
        if base[to].shape != base[source].shape:
            continue
        values = base[source].T if random.random() < 0.5 and base[to].shape == base[source].T.shape else base[source]
        expected[to] = values.copy()
        array.copy(base[to], values)
        assert numpy.array_equal(base, expected)


@pytest.mark.parametrize("shift", [-3, -1, 1, 3])
def test_overlap_through_another_library(shift):
    base = numpy.arange(20)
    low, high = base[5:15], base[5 + shift : 15 + shift]
    expected = base.copy()
    expected[5:15] = high.copy()
    array.copy(DLPack(low), Interface(high))
    assert numpy.array_equal(base, expected)


def test_clones_keep_the_order_of_axes_and_the_subclass():
    assert array.clone_here(numbers().T).flags.f_contiguous
    masked = numpy.ma.masked_greater(numbers(), 3)
    assert array.clone_here(masked).mask.tolist() == masked.mask.tolist()


def test_clone_in_a_task():
    a = numbers()
    with Parla(workers=2):
        task = spawn(placement=cpu)(lambda: array.clone_here(a))
    assert numpy.array_equal(task.result(), a)
    assert not numpy.shares_memory(task.result(), a)


def test_numpy_is_imported_when_it_is_needed():
    run_py("""
        import sys
        from parla.array import is_array
        assert not is_array(3)
        assert "numpy" not in sys.modules
        import numpy
        assert is_array(numpy.zeros(2))
    """)
