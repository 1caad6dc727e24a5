"""PArrays outside tasks compute and convert as NumPy's arrays do."""

from __future__ import annotations

import copy
import operator
import pickle

import pytest

numpy = pytest.importorskip("numpy")

from ndarrays import numbers, same  # noqa: E402
from parla.parray import asarray  # noqa: E402

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
        assert isinstance(result, numpy.ndarray)
        assert same(result, wanted)
        assert type(result.array) is numpy.ndarray
        assert same(result.array, wanted)
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


def test_what_was_computed_is_a_numpy_array_with_an_array():
    a, b = numbers(3, 4), numbers(3, 4) + 1
    p, q = asarray(a), asarray(b)
    result = p + q
    for found, wanted in [
        (((p + q) * 2 - p).array, (a + b) * 2 - a),
        ((p + q)[1:].T.array, (a + b)[1:].T),
        ((-p).array, -a),
        (divmod(p, q)[1].array, a % b),
        ((p < 2).array, a < 2),
        (p[p < 2], a[a < 2]),
        (numpy.concatenate([p + q, p]), numpy.concatenate([a + b, a])),
        (pickle.loads(pickle.dumps(p + q)).array, a + b),
        (copy.deepcopy(p + q).array, a + b),
        (numpy.linalg.inv(p[:3, :3] + numpy.eye(3)), numpy.linalg.inv(a[:3, :3] + numpy.eye(3))),
    ]:
        assert same(numpy.asarray(found), wanted)
    for reduce in (numpy.sum, numpy.max, numpy.mean, numpy.linalg.norm, lambda x: x[1, 2], lambda x: x[0] @ x[1]):
        assert type(reduce(result)) is type(reduce(a + b))
        assert reduce(result) == reduce(a + b)
    assert repr(result) == repr(a + b)
    assert str(result) == str(a + b)
    result.array[0, 0] = 7
    assert result[0, 0] == 7
    assert same(a, numbers(3, 4)), "it is a new array"
    q[...] = p + q
    assert same(b, numbers(3, 4) * 2 + 1)
    assert same(asarray(p + q).array, a + b)
    p.update(p + 1)
    assert same(p.array, numbers(3, 4) + 1)


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
