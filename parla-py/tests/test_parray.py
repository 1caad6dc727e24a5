"""PArrays outside tasks: they index, compute and convert as NumPy's arrays do, over the user's own buffer."""

from __future__ import annotations

import copy
import gc
import operator
import pickle
import weakref

import pytest
from support import run_py

numpy = pytest.importorskip("numpy")

from hypothesis import given, settings  # noqa: E402 - NumPy may be absent
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as hnp  # noqa: E402
from parla import array as arrays  # noqa: E402
from parla.parray import PArray, array, asarray, asarray_batch  # noqa: E402

DTYPES = [
    "bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "g", "c8", "c16", ">i4", ">f8", "M8[us]", "m8[s]",
    "S5", "U5", "V3", [("a", "i4"), ("b", "f8", (2,))], numpy.dtype([("x", "i1"), ("y", "f8")], align=True),
]  # fmt: skip

LAYOUTS = {
    "c": lambda a: a.copy(),
    "f": lambda a: a.copy(order="F"),
    "transposed": lambda a: a.T.copy().T,
    "reversed": lambda a: a[::-1].copy()[::-1],
    "strided": lambda a: numpy.repeat(a, 3, -1)[..., ::3],
    "unaligned": lambda a: numpy.frombuffer(bytearray(b"x" + a.tobytes()), a.dtype, offset=1).reshape(a.shape),
}

PROPERTY = settings(max_examples=150, deadline=None, derandomize=True)


def numbers(*shape, dtype="f8"):
    return numpy.arange(numpy.prod(shape, dtype=int)).reshape(shape).astype(dtype)


def filled(shape, dtype):
    """An array whose bytes all differ from those of its neighbours, as far as the type has room."""
    a = numpy.zeros(shape, dtype)
    if a.dtype.kind in "SU":
        a[...] = numpy.array([f"{i:03}" for i in range(a.size)]).reshape(shape)
    elif a.dtype.kind == "V":
        raw = bytes(i % 100 for i in range(a.nbytes))
        a = numpy.frombuffer(bytearray(raw), a.dtype).reshape(shape)
    else:
        a[...] = numpy.arange(a.size).reshape(shape) % 2 if a.dtype.kind == "b" else numpy.arange(a.size).reshape(shape)
    return a


def same(a, b):
    """Whether two arrays have the same type, shape and bytes."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool((a == b).all()) if a.dtype.names else a.tobytes() == b.tobytes()


def box(p):
    return p.__parla_operand__()[1:]


def expected_box(shape, indices):
    """The smallest box around elements given by their numbers, and whether they are all of it."""
    if indices.size == 0:
        return None, None
    if not shape:
        return (), True
    places = numpy.unravel_index(indices.ravel(), shape)
    found = tuple((int(p.min()), int(p.max()) + 1) for p in places)
    return found, len(set(indices.ravel().tolist())) == numpy.prod([b - a for a, b in found], dtype=int)


def check_box(p, shape, indices):
    region, exact = box(p)
    wanted, whole = expected_box(shape, indices)
    assert len(region) == len(shape)
    assert all(0 <= start <= stop <= n for (start, stop), n in zip(region, shape))
    if wanted is None:
        return
    if p._picked is None:
        assert region == wanted
        assert exact == whole
    else:
        assert all(a <= c and d <= b for (a, b), (c, d) in zip(region, wanted))
        assert not exact


# Indexing.


@st.composite
def indexed(draw, n_keys=3):
    """A shape, a layout, and basic indices to apply one after another."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    layout = draw(st.sampled_from(sorted(LAYOUTS))) if shape else "c"
    keys, current = [], numpy.zeros(shape)
    for _ in range(draw(st.integers(1, n_keys))):
        key = draw(hnp.basic_indices(current.shape, allow_newaxis=True, allow_ellipsis=True))
        try:
            current = numpy.asarray(current[key])
        except IndexError:  # there are no integer indices for sides of length 0
            break
        keys.append(key)
        if draw(st.booleans()):
            current = current.T
            keys.append("T")
    return shape, layout, keys


