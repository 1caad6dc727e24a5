"""Nothing is kept: closures go when a task ends, results and tasks when the user drops them, cycles by collection."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest
from parla import Parla, TaskSpace, spawn, tasks
from support import collect, pass_gate, resident_bytes


class Tracked:
    """An object that a weak reference can watch."""


async def as_coroutine(value):
    return value


@pytest.mark.parametrize("kind", ["function", "coroutine", "coroutine that awaits", "coroutine object", "failing"])
def test_captured_objects_die_with_the_task_though_its_handle_lives(workers, kind):
    with Parla(workers=workers):
        captured = Tracked()
        watch = weakref.ref(captured)
        if kind == "function":
            task = spawn()(lambda: captured and None)
        elif kind == "coroutine":
            @spawn()
            async def task():
                assert captured
        elif kind == "coroutine that awaits":
            @spawn()
            async def task():
                await spawn()(lambda: captured and None)
                assert captured
        elif kind == "coroutine object":
            task = spawn()(as_coroutine(captured is None))
        else:
            task = spawn()(lambda: captured.missing)
        del captured
        if kind == "failing":
            error = task.exception()
            error.__traceback__ = None  # the traceback holds the frame, as everywhere in Python
            error.obj = None
            del error
        else:
            task.wait()
        gate = spawn()(lambda: None)  # the worker has moved on once it has run something else
        gate.wait()
    collect()
    assert watch() is None
    assert task.done()


def test_results_die_with_the_last_handle(workers):
    watches = []
    with Parla(workers=workers):
        for _ in range(100):
            task = spawn()(Tracked)
            watches.append(weakref.ref(task.result()))
        assert watches[-1]() is not None
        del task
    collect()
    assert [w() for w in watches] == [None] * 100


def test_finished_tasks_are_not_kept_by_the_runtime(workers):
    with Parla(workers=workers):
        watches = []
        for _ in range(100):
            task = spawn()(lambda: None)
            task.wait()
            watches.append(weakref.ref(task))
        del task
        spawn()(lambda: None).wait()
        collect()
        alive = sum(w() is not None for w in watches)
    assert alive <= 1, f"{alive} of 100 finished tasks are alive in an open runtime"


def test_a_space_and_its_tasks_die_together():
    with Parla(workers=2):
        space = TaskSpace("T")
        for i in range(100):
            spawn(space[i], [space[i - 1]])(Tracked)
        watches = [weakref.ref(space), weakref.ref(space[5].task.result()) if space.wait() is None else None]
    del space
    collect()
    assert [w() for w in watches] == [None, None]


def test_dependencies_do_not_keep_a_chain_alive():
    """A long-running program holds the last task only; the ones before it must go."""
    watches = []
    with Parla(workers=2):
        last = spawn()(Tracked)
        for _ in range(200):
            last.wait()
            watches.append(weakref.ref(last.result()))
            last = spawn(dependencies=[last])(Tracked)
        last.wait()
        spawn()(lambda: None).wait()
        collect()
        alive = sum(w() is not None for w in watches)
    assert alive <= 2


def test_tasks_and_spaces_take_part_in_cyclic_collection():
    watches = []
    with Parla(workers=2):
        for _ in range(10):
            marker, box = Tracked(), []
            space = TaskSpace("T")
            spawn(space[0])(lambda: box)  # the result holds the list, which holds the task: a cycle
            box += [space, space[0], space[0].task, tasks(space), marker]
            space.wait()
            watches.append(weakref.ref(marker))
        del marker, box, space
    collect()
    assert [w() for w in watches] == [None] * 10
    for tracked in (TaskSpace("T"), TaskSpace("T")[0], tasks()):
        assert gc.is_tracked(tracked)


def test_pending_tasks_take_part_in_cyclic_collection():
    """A task that was never released holds its closure, and the closure holds the task."""
    gate = threading.Event()
    with Parla(workers=1):
        blocker = spawn()(lambda: pass_gate(gate))
        marker, box = Tracked(), []
        pending = spawn(dependencies=[blocker])(lambda: box)
        box += [pending, marker]
        watch = weakref.ref(marker)
        del marker, box, pending
        collect()
        assert watch() is not None, "a pending task is alive"
        gate.set()
    collect()
    assert watch() is None


def graph_of_everything():
    space = TaskSpace("T")
    for i in range(50):
        spawn(space[i], [space[i - 1]], name=f"task {i}", vcus=0.5)(lambda: [i])

    @spawn(space["sum"])
    async def total():
        await space[0:50]
        try:
            await spawn()(lambda: {}["x"])
        except KeyError:
            return sum([(await space[i])[0] for i in range(50)])

    cancelled = spawn(dependencies=[total])(lambda: None)
    cancelled.cancel()
    total.wait()
    repr(space), list(space), len(space[:])


def test_reference_counts_are_back_where_they_were():
    watched = [None, True, TaskSpace, spawn, graph_of_everything, graph_of_everything.__code__, KeyError, int]

    def run(n):
        for _ in range(n):
            with Parla(workers=2):
                graph_of_everything()
        collect()

    run(5)
    before, blocks = [sys.getrefcount(o) for o in watched], sys.getallocatedblocks()
    run(40)
    after, blocks_after = [sys.getrefcount(o) for o in watched], sys.getallocatedblocks()
    for obj, a, b in zip(watched, before, after, strict=True):
        assert abs(b - a) <= 20, f"{obj!r}: {a} references before, {b} after 40 runs"
    assert blocks_after - blocks < 400, f"{blocks_after - blocks} blocks more after 40 runs"


@pytest.mark.parametrize("what", ["errors", "deadlocks", "refusals", "captures"])
def test_no_leak_on_the_paths_of_failure(what):
    from parla.errors import DeadlockError

    def once():
        with Parla(workers=2):
            for _ in range(20):
                if what == "errors":
                    spawn()(lambda: 1 // 0).exception()
                elif what == "refusals":
                    for bad in ({"dependencies": [3]}, {"vcus": -1}, {"placement": "x"}, {"colour": 1}):
                        with pytest.raises((TypeError, ValueError)):
                            spawn(**bad)(lambda: None)
                elif what == "captures":
                    value = [1] * 100
                    spawn()(lambda: value)
            if what == "deadlocks":
                spawn(dependencies=[TaskSpace("x")[0]])(lambda: None)

    def run(n):
        for _ in range(n):
            if what == "deadlocks":
                with pytest.raises(DeadlockError):
                    once()
            else:
                once()
        collect()

    run(5)
    before = sys.getallocatedblocks()
    run(30)
    assert sys.getallocatedblocks() - before < 400


def test_a_steady_stream_of_tasks_needs_steady_memory():
    """In one open runtime, as in a server: 200 000 tasks, none of them kept."""
    with Parla(workers=2):
        def batch(n):
            last = None
            for _ in range(n):
                last = spawn()(lambda: bytearray(1000))
            last.wait()

        for _ in range(5):
            batch(10_000)
        collect()
        before = resident_bytes()
        for _ in range(15):
            batch(10_000)
        collect()
        assert resident_bytes() - before < 24 << 20


def test_bytes_of_a_pending_task():
    """At most 700 bytes beyond the user's own closure: measured on 100 000 tasks that wait for one."""
    n, gate = 100_000, threading.Event()

    def body():
        return None

    with Parla(workers=1):
        blocker = spawn()(lambda: pass_gate(gate))
        for _ in range(1000):
            spawn(dependencies=[blocker])(body)
        collect()
        before = resident_bytes()
        for _ in range(n):
            spawn(dependencies=[blocker])(body)
        each = (resident_bytes() - before) / n
        gate.set()
    assert each <= 700, f"{each:.0f} bytes per pending task"
