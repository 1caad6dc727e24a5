"""`@spawn`: what may be a body, what comes back, and how ids, names, priorities and retries act."""

from __future__ import annotations

import functools
import threading

import parla
import pytest
from parla import ParlaError, Task, TaskSpace, spawn
from support import pass_gate


def test_the_result_of_the_decorator_is_the_task(traced_parla, workers):
    with traced_parla(workers=workers):
        @spawn()
        def body():
            return 42

        assert isinstance(body, parla.Task)
        assert body.name == "body"
        assert body.result() == 42
    assert body.done()
    assert body.state.is_terminal
    assert body.result() == 42


def test_the_decorator_takes_one_body(traced_parla):
    with traced_parla(workers=1):
        decorator = spawn()
        for wrong in (
            lambda: decorator(),
            lambda: decorator(int, int),
            lambda: decorator(body=int),
            lambda: decorator(*[int], **{"body": int}),
        ):
            with pytest.raises(TypeError, match=r"one argument, the body"):
                wrong()
        # However it is called, and as often as one likes.
        assert [decorator(int).result(), decorator(*[int], **{}).result(), *map(Task.result, map(decorator, [int]))] == [0, 0, 0]


def test_ids_and_dependencies_by_position_and_by_name(traced_parla):
    space = TaskSpace("T")
    with traced_parla(workers=1):
        first = spawn(space[0], None)(int)
        assert spawn(None, [first])(int).taskid is None
        assert spawn(space[1], dependencies=[first])(int).taskid == space[1]
        assert spawn(dependencies=space, taskid=space[2])(int).taskid == space[2]
        with pytest.raises(TypeError, match="taskid: expected an index of a TaskSpace"):
            spawn(0, [first])(int)


def test_values_of_functions_coroutine_functions_and_coroutine_objects(traced_parla, workers):
    async def coroutine(value):
        return value

    with traced_parla(workers=workers):
        function = spawn()(lambda: 1)

        @spawn()
        async def awaiting():
            return 2 + await function

        given = spawn()(coroutine(5))
    assert (function.result(), awaiting.result(), given.result()) == (1, 3, 5)


class Callable:
    """An object with a method and a call operator."""

    def __init__(self, value):
        self.value = value

    def method(self):
        return self.value

    def __call__(self):
        return -self.value


def test_other_callables_are_bodies_too(traced_parla):
    with traced_parla(workers=2):
        method = spawn()(Callable(3).method)
        instance = spawn()(Callable(3))
        partial = spawn()(functools.partial(divmod, 7, 2))
        builtin = spawn()(dict)
        async_method = spawn()(functools.partial(AsyncBody().run, 4))
    assert [t.result() for t in (method, instance, partial, builtin, async_method)] == [3, -3, (3, 1), {}, 8]


class AsyncBody:
    """An object with an `async` method."""

    async def run(self, value):
        return 2 * value


@pytest.mark.parametrize("value", [None, (), (1, 2), StopIteration(3), ValueError("kept"), NotImplemented, ...])
def test_any_value_passes_through_unchanged(traced_parla, value):
    """A tuple or an exception as a value must not be taken apart on its way."""
    async def coroutine():
        return value

    with traced_parla(workers=1):
        function, coro = spawn()(lambda: value), spawn()(coroutine)

        @spawn()
        async def through_await():
            return (await function) is value and (await coro) is value

    assert function.result() is value
    assert coro.result() is value
    assert through_await.result() is True


def test_default_arguments_are_allowed(traced_parla):
    with traced_parla(workers=1):
        @spawn()
        def body(a=1, *args, b=2, **kwargs):
            return a, args, b, kwargs
    assert body.result() == (1, (), 2, {})


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (lambda x: x, ["x"]),
        (lambda first, second=2, *, third: None, ["first", "third"]),
        (functools.partial(lambda left, right: None, 1), ["right"]),
    ],
)
def test_required_parameters_are_refused_by_name(works_afterwards, body, names):
    with parla.Parla(workers=1):
        with pytest.raises(TypeError) as caught:
            spawn()(body)
    for name in names:
        assert name in str(caught.value)


def generator():
    yield 1


async def async_generator():
    yield 1


@pytest.mark.parametrize("body", [generator, async_generator, generator(), async_generator()])
def test_generators_are_refused(body, works_afterwards):
    with parla.Parla(workers=1):
        with pytest.raises(TypeError, match="generator"):
            spawn()(body)