def apply(a, keys):
    for key in keys:
        if isinstance(key, str):
            a = a.T
        elif isinstance(a, PArray):
            a = a[key]
        else:
            # With an ellipsis NumPy gives arrays and never scalars.
            parts = key if isinstance(key, tuple) else (key,)
            a = a[parts if any(part is Ellipsis for part in parts) else (*parts, ...)]
    return a


@PROPERTY
@given(indexed())
def test_views_are_those_of_numpy(case):
    shape, layout, keys = case
    a = LAYOUTS[layout](numbers(*shape)) if shape else numpy.array(3.0)
    elements = numpy.arange(a.size).reshape(shape)
    p = asarray(a)
    view, wanted = apply(p, keys), apply(a, keys)
    assert isinstance(view, PArray)
    assert view.shape == wanted.shape
    assert (view.ndim, view.size, view.subarray_nbytes) == (wanted.ndim, wanted.size, wanted.nbytes)
    assert view.nbytes == a.nbytes
    check_box(view, shape, apply(elements, keys))
    local = view.array
    assert same(local, wanted)
    if wanted.size:
        assert local.__array_interface__["data"][0] == wanted.__array_interface__["data"][0]
        assert all(s == t for s, t, n in zip(local.strides, wanted.strides, wanted.shape) if n > 1)
        assert view.strides == local.strides
    local[...] = -1
    assert (wanted == -1).all()
    view[...] = numpy.arange(wanted.size).reshape(wanted.shape)
    assert same(wanted, numpy.arange(wanted.size).reshape(wanted.shape).astype("f8"))


@st.composite
def advanced(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5))
    kind = draw(st.sampled_from(["mask", "first mask", "lists", "mixed"]))
    if kind == "mask":
        return shape, draw(hnp.arrays(bool, shape))
    if kind == "first mask":
        return shape, (draw(hnp.arrays(bool, shape[:1])), ...)
    if kind == "lists":
        return shape, draw(hnp.integer_array_indices(shape, dtype=numpy.intp))
    key = []
    for n in shape:
        part = draw(st.sampled_from(["int", "slice", "list", "none", "column"]))
        if part == "none":
            key.append(None)
        choices = st.lists(st.integers(-n, n - 1), min_size=2, max_size=2)
        key.append(
            draw(st.integers(-n, n - 1)) if part == "int"
            else draw(choices) if part in ("list", "none")
            else numpy.array(draw(choices))[:, None] if part == "column"
            else draw(st.slices(n))
        )  # fmt: skip
    return shape, tuple(key)


@PROPERTY
@given(advanced())
def test_selections_are_those_of_numpy(case):
    shape, key = case
    a = numbers(*shape)
    elements = numpy.arange(a.size).reshape(shape)
    p = asarray(a)
    view, wanted = p[key], numpy.array(a[key])
    assert view.shape == wanted.shape
    assert view.dtype == wanted.dtype
    check_box(view, shape, elements[key])
    assert same(numpy.asarray(view), numpy.asarray(wanted))
    assert not numpy.shares_memory(numpy.array(view), a)
    p[key] = -a[key]
    assert same(a[key], -wanted)
    p[key] += 1
    oracle = numbers(*shape)
    oracle[key] = -oracle[key]
    oracle[key] += 1
    assert same(a, oracle)


def test_a_box_is_as_small_as_can_be():
    p = asarray(numbers(10, 10))
    assert box(p[[3, 7], 2:9:3]) == (((3, 8), (2, 9)), False)
    assert box(p[2:9:3, 8:2:-2]) == (((2, 9), (4, 9)), False)
    assert box(p[2:5, ::-1]) == (((2, 5), (0, 10)), True)
    assert box(p[-1, 3]) == (((9, 10), (3, 4)), True)
    assert box(p[p > 95]) == (((9, 10), (6, 10)), False)
    assert box(p[4:][[0, 1]]) == (((4, 6), (0, 10)), False)
    assert box(p[[]])[0][0] == (0, 0)
    assert box(p[5:5])[0][0][0] == box(p[5:5])[0][0][1]


