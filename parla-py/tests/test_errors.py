"""Errors in tasks: none is lost, none changes on its way, and nothing runs on the result of a failed task."""

from __future__ import annotations

import threading
import traceback

import pytest
from parla import Parla, TaskSpace, spawn, tasks
from parla.errors import DependencyFailed, ParlaError
from support import carried, leaves, notes, pass_gate

pytestmark = pytest.mark.usefixtures("works_afterwards")


class Boom(Exception):
    """The error that these tests raise."""


def fail_in_function():
    raise Boom("from a function")


async def fail_in_coroutine():
    raise Boom("from a coroutine")


async def fail_after_await():
    await spawn()(lambda: None)
    raise Boom("after an await")


async def fail_in_awaited():
    await spawn(name="inner")(fail_in_function)


BODIES = [fail_in_function, fail_in_coroutine, fail_after_await, fail_in_awaited]


@pytest.mark.parametrize("body", BODIES)
def test_an_error_nobody_looked_at_leaves_the_block(traced_parla, workers, body):
    with pytest.raises(Boom) as caught, traced_parla(workers=workers):
        spawn(name="culprit")(body)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    raiser = fail_in_function if body is fail_in_awaited else body
    assert raiser.__name__ in frames
    assert "culprit" in notes(caught.value) or "inner" in notes(caught.value)
    assert "test_errors.py:" in notes(caught.value)


def test_the_note_names_the_line_that_spawned(traced_parla):
    with pytest.raises(Boom) as caught, traced_parla(workers=1):
        spawn(name="culprit")(fail_in_function)
    line = test_the_note_names_the_line_that_spawned.__code__.co_firstlineno + 2
    assert f"test_errors.py:{line}" in notes(caught.value)
    assert "culprit" in notes(caught.value)


def test_a_failed_await_throws_into_the_coroutine(traced_parla, workers):
    cleaned = []
    with traced_parla(workers=workers):
        culprit = spawn()(fail_in_function)

        @spawn()
        async def body():
            try:
                try:
                    await culprit
                finally:
                    cleaned.append("finally")
            except Boom as e:
                return e
    assert cleaned == ["finally"]
    assert body.result() is culprit.exception()
    assert str(body.result()) == "from a function"


def test_an_error_that_was_caught_at_its_await_is_settled(traced_parla, workers):
    with traced_parla(workers=workers):
        @spawn()
        async def body():
            with pytest.raises(Boom):
                await spawn()(fail_in_coroutine)
            return "went on"
    assert body.result() == "went on"


@pytest.mark.parametrize("look", ["result", "exception", "wait"])
def test_an_error_that_was_looked_at_is_settled_but_a_wait_is_no_look(traced_parla, look):
    def run():
        with traced_parla(workers=2):
            task = spawn()(fail_in_function)
            if look == "result":
                with pytest.raises(Boom):
                    task.result()
            elif look == "exception":
                assert isinstance(task.exception(), Boom)
            else:
                task.wait()

    if look == "wait":
        pytest.raises(Boom, run)
    else:
        run()


@pytest.mark.parametrize("form", ["space", "list", "slice"])
def test_awaiting_a_collection_with_a_failed_member_raises(traced_parla, workers, form):
    space = TaskSpace("T")
    with traced_parla(workers=workers):
        spawn(space[0])(lambda: None)
        spawn(space[1])(fail_in_function)
        spawn(space[2])(lambda: None)

        @spawn()
        async def body():
            with pytest.raises(Boom):
                await {"space": space, "list": tasks(space[0], space[1]), "slice": space[0:3]}[form]
            return "raised"
    assert body.result() == "raised"


def test_waiting_for_a_space_with_a_failed_member_raises(traced_parla, workers):
    space = TaskSpace("T")
    with traced_parla(workers=workers):
        spawn(space[0])(fail_in_function)
        with pytest.raises(Boom):
            space.wait()


def test_several_errors_arrive_as_a_group(traced_parla, workers):
    with pytest.raises(BaseException) as caught, traced_parla(workers=workers):
        for i in range(5):
            @spawn(name=f"culprit {i}")
            def body():
                raise Boom(i)
    assert type(caught.value).__name__ == "ExceptionGroup"
    found = leaves(caught.value)
    assert sorted(e.args[0] for e in found) == list(range(5))
    for e in found:
        assert f"culprit {e.args[0]}" in notes(e)


def test_dependents_of_a_failed_task_are_cancelled(traced_parla, workers):
    ran, space = [], TaskSpace("T")
    with pytest.raises(Boom) as caught, traced_parla(workers=workers):
        spawn(space[0], name="culprit")(fail_in_function)
        for i in range(1, 20):
            spawn(space[i], [space[i - 1]])(lambda: ran.append(i))
        independent = [spawn()(lambda: i) for i in range(20)]
    assert not hasattr(caught.value, "exceptions"), "only the cause is raised, not its consequences"
    assert ran == []
    assert [t.result() for t in independent] == list(range(20))
    for i in (1, 19):
        with pytest.raises(DependencyFailed, match="culprit"):
            space[i].task.result()
        assert any(isinstance(e, Boom) for e in carried(space[i].task.exception()))
        assert space[i].task.exception() is space[i].task.exception()
        assert space[i].task.state.name == "cancelled"  # not "failed", also when its exception has been asked for


