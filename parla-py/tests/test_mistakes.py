"""What newcomers do wrong: the message says what it is, where in their program, and what to do."""

from __future__ import annotations

import asyncio

import pytest
from parla import Parla, PlacementError, TaskSpace, spawn
from parla.devices import cpu, gpu
from support import notes, run_py


def test_spawn_without_parentheses():
    def body():
        pytest.fail("it ran")

    with Parla(workers=1):
        for wrong in (body, lambda: None, print):
            with pytest.raises(TypeError, match=r"not the function .*write `@spawn\(\)`, with parentheses"):
                spawn(wrong)
        with pytest.raises(TypeError, match="taskid: expected an index"):
            spawn(int)(body)
    done = run_py("from parla import *\nwith Parla():\n    @spawn\n    def forgotten(): pass\n", check=False)
    assert done.returncode == 1
    assert "line 3" in done.stderr
    assert "not the function forgotten" in done.stderr


def test_writing_into_the_view_of_an_input(two_gpus):
    numpy = pytest.importorskip("numpy")
    from parla import asarray

    p, q = asarray(numpy.zeros(4), name="read"), asarray(numpy.zeros(4), name="changed")
    own = numpy.zeros(4)
    own.flags.writeable = False

    def assigns():
        p[:3].array[0] = 1

    def adds():
        x = p[:3].array
        x += 1

    def of_its_own():
        own[0] = 1

    def other():
        raise ValueError("no array at all")

    with Parla(workers=2):
        for body in (assigns, adds):
            for place in (gpu, None):
                q[...] = 0  # what a failed task was to change is lost
                task = spawn(placement=place, input=[p[:3]], inout=[q])(body)
                assert isinstance(task.exception(20), ValueError)
                assert "read[0:3]: name it as inout (or output) to write it" in notes(task.exception())
                assert body.__name__ in notes(task.exception())
                assert "changed" not in notes(task.exception())
        assert "inout" not in notes(spawn()(of_its_own).exception(20))
        q[...] = 0
        assert "inout" not in notes(spawn(inout=[q])(of_its_own).exception(20))
        assert "inout" not in notes(spawn(input=[p])(other).exception(20))
    assert p.tolist() == [0] * 4


def test_what_needs_the_loop_of_asyncio():
    with Parla(workers=1):

        @spawn()
        async def body():
            await asyncio.sleep(1)

        assert "asyncio.run" in notes(body.exception(20))

        @spawn()
        def plain():
            raise RuntimeError("something else")

        assert "asyncio" not in notes(plain.exception(20))


def test_assigning_to_the_local_view(two_gpus):
    """It has one meaning that makes sense, so it means that."""
    numpy = pytest.importorskip("numpy")
    from parla import asarray

    a = numpy.arange(6.0).reshape(2, 3)
    p = asarray(a)

    def add():
        p.array += 1
        p[0].array *= 2
        return p.array.tolist()

    def replace():
        p[1].array = [7, 8, 9]
        p[0, [0, 2]].array = 5

    def reads():
        p.array = 1

    with Parla(workers=2):
        T = TaskSpace("T")
        assert spawn(T[0], placement=gpu(0), inout=[p])(add).result(20) == [[2, 4, 6], [4, 5, 6]]
        spawn(T[1], [T[0]], placement=gpu(1), inout=[p])(replace).result(20)
        refused = spawn(placement=gpu(0), input=[p])(reads)
        assert "input only" in str(refused.exception(20))
    assert a.tolist() == [[5, 4, 5], [7, 8, 9]]
    p.array -= 1
    assert a.tolist() == [[4, 3, 4], [6, 7, 8]]
    with pytest.raises(ValueError, match="shape"):
        p.array = numpy.zeros(4)


@pytest.mark.parametrize(
    ("operand", "error", "text"),
    [
        (lambda p: (p, "0"), TypeError, r"not \(PArray, str\); k is the number of a device of the task"),
        (lambda p: (p, 0.0), TypeError, r"not \(PArray, float\); k is"),
        (lambda p: (p, -1), ValueError, r"\(PArray, -1\): the devices of a task are counted from 0"),
        (lambda p: [p, p], TypeError, r"not list; lists in lists are not searched: write \[\*one, \*other\]"),
        (lambda p: (p, p, p), TypeError, "not tuple; lists in lists"),
        (type, TypeError, "a class is no array"),
        (lambda p: p.array, TypeError, r"not ndarray; wrap it: parla.asarray\(a\)"),
        (lambda p: p + 1, TypeError, r"not Computed; wrap it: parla.asarray\(a\)"),
    ],
)
def test_operands_that_are_none(operand, error, text):
    numpy = pytest.importorskip("numpy")
    from parla import asarray

    with Parla(workers=1), pytest.raises(error, match=f"^input: .*{text}"):
        spawn(input=[operand(asarray(numpy.zeros(4)))])(lambda: pytest.fail("it ran"))


def test_asking_why_of_something_else():
    with Parla(workers=1) as rt:
        assert rt.why(TaskSpace("T")[0]) == "TaskID(T_0) was never spawned"
        for wrong in (None, "T_0", 3):
            with pytest.raises(TypeError, match=f"why: expected a task, .*not {type(wrong).__name__}"):
                rt.why(wrong)


def test_options_of_the_runtime_that_make_no_sense(two_gpus):
    with pytest.raises(PlacementError, match=r"devices: gpu\(7\) does not exist: this machine has 2 gpu devices"):
        Parla(devices=[cpu, gpu(7)])
    with pytest.raises(ValueError, match="devices: expected at least one"):
        Parla(devices=[])
    with pytest.raises(TypeError, match="check: expected True or False, not str"):
        Parla(check="no")
    with Parla(devices=gpu[0:2], check=False, workers=1):
        pass