@pytest.mark.parametrize(
    "key",
    [10, -11, (0, 5), (0, 0, 0), (..., ...), [10], ([0], [5]), 1.5, "x", (0, "x"), {}, [1.5], slice(0, 1, 0)],
    ids=str,
)
def test_wrong_indices_are_refused_as_by_numpy(key):
    a = numbers(10, 5)
    with pytest.raises(Exception) as wanted:
        a[key]
    with pytest.raises(type(wanted.value)):
        asarray(a)[key]
    with pytest.raises(type(wanted.value)):
        asarray(a)[key] = 0


def test_a_mask_of_the_wrong_shape():
    with pytest.raises(IndexError, match=r"axis 1; size of axis is 5 but size of corresponding boolean axis is 4"):
        asarray(numbers(10, 5))[numpy.ones((10, 4), bool)]


def test_selections_are_read_only_and_evaluated_when_used():
    a = numbers(4)
    p = asarray(a)
    chosen = p[[0, 2]]
    with pytest.raises(ValueError, match="read-only"):
        chosen.array[0] = 1
    a[0] = 9
    assert chosen.tolist() == [9, 2]
    chosen[...] = 5
    assert a.tolist() == [5, 1, 5, 3]
    assert chosen[1] == 5
    with pytest.raises(ValueError, match="assign to the PArray"):
        arrays.copy(chosen, numpy.zeros(2))


def test_fields():
    a = numpy.zeros((3, 2), [("a", "i4"), ("b", "f8", (2,))])
    p = asarray(a)
    p["a"][1:] = 7
    p["b"][...] = [1, 2]
    assert a["a"].tolist() == [[0, 0], [7, 7], [7, 7]]
    assert a["b"][2, 1].tolist() == [1, 2]
    assert p["b"].shape == (3, 2, 2)
    assert box(p[1]["a"]) == (((1, 2), (0, 2)), False)
    assert box(p["a"][1]) == (((1, 2), (0, 2)), False)
    p["a"].array[0] = 3
    assert a["a"][0].tolist() == [3, 3]
    assert p[["a"]].dtype.names == ("a",)
    with pytest.raises(ValueError, match="no field"):
        p["c"]


def test_transpose():
    a = numbers(2, 3, 4)
    p = asarray(a)
    for order in [(), (None,), (2, 0, 1), ((0, 2, 1),), (-1, 0, 1)]:
        assert same(p.transpose(*order).array, a.transpose(*order))
    assert box(p[1].T[2]) == (((1, 2), (0, 3), (2, 3)), True)
    for order in [(0, 1), (0, 0, 1), (0, 1, 3)]:
        with pytest.raises(ValueError, match="don't match"):
            p.transpose(*order)


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
    others = [a[:2], a.T, a.view("i8"), a.copy()]
    for other in others:
        assert asarray(other).__parla_operand__()[0] is not native()[0]
        assert same(asarray(other).array, other)


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


# Operators and NumPy's functions.

BINARY = [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "lt",
    "le",
    "eq",
    "ne",
    "gt",
    "ge",
    "and_",
    "or_",
    "xor",
    "lshift",
    "rshift",
]
IN_PLACE = ["iadd", "isub", "imul", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "ilshift", "irshift"]


@pytest.mark.parametrize("name", [*BINARY, "matmul"])
def test_binary_operators(name):
    function = getattr(operator, name)
    a, b = numbers(3, 3, dtype="i8") + 1, numbers(3, 3, dtype="i8") % 4 + 1
    wanted = function(a, b)
    for left, right in [(asarray(a), asarray(b)), (asarray(a), b), (a, asarray(b))]:
        result = function(left, right)
        assert type(result) is numpy.ndarray
        assert same(result, wanted)
    if name != "matmul":
        assert same(function(asarray(a), 2), function(a, 2))
        assert same(function(2, asarray(b)), function(2, b))


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("part", [..., 1, (slice(None), [0, 2])], ids=str)
def test_in_place_operators(name, part):
    function = getattr(operator, name)
    a = numbers(3, 3, dtype="i8") + 1
    wanted = a.copy()
    p = asarray(a)
    wanted[part] = function(wanted[part], 2)
    target = p[part]
    assert function(target, 2) is target
    assert same(a, wanted)
    p[part] = function(p[part], 1)
    wanted[part] = function(wanted[part], 1)
    assert same(a, wanted)


