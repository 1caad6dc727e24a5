"""Views and selections of PArrays are those of NumPy, and lie in the smallest box."""

from __future__ import annotations

import itertools

import pytest

numpy = pytest.importorskip("numpy")

from hypothesis import given, settings  # noqa: E402 - NumPy may be absent
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as hnp  # noqa: E402
from ndarrays import LAYOUTS, box, check_box, numbers, same  # noqa: E402
from parla import array as arrays  # noqa: E402
from parla.parray import PArray, asarray  # noqa: E402

PROPERTY = settings(max_examples=150, deadline=None, derandomize=True)


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


@pytest.mark.parametrize("before", [slice(None), slice(None, None, -1), slice(1, None, 2)], ids=["all", "reversed", "odd"])
def test_every_slice_of_an_axis(before):
    a, elements = numbers(6), numpy.arange(6)
    p = asarray(a)
    bounds = [None, *range(-7, 8)]
    for start, stop, step in itertools.product(bounds, bounds, [1, 2, 3, -1, -2, -3]):
        key = slice(start, stop, step)
        view = p[before][key]
        check_box(view, (6,), elements[before][key])
        assert same(view.array, a[before][key]), key


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
