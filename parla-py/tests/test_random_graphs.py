"""Random programs against a sequential oracle, at one to sixteen workers, under the trace checker."""

from __future__ import annotations

import random
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parla import Parla, TaskSpace, spawn, tasks
from parla.errors import DependencyFailed
from support import leaves
from trace_checker import check_trace

LIMITS = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


@st.composite
def programs(draw):
    """A DAG as a list of (dependencies, kind of body), in an order of spawning that may be any permutation."""
    n = draw(st.integers(1, 40))
    nodes = []
    for i in range(n):
        deps = draw(st.lists(st.integers(0, i - 1), max_size=5)) if i else []
        kind = draw(st.sampled_from(["function", "coroutine", "await deps", "spawn and await", "wait"]))
        nodes.append((deps, kind))
    order = draw(st.permutations(range(n)))
    return nodes, order


def value_of(i, inputs):
    """What task i computes: any mixture in which a missing or doubled input shows."""
    return (i * 7919 + 31 * sum(inputs) + len(inputs)) % 1_000_003


def oracle(nodes):
    values = []
    for i, (deps, _) in enumerate(nodes):
        values.append(value_of(i, [values[d] for d in sorted(set(deps))]))
    return values


def spawn_node(space, values, i, deps, kind, yields):
    """Spawns node i. Its inputs come from `values`, which only a finished dependency has filled in."""
    unique = sorted(set(deps))
    wait_inside = kind == "await deps"

    def compute():
        assert values[i] is None, f"T_{i} ran twice"
        if yields:
            threading.Event().wait(0)
        values[i] = value_of(i, [values[d] for d in unique])
        return values[i]

    async def awaiting():
        got = [await space[d] for d in deps]
        assert got == [values[d] for d in deps]
        return compute()

    async def with_child():
        child = spawn()(lambda: i)
        assert await child == i
        await tasks([space[d] for d in deps])
        return compute()

    async def coroutine():
        return compute()

    def blocking():
        assert spawn()(lambda: i).result(20) == i
        return compute()

    bodies = {
        "function": compute,
        "coroutine": coroutine,
        "await deps": awaiting,
        "spawn and await": with_child,
        "wait": blocking,
    }
    claim = (None, 0.25, 1, None, 0.5)[i % 5]
    spawn(space[i], [] if wait_inside else [space[d] for d in deps], vcus=claim)(bodies[kind])


@pytest.mark.parametrize("n_workers", [1, 2, 3, 8, 16])
@given(program=programs(), yields=st.booleans())
@LIMITS
def test_random_programs_compute_what_a_sequential_run_computes(n_workers, program, yields):
    nodes, order = program
    space, values = TaskSpace("T"), [None] * len(nodes)
    with Parla(workers=n_workers, trace=True) as rt:
        for i in order:
            spawn_node(space, values, i, *nodes[i], yields)
    assert values == oracle(nodes)
    assert [space[i].task.result() for i in range(len(nodes))] == values
    assert check_trace(rt.trace, vcus=1.0) == []


@pytest.mark.parametrize("n_workers", [1, 2, 3, 8])
@given(program=programs(), failing=st.sets(st.integers(0, 39), max_size=3))
@LIMITS
def test_random_failures_cancel_exactly_what_depends_on_them(n_workers, program, failing):
    nodes, order = program
    failing = {i for i in failing if i < len(nodes)}
    doomed = set()
    for i, (deps, _) in enumerate(nodes):
        if any(d in failing or d in doomed for d in deps):
            doomed.add(i)
    raising = failing - doomed
    space, ran, caught = TaskSpace("T"), set(), []
    try:
        with Parla(workers=n_workers, trace=True) as rt:
            for i in order:
                @spawn(space[i], [space[d] for d in nodes[i][0]])
                def body():
                    ran.add(i)
                    if i in failing:
                        raise KeyError(i)
    except BaseException as e:
        caught = leaves(e)
    assert {e.args[0] for e in caught} == raising
    assert len(caught) == len(raising)
    assert ran == set(range(len(nodes))) - doomed
    for i in doomed:
        assert isinstance(space[i].task.exception(), DependencyFailed)
    assert check_trace(rt.trace) == []


@pytest.mark.parametrize("n_workers", [1, 2, 3, 8, 16])
def test_large_random_graph_with_claims(n_workers):
    rng = random.Random(n_workers)
    space, order, n = TaskSpace("T"), [], 3000
    deps = [sorted(rng.sample(range(i), min(i, rng.randrange(4)))) for i in range(n)]
    with Parla(workers=n_workers, trace=True) as rt:
        spawning = list(range(n))
        rng.shuffle(spawning)
        for i in spawning:
            claim = rng.choice([None, None, 0.25, 0.5, 1, 1 / 3])
            spawn(space[i], [space[d] for d in deps[i]], vcus=claim)(lambda: order.append(i))
    place = {task: at for at, task in enumerate(order)}
    assert len(place) == len(order) == n
    assert all(place[d] < place[i] for i in range(n) for d in deps[i])
    assert check_trace(rt.trace, vcus=1.0) == []


def test_the_same_graph_a_thousand_times(workers):
    """A small graph with every race in it, over and over in one runtime."""
    with Parla(workers=workers):
        for _ in range(500):
            space, seen = TaskSpace("T"), []
            spawn(space[2], [space[0], space[1]])(lambda: seen.append(2))

            @spawn(space[3])
            async def last():
                await space[2]
                seen.append(3)

            spawn(space[0])(lambda: seen.append(0))
            spawn(space[1])(lambda: seen.append(1))
            space.wait()
            assert sorted(seen[:2]) == [0, 1]
            assert seen[2:] == [2, 3]