def test_other_operators():
    a = numbers(4, dtype="i8") - 2
    p = asarray(a)
    for function in (
        operator.neg,
        operator.pos,
        abs,
        operator.invert,
        lambda x: divmod(x, 3),
        lambda x: divmod(7, x + 5),
        lambda x: 7 - x,
    ):
        assert numpy.array_equal(function(p), function(a))
    with pytest.raises(TypeError):
        p + "text"
    with pytest.raises(TypeError):
        hash(p)

    class Stubborn:
        __array_ufunc__ = None

        def __radd__(self, other):
            return "mine"

    assert p + Stubborn() == "mine"


def test_universal_functions():
    a, b = numbers(3), numbers(3) + 1
    p, q = asarray(a), asarray(b)
    assert same(numpy.hypot(p, q), numpy.hypot(a, b))
    assert numpy.add.reduce(p) == 3
    assert same(numpy.add.outer(p, q), numpy.add.outer(a, b))
    out = asarray(numpy.zeros(3))
    assert numpy.add(p, q, out=out) is out
    assert out.tolist() == [1, 3, 5]
    numpy.add.at(out, [0, 0], q[[0, 0]])
    assert out.tolist() == [3, 3, 5]
    plain = numpy.zeros(3)
    assert numpy.multiply(p, 2, out=plain, where=p > 0) is plain
    assert plain.tolist() == [0, 2, 4]
    whole, fraction = asarray(numpy.zeros(3)), numpy.zeros(3)
    result = numpy.modf(b + 0.5, out=(fraction, whole))
    assert result[1] is whole
    assert whole.tolist() == [1, 2, 3]


def test_functions_of_numpy():
    a, b = numbers(3, 4), numbers(3, 4) + 1
    p, q = asarray(a), asarray(b)
    for function in (
        lambda x, y: numpy.concatenate([x, y]), lambda x, y: numpy.sum(x, axis=0), lambda x, y: numpy.where(x > 3, x, y),
        lambda x, y: numpy.linalg.norm(x), lambda x, y: numpy.einsum("ij,ij->i", x, y), lambda x, y: numpy.stack((x, y)),
        lambda x, y: numpy.dot(x, y.T), lambda x, y: numpy.allclose(x, y), lambda x, y: x.sum(axis=1), lambda x, y: x.reshape(4, 3),
        lambda x, y: x.mean(), lambda x, y: x.max(), lambda x, y: x.astype("f4"), lambda x, y: x.tolist(), lambda x, y: x.copy(),
        lambda x, y: x.flatten(), lambda x, y: x.dot(y.T), lambda x, y: numpy.shape(x), lambda x, y: len(x), lambda x, y: 5.0 in x,
        lambda x, y: [float(r.sum()) for r in x], lambda x, y: list(map(float, x[0])), lambda x, y: x.item(3),
    ):  # fmt: skip
        assert numpy.array_equal(function(p, q), function(a, b))
    numpy.copyto(p, q)
    assert same(a, b)
    p.fill(3)
    p[0].sort()
    assert (a == 3).all()
    out = asarray(numpy.zeros(4))
    assert numpy.sum(p, axis=0, out=out) is out
    assert out.tolist() == [9] * 4
    with pytest.raises(AttributeError, match="nonsense"):
        p.nonsense
    with pytest.raises(AttributeError):
        p._nonsense


def test_scalars():
    p = asarray(numpy.array([2, 0]))
    assert (int(p[0]), float(p[0]), complex(p[0]), bool(p[0]), bool(p[1])) == (2, 2.0, 2 + 0j, True, False)
    assert [10, 20, 30][p[0]] == 30
    assert f"{asarray(numpy.array([1.5]))[0]:.2f}" == "1.50"
    for function in (int, bool, operator.index):
        with pytest.raises((TypeError, ValueError)):
            function(p)
    for function in (len, iter):
        with pytest.raises(TypeError):
            function(p[0])


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
