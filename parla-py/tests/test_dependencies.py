"""Dependencies: every form that names tasks, any order of spawning, and a clear refusal of everything else."""

from __future__ import annotations

import threading

import pytest
from parla import Parla, ParlaError, TaskSpace, spawn, tasks
from support import pass_gate


def test_tasks_may_be_spawned_in_any_order(traced_parla, workers):
    """The earliest version raised when a dependency wasn't spawned yet."""
    space, order = TaskSpace("T"), []
    with traced_parla(workers=workers):
        for i in reversed(range(100)):
            spawn(space[i], [space[i - 1]])(lambda: order.append(i))
    assert order == list(range(100))


FORMS = {
    "task": lambda space: space[0].task,
    "id": lambda space: space[0],
    "list of ids": lambda space: [space[0], space[1]],
    "tuple": lambda space: (space[0], space[1]),
    "set": lambda space: {space[0], space[1]},
    "generator": lambda space: (space[i] for i in range(2)),
    "slice": lambda space: [space[0:2]],
    "space": lambda space: space,
    "space in a list": lambda space: [space],
    "tasks": lambda space: tasks(space[0], space[1].task),
    "nested": lambda space: [[space[0], [(space[1],)]], [], [[[]]]],
    "mixed": lambda space: [space, space[0].task, [space[1], tasks(space[0])]],
    "dictionary keys": lambda space: {space[0]: 1, space[1]: 2}.keys(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_dependencies(traced_parla, form, workers):
    space, gate, order = TaskSpace("T"), threading.Event(), []
    with traced_parla(workers=workers) as rt:
        for i in range(2):
            @spawn(space[i])
            def before():
                pass_gate(gate)
                order.append("before")

        @spawn(dependencies=FORMS[form](space))
        def after():
            order.append("after")

        wanted = 1 if form in ("task", "id") else 2
        assert len(after.dependencies) == wanted
        gate.set()
    assert order.index("after") >= wanted
    (record,) = [r for r in rt.trace if r["event"] == "spawned" and r["name"] == "after"]
    assert len(record["deps"]) == wanted


def test_duplicates_count_once(traced_parla, workers):
    space, order = TaskSpace("T"), []
    with traced_parla(workers=workers) as rt:
        first = spawn(space[0])(lambda: order.append(0))
        deps = [space[0], space[0], first, [first, space], tasks(first, space[0:3]), space[1], space[2]]
        last = spawn(dependencies=deps, name="last")(lambda: order.append("last"))
        assert len(last.dependencies) == 3
        spawn(space[1])(lambda: order.append(1))
        spawn(space[2])(lambda: order.append(2))
    assert sorted(order[:3]) == [0, 1, 2]
    assert order[3] == "last"
    (record,) = [r for r in rt.trace if r["event"] == "spawned" and r["name"] == "last"]
    assert len(record["deps"]) == len(set(record["deps"]))


def test_no_dependencies(traced_parla):
    with traced_parla(workers=1):
        made = [spawn(dependencies=empty)(lambda: 1) for empty in ((), [], [[], ()], tasks(), TaskSpace("E"), iter(()))]
    assert [t.result() for t in made] == [1] * 6


def test_a_dependency_that_is_done_already(traced_parla, workers):
    with traced_parla(workers=workers):
        first = spawn()(lambda: 1)
        first.wait()
        second = spawn(dependencies=[first])(lambda: first.result() + 1)
    assert second.result() == 2


class Unhelpful:
    """An iterable that fails halfway."""

    def __init__(self, first):
        self.first = first

    def __iter__(self):
        yield self.first
        raise LookupError("halfway")


@pytest.mark.parametrize("nonsense", [3, 2.5, "T_0", b"T", object(), len, [1, 2], [None], [["text"]], TaskSpace])
def test_nonsense_is_a_type_error_that_names_the_argument(works_afterwards, nonsense):
    space = TaskSpace("T")
    with Parla(workers=1):
        with pytest.raises(TypeError, match="dependencies"):
            spawn(space[0], nonsense)(lambda: None)
        assert spawn(space[0])(lambda: "free").result() == "free"


def test_the_error_of_an_iterable_comes_through(works_afterwards):
    space = TaskSpace("T")
    with Parla(workers=1):
        done = spawn()(lambda: None)
        with pytest.raises(LookupError, match="halfway"):
            spawn(space[0], Unhelpful(done))(lambda: None)
        assert spawn(space[0])(lambda: "free").result() == "free"


def test_a_list_that_contains_itself_is_refused(works_afterwards):
    loop = []
    loop.append(loop)
    with Parla(workers=1):
        with pytest.raises((ValueError, TypeError, RecursionError), match="dependencies"):
            spawn(dependencies=loop)(lambda: None)


def test_deep_nesting_of_dependencies_is_no_problem(traced_parla):
    with traced_parla(workers=1):
        order = []
        nested = spawn()(lambda: order.append(1))
        for _ in range(50):
            nested = [nested]
        spawn(dependencies=nested)(lambda: order.append(2))
    assert order == [1, 2]


def test_nesting_without_end_is_refused(works_afterwards):
    nested = []
    for _ in range(100_000):
        nested = [nested]
    with Parla(workers=1):
        with pytest.raises((ValueError, RecursionError), match="dependencies"):
            spawn(dependencies=nested)(lambda: None)
    while nested:
        nested = nested.pop()


def test_a_done_task_of_a_finished_runtime_is_done(works_afterwards):
    with Parla(workers=1):
        old = spawn()(lambda: "old")
    with Parla(workers=1):
        new = spawn(dependencies=[old])(lambda: old.result() + "er")
    assert new.result() == "older"


def test_a_failed_task_of_a_finished_runtime_is_no_good_dependency(works_afterwards):
    with pytest.raises(ZeroDivisionError), Parla(workers=1):
        old = spawn()(lambda: 1 // 0)
    ran = []
    with Parla(workers=1):
        with pytest.raises(ParlaError, match="dependencies.*<lambda>"):
            spawn(dependencies=[old])(lambda: ran.append("must not run"))
    assert ran == []


def test_a_finished_task_holds_no_edges(traced_parla):
    with traced_parla(workers=1):
        first = spawn()(lambda: None)
        second = spawn(dependencies=[first])(lambda: None)
    assert len(second.dependencies) == 0


def test_dependencies_spawned_by_tasks(traced_parla, workers):
    space, order = TaskSpace("T"), []
    with traced_parla(workers=workers):
        spawn(dependencies=[space[0], space[1]])(lambda: order.append("last"))

        @spawn()
        def spawner():
            for i in range(2):
                spawn(space[i])(lambda: order.append(i))

    assert sorted(order[:2]) == [0, 1]
    assert order[2:] == ["last"]


def test_a_space_as_dependency_means_the_tasks_in_it_at_that_moment(traced_parla, workers):
    space = TaskSpace("T")
    with traced_parla(workers=workers):
        spawn(space[0])(lambda: None)
        middle = spawn(dependencies=[space])(lambda: "middle")
        late = spawn(space[1], [middle])(lambda: "late")
    assert (middle.result(), late.result()) == ("middle", "late")


def test_diamond_and_layers(traced_parla, workers):
    space, seen = TaskSpace("T"), {}
    with traced_parla(workers=workers):
        for layer in range(6):
            for i in range(5):
                @spawn(space[layer, i], [space[layer - 1, 0:5]] if layer else ())
                def body():
                    assert all((layer - 1, j) in seen for j in range(5)) or layer == 0
                    seen[layer, i] = True
    assert len(seen) == 30


def test_body_error_of_an_assertion_in_a_layer_is_not_lost():
    """The test above relies on this: an assertion inside a task fails the test."""
    with pytest.raises(AssertionError, match="inside"), Parla(workers=2):
        @spawn()
        def body():
            raise AssertionError("inside")
