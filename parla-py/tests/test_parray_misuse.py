"""What NumPy allows and a PArray can't do: an error that says so, where it was a wrong answer or nothing at all."""

from __future__ import annotations

import threading

import pytest
from support import pass_gate

numpy = pytest.importorskip("numpy")

from parla import Parla, spawn  # noqa: E402 - NumPy may be absent
from parla.devices import cpu, gpu  # noqa: E402
from parla.errors import ParlaError  # noqa: E402
from parla.parray import asarray  # noqa: E402


def numbers():
    return numpy.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize(
    ("name", "value"), [("shape", (4, 3)), ("dtype", "f4"), ("strides", (8, 8)), ("ndim", 1), ("name", "other"), ("T", 0)]
)
def test_what_it_is_can_not_be_set(name, value):
    for p in (asarray(numbers()), asarray(numbers())[1:], asarray(numbers())[:, ::2], asarray(numbers())[[0, 1]]):
        before = p.shape, p.dtype, p.tolist()
        with pytest.raises(AttributeError, match=name):
            setattr(p, name, value)
        assert (p.shape, p.dtype, p.tolist()) == before


def test_shape_and_type_have_a_description():
    for name in ("shape", "dtype"):
        assert getattr(type(asarray(numbers())), name).__doc__


@pytest.mark.parametrize(("name", "arguments", "hint"), [("resize", ((4, 3),), "update"), ("setflags", (False,), "before")])
def test_methods_that_would_change_the_local_view_alone(name, arguments, hint):
    p = asarray(numbers())
    with pytest.raises(AttributeError, match=f"{name}.*{hint}"):
        getattr(p, name)(*arguments)
    assert not hasattr(p, name)


def test_bytes_are_those_of_numpy():
    for a in (numpy.arange(3), numpy.array(5), numbers(), numbers().T, numpy.zeros(0)):
        assert bytes(asarray(a)) == a.tobytes()


@pytest.mark.parametrize("other", ["text", None, numpy.array(["a"] * 4), 3, [0, 1, 2, 3], numbers()])
def test_equality_with_anything_is_that_of_numpy(other):
    a = numbers()
    for found, expected in [(asarray(a) == other, a == other), (asarray(a) != other, a != other)]:
        assert type(found.array) is numpy.ndarray
        assert (found.tolist(), found.dtype) == (expected.tolist(), expected.dtype)
    assert (other == asarray(a[:1])).tolist() == (other == a[:1]).tolist()


def test_only_integers_are_an_index():
    p = asarray(numpy.array([1.0, 2.0]))
    with pytest.raises(TypeError, match="integer"):
        range(3)[p[0]]
    assert range(3)[asarray(numpy.array([1, 2]))[1]] == 2


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (numpy.put_along_axis, (numpy.array([[0], [1], [2]]), 9, 1)),
        (numpy.put, ([0, 5], [7, 8])),
        (numpy.putmask, (numbers() > 4, 0)),
        (numpy.place, (numbers() > 4, [1, 2])),
        (numpy.fill_diagonal, (3,)),
        (numpy.copyto, (7,)),
    ],
)
def test_functions_that_write_into_their_first_argument(two_gpus, function, arguments):
    expected = numbers()
    function(expected, *arguments)
    p, q = asarray(numbers()), asarray(numbers())
    function(p, *arguments)
    assert p.tolist() == expected.tolist()
    with Parla(workers=1):
        spawn(placement=gpu, inout=[q])(lambda: function(q, *arguments)).result(20)
    assert q.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda p: numpy.put(p, [0], [1]),
        lambda p: numpy.fill_diagonal(p, 1),
        lambda p: numpy.place(p, numbers() > 4, [1]),
        lambda p: numpy.putmask(p, numbers() > 4, 1),
        lambda p: numpy.copyto(p, 1, where=numbers() > 4),
    ],
)
def test_what_is_lost_is_not_valid_for_a_few_new_elements(two_gpus, change):
    p = asarray(numbers())

    def fails():
        p.array[:] = 5
        raise ValueError("half-way")

    with Parla(workers=1):
        assert spawn(placement=gpu, inout=[p])(fails).exception(20)
        with pytest.raises(ParlaError, match="no valid contents"):
            change(p)
        with pytest.raises(ParlaError, match="no valid contents"):
            p.tolist()
        numpy.copyto(p, 2)
        assert p.tolist() == [[2] * 4] * 3


def test_another_shape_in_a_task_that_may_not_write(two_gpus):
    p = asarray(numbers(), name="A")

    def grow():
        p.update(numpy.zeros(5))

    with Parla(workers=1):
        for arguments, text in [({"input": [p]}, "input only"), ({"inout": [p[:1]]}, "named only"), ({}, "does not name it")]:
            error = spawn(placement=gpu, **arguments)(grow).exception(20)
            assert isinstance(error, ParlaError) and text in str(error)
            assert p.shape == (3, 4)
            p.update(numbers())
        assert "input only" in str(spawn(placement=cpu, input=[p])(grow).exception(20))
        assert p.tolist() == numbers().tolist()
        spawn(placement=gpu, inout=[p])(grow).result(20)
    assert p.tolist() == [0] * 5


def test_evicting_what_a_task_uses_says_that_it_stays(two_gpus):
    p = asarray(numbers())
    begun, gate = threading.Event(), threading.Event()

    def body():
        p.array[:] = 1
        own = p.evict()
        begun.set()
        pass_gate(gate)
        p.array[:] += 1
        return own

    with Parla(workers=2):
        task = spawn(placement=gpu(0), inout=[p])(body)
        assert begun.wait(20)
        gate.set()
        p.evict(gpu(0))
        assert task.result(20) is False
        assert p.evict(gpu(0)) is True
        assert p.nbytes_at(gpu(0)) == 0
    assert p.tolist() == [[2] * 4] * 3


def test_overviews_name_memories_as_everything_else_does(two_gpus, capsys):
    p = asarray(numbers(), name="A")
    with Parla(workers=1):
        spawn(placement=gpu(1), inout=[p[:2]])(lambda: None).result(20)
        p.print_overview()
    assert capsys.readouterr().out.splitlines()[1:] == ["A[0:2, 0:4]: gpu:1", "A[2:3, 0:4]: host"]