def test_a_dependent_spawned_after_the_failure_is_cancelled_too(traced_parla):
    ran = []
    with pytest.raises(Boom), traced_parla(workers=1):
        culprit = spawn(name="culprit")(fail_in_function)
        culprit.wait()
        late = spawn(dependencies=[culprit])(lambda: ran.append(1))
        with pytest.raises(DependencyFailed, match="culprit"):
            late.result(10)
        later = spawn(dependencies=[late])(lambda: ran.append(2))
        with pytest.raises(DependencyFailed, match="culprit .*, which it depends on, failed"):
            later.result(10)
    assert ran == []


def test_an_error_in_the_block_cancels_what_has_not_started(traced_parla, workers):
    gate, started, ran = threading.Event(), threading.Event(), []
    with pytest.raises(Boom, match="block"), traced_parla(workers=workers):
        running = spawn()(lambda: started.set() or pass_gate(gate) or "finished")
        pending = spawn(dependencies=[running], name="pending")(lambda: ran.append(1))
        pass_gate(started)
        opener = threading.Timer(0.05, gate.set)
        opener.start()
        raise Boom("block")
    opener.join()
    assert running.result() == "finished", "a running body is waited for"
    assert ran == []
    with pytest.raises(ParlaError):
        pending.result()


def test_an_error_in_the_block_carries_the_tasks_errors():
    with pytest.raises(KeyError) as caught, Parla(workers=2):
        task = spawn(name="culprit")(fail_in_function)
        task.wait()
        raise KeyError("block")
    assert any(isinstance(e, Boom) for e in carried(caught.value)) or "from a function" in notes(caught.value)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("how", ["function", "coroutine"])
def test_exits_leave_through_the_block(traced_parla, workers, kind, how):
    exit_now = kind(3)

    def function():
        raise exit_now

    async def coroutine():
        raise exit_now

    with pytest.raises(kind) as caught, traced_parla(workers=workers):
        spawn()(function if how == "function" else coroutine)
    assert caught.value is exit_now


def test_stop_iteration_is_an_error_not_a_value(traced_parla, workers):
    with traced_parla(workers=workers):
        @spawn()
        def culprit():
            raise StopIteration("not a value")

        @spawn()
        async def awaiting():
            try:
                return await culprit
            except (StopIteration, RuntimeError) as e:
                return carried(e)

        @spawn()
        async def coroutine():
            raise StopIteration("not a value either")

        assert isinstance(culprit.exception(), StopIteration)
        assert isinstance(coroutine.exception(), RuntimeError)
    assert any(isinstance(e, StopIteration) for e in awaiting.result())


class Unprintable(Exception):
    """An exception that can be neither printed nor made again."""

    def __init__(self, a, b, *, c):
        super().__init__("x")
        self.payload = (a, b, c)

    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__

    def __reduce__(self):
        raise TypeError("not to be copied")


@pytest.mark.parametrize("n", [1, 2])
def test_the_same_object_arrives_whatever_it_is(n):
    thrown = [Unprintable(i, 2, c=3) for i in range(n)]
    with pytest.raises(BaseException) as caught, Parla(workers=2):
        for e in thrown:
            @spawn()
            def body():
                raise e
    assert {id(e) for e in leaves(caught.value)} == {id(e) for e in thrown}


def test_a_task_that_raises_an_exception_group_keeps_it(traced_parla):
    ExceptionGroup = getattr(__builtins__, "ExceptionGroup", None) or pytest.importorskip("builtins").__dict__.get(
        "ExceptionGroup"
    )
    if ExceptionGroup is None:
        pytest.skip("no exception groups before Python 3.11")
    group = ExceptionGroup("mine", [Boom(1), Boom(2)])

    with pytest.raises(ExceptionGroup) as caught, traced_parla(workers=1):
        @spawn()
        def body():
            raise group
    assert caught.value is group


def test_an_exception_class_is_raised_as_python_does(traced_parla):
    with pytest.raises(Boom), traced_parla(workers=1):
        @spawn()
        def body():
            raise Boom
    assert isinstance(body.exception(), Boom)


def test_the_same_exception_object_from_many_tasks(traced_parla):
    shared = Boom("shared")
    with pytest.raises(BaseException) as caught, traced_parla(workers=2):
        for _ in range(3):
            @spawn()
            def body():
                raise shared
    assert all(e is shared for e in leaves(caught.value))


def test_resources_of_failed_tasks_come_back(traced_parla, workers):
    with traced_parla(workers=workers):
        for _ in range(50):
            failed = spawn(vcus=1, memory=1 << 20)(fail_in_function)
            assert isinstance(failed.exception(), Boom)
        assert spawn(vcus=1, memory=1 << 20)(lambda: "fits").result(20) == "fits"


def test_a_task_may_catch_what_it_spawned_and_go_on_with_the_rest(traced_parla, workers):
    with traced_parla(workers=workers):
        @spawn()
        async def collect():
            made = []
            for i in range(20):
                @spawn()
                def child():
                    if i % 3 == 0:
                        raise Boom(i)
                    return i
                made.append(child)
            good, bad = [], []
            for t in made:
                try:
                    good.append(await t)
                except Boom as e:
                    bad.append(e.args[0])
            return good, bad
    good, bad = collect.result()
    assert bad == list(range(0, 20, 3))
    assert good == [i for i in range(20) if i % 3]