@pytest.mark.parametrize("body", [3, "text", None, [], object()])
def test_bodies_that_cannot_be_called_are_refused(body):
    with parla.Parla(workers=1):
        with pytest.raises(TypeError, match=type(body).__name__):
            spawn()(body)


def test_a_refused_body_does_not_use_up_the_id(traced_parla):
    space = TaskSpace("S")
    with traced_parla(workers=1):
        with pytest.raises(TypeError):
            spawn(space[0])(generator)
        task = spawn(space[0])(lambda: "second try")
    assert task.result() == "second try"


def test_a_used_id_is_refused_and_the_first_task_unharmed(traced_parla, workers):
    space = TaskSpace("Twice")
    with traced_parla(workers=workers):
        @spawn(space[3])
        def first():
            return "first"

        line = first_line_of(test_a_used_id_is_refused_and_the_first_task_unharmed) + 3
        with pytest.raises(RuntimeError) as caught:
            spawn(space[3])(lambda: "second")
    message = str(caught.value)
    assert "Twice_3" in message
    assert f"test_spawn.py:{line}" in message or f"test_spawn.py:{line + 1}" in message
    assert first.result() == "first"
    assert space[3].task is first


def first_line_of(function):
    return function.__code__.co_firstlineno


def test_name_of_a_task(traced_parla):
    space = TaskSpace("T")
    with traced_parla(workers=1) as rt:
        anonymous = spawn()(Callable(1).method)
        given = spawn(name="factorise")(lambda: None)
        in_space = spawn(space[1, 2])(Callable(1).method)
    assert anonymous.name == "method"
    assert given.name == "factorise"
    assert in_space.taskid.name == "T_1_2"
    assert "factorise" in {record["name"] for record in rt.trace}


def test_taskid_under_its_later_name(traced_parla):
    space = TaskSpace("T")
    with traced_parla(workers=1):
        @spawn(task=space[0])
        def body():
            return 1
    assert space[0].task is body
    assert body.taskid == space[0]


def test_both_names_for_the_id_are_refused():
    space = TaskSpace("T")
    with parla.Parla(workers=1), pytest.raises(TypeError, match="task"):
        spawn(space[0], task=space[1])


def test_higher_priority_runs_first():
    order, gate = [], threading.Event()
    with parla.Parla(workers=1):
        running = threading.Event()

        @spawn()
        def blocker():
            running.set()
            pass_gate(gate)

        pass_gate(running)
        for priority in (0, 5, -3, 9):
            spawn(priority=priority)(lambda: order.append(priority))
        gate.set()
    assert order == [9, 5, 0, -3]


def test_a_retried_task_succeeds_in_the_end(traced_parla, workers):
    with traced_parla(workers=workers):
        attempts = []

        @spawn(retries=2)
        def flaky():
            attempts.append(1)
            if len(attempts) < 3:
                raise OSError("not yet")
            return "done"

        dependent = spawn(dependencies=[flaky])(lambda: "ran")
    assert (flaky.result(), dependent.result(), len(attempts)) == ("done", "ran", 3)


def test_retries_run_out_with_the_last_exception(traced_parla):
    attempts = []
    with pytest.raises(OSError, match="attempt 2"), traced_parla(workers=1):
        @spawn(retries=1)
        async def flaky():
            attempts.append(1)
            raise OSError(f"attempt {len(attempts)}")
    assert len(attempts) == 2


def test_spawning_inside_a_task_does_not_make_the_parent_wait(traced_parla, workers):
    gate, done = threading.Event(), []
    with traced_parla(workers=workers):
        @spawn()
        async def parent():
            @spawn()
            def child():
                pass_gate(gate)
                done.append("child")
            return child

        child = parent.result(20)
        assert not child.done()
        gate.set()
    assert done == ["child"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_spawning_outside_a_runtime_is_refused(when, works_afterwards):
    if when == "after":
        with parla.Parla(workers=1):
            pass
    with pytest.raises(ParlaError, match="Parla"):
        spawn()(lambda: None)


def test_the_current_task_is_known_to_the_body(traced_parla):
    with traced_parla(workers=2):
        @spawn()
        def function():
            return parla.get_current_task()

        @spawn()
        async def coroutine():
            await function
            return parla.get_current_task()

    assert function.result() is function
    assert coroutine.result() is coroutine
