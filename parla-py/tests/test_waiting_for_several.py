"""`tasks(...).wait()` and `T.wait()`: one wait for all of them, also in a body, which steps aside once and has its data again once."""

from __future__ import annotations

import threading

import pytest
from machine import configured
from parla import Parla, TaskSpace, asarray, spawn, tasks
from parla.devices import cpu, gpu
from parla.errors import DeadlockError, TaskCancelled
from support import LIMIT, leaves, pass_gate

numpy = pytest.importorskip("numpy")

HOWS = {
    "a list": lambda space, members: tasks(members).wait(LIMIT),
    "a space": lambda space, members: space.wait(),
    "a slice": lambda space, members: space[0 : len(members)].wait(),
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("place", [None, gpu(0)], ids=["without arrays", "with arrays"])
def test_a_body_waits_once(workers, how, place):
    space, a = TaskSpace("T"), asarray(numpy.zeros(8))
    uses = {} if place is None else {"placement": place, "inout": [a], "memory": 4000}
    with configured(PARLA_SIM_GPUS="1", PARLA_SIM_GPU_MEM="8000"), Parla(workers=workers, trace=True) as rt:

        @spawn(**uses)
        def parent():
            members = []
            for i in range(3):
                # One after the other: the first ends while the others have not.

                @spawn(space[i], space[i - 1] if i else [], **uses)
                def child():
                    pass

                members.append(child)
            HOWS[how](space, members)
            return [member._number for member in members]

    mine = [record for record in rt.trace if record["task"] == parent._number]
    waits = [set(record["on"]) for record in mine if record["event"] == "suspended"]
    # With more workers some or all may have ended before.
    assert waits == [set(parent.result())] if workers == 1 else len(waits) <= 1
    assert [record["event"] for record in mine].count("resumed") == len(waits)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("place", [cpu, gpu(0)], ids=["cpu", "gpu"])
def test_a_correct_body_is_no_race(workers, how, place):
    space, buffer = TaskSpace("T"), numpy.zeros(8)
    a = asarray(buffer)
    with configured(PARLA_SIM_GPUS="1"), Parla(workers=workers, check=True):

        @spawn(placement=place, inout=[a])
        def parent():
            a.array[...] += 1
            members = []
            for i in range(3):

                @spawn(space[i], space[i - 1] if i else [], placement=place, inout=[a])
                def child():
                    a.array[...] = a.array * 2 + i

                members.append(child)
            HOWS[how](space, members)
            a.array[...] += 1

    assert buffer.tolist() == [((1 * 2 + 0) * 2 + 1) * 2 + 2 + 1] * 8


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "in a body"])
def test_the_time_is_for_all_together(workers, inside):
    gate, space, buffer = threading.Event(), TaskSpace("T"), numpy.zeros(8)
    a = asarray(buffer)
    with Parla(workers=workers):

        def wait():
            quick = spawn(space[3], placement=cpu)(int)
            quick.wait(LIMIT)
            made = [spawn(space[i], placement=cpu, name=f"slow{i}")(lambda: pass_gate(gate)) for i in range(3)]
            try:
                with pytest.raises(TimeoutError, match=r"3 of 4 tasks did not end within 0.05 s: .*slow0.*slow1.*slow2"):
                    tasks(quick, made).wait(0.05)
                with pytest.raises(TimeoutError, match=r"3 of 4 tasks did not end within 0.05 s: "):
                    space.wait(0.05)
                with pytest.raises(TimeoutError):
                    tasks(made).wait(0)
                with pytest.raises(TimeoutError):
                    tasks(made).wait(-1)
            finally:
                gate.set()
            tasks(made).wait(LIMIT)
            space.wait(LIMIT)

        def body():
            wait()
            a.array[...] = 5  # its data is there, whatever came of the waits

        spawn(placement=cpu, inout=[a])(body) if inside else wait()
    assert buffer.tolist() == [5 * inside] * 8


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "in a body"])
def test_all_have_ended_before_the_first_error_is_raised(inside):
    with Parla(workers=4):

        def wait():
            gate = threading.Event()

            @spawn()
            def early():
                raise KeyError("first")

            @spawn()
            def late():
                early.wait(LIMIT)
                pass_gate(gate)
                raise ValueError("second")

            @spawn()
            def opens():
                early.wait(LIMIT)
                gate.set()

            with pytest.raises(KeyError, match="first"):
                tasks(early, late, opens).wait()
            assert late.done() and opens.done()

        if inside:
            spawn()(wait).result()
        else:
            wait()


def test_members_that_are_not_spawned_are_left_out(workers):
    space = TaskSpace("T")
    with Parla(workers=workers):

        @spawn(placement=cpu)
        def body():
            made = [spawn(space[i])(int) for i in range(2)]
            tasks(space[0], space[7], made[1], space[8]).wait(LIMIT)
            tasks(space[7]).wait(LIMIT)
            tasks().wait(LIMIT)
            return [one.done() for one in made]

    assert body.result() == [True, True]


def deadlocks(caught, *bodies):
    """The texts of all that is a deadlock among what a block and its bodies have raised. Bodies that come to it when the block has given up hear that
    what they wait for is cancelled."""
    assert all(isinstance(body.exception(), DeadlockError | TaskCancelled) for body in bodies)
    raised = [*leaves(caught.value), *(body.exception() for body in bodies)]
    return [str(error) for error in raised if isinstance(error, DeadlockError)]


def test_a_wait_for_what_never_ends_names_it(workers):
    space, missing = TaskSpace("T"), TaskSpace("missing")
    with pytest.raises(BaseException) as caught, Parla(workers=workers):

        @spawn()
        def body():
            spawn(space[0])(int)
            spawn(space[1], [missing[0]], name="stuck")(int)
            space.wait()

    texts = deadlocks(caught, body)
    assert any("is blocked in a wait for T_1 (stuck)" in text for text in texts), texts
    assert all("missing_0, which was never spawned" in text for text in texts), texts


def test_who_is_told_of_a_deadlock_last_reads_the_same_as_who_is_first():
    missing = TaskSpace("missing")
    with pytest.raises(BaseException) as caught, Parla(workers=4):
        stuck = spawn(missing[1], [missing[0]], name="stuck")(int)
        bodies = [spawn(name=f"body{i}")(stuck.result) for i in range(12)]
    for text in deadlocks(caught, *bodies):
        n = text.count("is blocked in a wait for missing_1 (stuck)")
        assert f"{n + 1} tasks remain" in text or n == 0 and "1 task remains" in text, text
        assert "missing_0, which was never spawned" in text
        assert "a running task" not in text and "is running" not in text, text
