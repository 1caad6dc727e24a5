"""Starting and ending runtimes: any number of times, from any thread, and leaving nothing behind."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading

import parla
import pytest
from parla import Parla, TaskSpace, spawn
from support import LIMIT, collect, n_descriptors, n_threads, pass_gate, resident_bytes, run_py


def small_graph():
    """A runtime's worth of work, with every kind of task."""
    space = TaskSpace("T")
    for i in range(10):
        spawn(space[i], [space[i - 1]])(lambda: i)

    @spawn()
    async def awaiting():
        await space
        return sum([await space[i] for i in range(10)])

    return awaiting


def test_hundreds_of_runtimes_leave_nothing(workers):
    def many(n):
        for _ in range(n):
            with Parla(workers=workers):
                task = small_graph()
            assert task.result() == 45
        collect()

    many(30)
    threads, descriptors, resident = n_threads(), n_descriptors(), resident_bytes()
    many(300)
    assert n_threads() == threads
    assert n_descriptors() == descriptors
    assert resident_bytes() - resident < 4 << 20


def test_runtimes_that_end_with_errors_leave_nothing():
    def many(n):
        for _ in range(n):
            with pytest.raises(ZeroDivisionError), Parla(workers=2):
                small_graph()
                bad = spawn()(lambda: 1 // 0)
                spawn(dependencies=[bad])(lambda: None)
            with pytest.raises(parla.DeadlockError), Parla(workers=2):
                spawn(dependencies=[TaskSpace("never")[0]])(lambda: None)
            with pytest.raises(KeyError), Parla(workers=2):
                small_graph()
                raise KeyError
        collect()

    many(20)
    threads, descriptors, resident = n_threads(), n_descriptors(), resident_bytes()
    many(100)
    assert n_threads() == threads
    assert n_descriptors() == descriptors
    assert resident_bytes() - resident < 4 << 20


def test_signal_handlers_are_as_before():
    watched = [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGABRT]
    before = {s: signal.getsignal(s) for s in watched}
    with Parla(workers=2):
        small_graph()
    assert {s: signal.getsignal(s) for s in watched} == before
    assert signal.set_wakeup_fd(-1) == -1


def test_entering_an_open_runtime_again_is_refused(works_afterwards):
    outer = Parla(workers=1)
    with outer:
        with pytest.raises(ValueError, match="already|open|again"):
            with outer:
                pass
        with pytest.raises(ValueError, match="already|open|again"):
            outer.__enter__()
        task = spawn()(lambda: "unharmed")
    assert task.result() == "unharmed"


def test_a_runtime_inside_a_runtime_has_its_own_tasks(works_afterwards, workers):
    """The inner block waits for the tasks spawned in it, and not for the outer one's."""
    space = TaskSpace("outer")
    with Parla(workers=workers) as outer:
        waiting = spawn(dependencies=[space[0]])(lambda: "outer")
        with Parla(workers=workers) as inner:
            task = spawn()(lambda: "inner")
        assert task.result() == "inner"
        assert not waiting.done()
        spawn(space[0])(lambda: None)
    assert waiting.result() == "outer"
    assert (outer.stats()["spawned"], inner.stats()["spawned"]) == (2, 1)


def test_a_runtime_inside_a_task(works_afterwards, workers):
    with Parla(workers=workers) as outer:
        @spawn()
        def body():
            with Parla(workers=2) as inner:
                task = small_graph()
            return task.result(), inner.stats()["spawned"]
        after = spawn(dependencies=[body])(lambda: "after")
    assert body.result() == (45, 11)
    assert after.result() == "after"
    assert outer.stats()["spawned"] == 2


def test_the_same_object_again_after_its_end():
    runtime = Parla(workers=1)
    for _ in range(3):
        with runtime:
            task = small_graph()
        assert task.result() == 45


def test_from_a_thread_that_is_not_the_main_one(workers):
    results = []

    def run():
        for _ in range(5):
            with Parla(workers=workers):
                task = small_graph()
            results.append(task.result())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LIMIT)
    assert results == [45] * 5


def test_one_runtime_per_thread(workers):
    """Each thread spawns into the runtime that it opened itself."""
    outcomes, barrier = [], threading.Barrier(4)

    def run():
        with Parla(workers=workers) as rt:
            barrier.wait(LIMIT)
            task = small_graph()
            barrier.wait(LIMIT)
        outcomes.append((task.result(), rt.stats()["spawned"]))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(LIMIT)
    assert outcomes == [(45, 11)] * 4


def test_spawning_races_with_the_end_of_the_block(workers):
    """A spawn from another thread at that moment runs or raises; nothing in between, and nothing hangs."""
    for _ in range(50):
        ran, accepted, refused = [], [], []
        started = threading.Event()

        def submit():
            started.set()
            for i in range(200):
                try:
                    accepted.append(spawn()(lambda: ran.append(i)))
                except parla.ParlaError:
                    refused.append(i)

        thread = threading.Thread(target=submit)
        with Parla(workers=workers):
            thread.start()
            pass_gate(started)
        thread.join(LIMIT)
        assert len(accepted) + len(refused) == 200
        assert len(ran) == len(accepted)
        assert all(t.done() for t in accepted)


def test_handles_outlive_their_runtime():
    with Parla(workers=2) as rt:
        space = TaskSpace("T")
        task = spawn(space[0])(lambda: "kept")
    gc.collect()
    assert task.result() == "kept"
    task.wait()
    space.wait()
    assert (task.done(), task.exception(), task.cancel()) == (True, None, False)
    assert isinstance(rt.stats(), dict)
    assert "T_0" in repr(space[0])
    assert repr(task)


def test_importing_has_no_side_effects():
    run_py("""
        import os, signal, sys, threading
        watched = [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD]
        before = [signal.getsignal(s) for s in watched], len(os.listdir("/proc/self/task")), os.listdir("/proc/self/fd")
        import parla, parla.tasks, parla.cpu, parla.devices, parla.device
        after = [signal.getsignal(s) for s in watched], len(os.listdir("/proc/self/task")), os.listdir("/proc/self/fd")
        assert before == after, (before, after)
        assert threading.active_count() == 1
        assert signal.set_wakeup_fd(-1) == -1
        sockets = [f for f in os.listdir("/proc/self/fd") if os.path.exists(p := f"/proc/self/fd/{f}")
                   and os.readlink(p).startswith("socket:")]
        assert not sockets, sockets
    """)


def test_no_device_module_is_needed():
    run_py("""
        from parla import Parla, spawn
        with Parla(workers=1):
            task = spawn()(lambda: "ran")
        assert task.result() == "ran"
    """)


def test_nothing_listens_while_it_runs():
    run_py("""
        import os
        from parla import Parla, spawn
        with Parla(workers=3):
            spawn()(lambda: None).wait()
            links = []
            for f in os.listdir("/proc/self/fd"):
                try:
                    links.append(os.readlink(f"/proc/self/fd/{f}"))
                except OSError:
                    pass
            assert not [l for l in links if l.startswith("socket:")], links
    """)


def test_the_number_of_workers(workers):
    with Parla(workers=workers) as rt:
        assert rt.stats()["workers"] == workers
    with Parla(n_workers=workers) as rt:
        assert rt.stats()["workers"] == workers


def test_the_default_number_of_workers_respects_the_affinity():
    cpu = min(os.sched_getaffinity(0))
    run_py(f"""
        import os
        os.sched_setaffinity(0, {{{cpu}}})
        from parla import Parla, spawn
        with Parla() as rt:
            spawn()(lambda: None).wait()
            assert rt.stats()["workers"] == 1, rt.stats()
    """)


@pytest.mark.parametrize("n", [1, 3])
def test_the_number_of_workers_from_the_environment(n):
    run_py(
        f"""
        from parla import Parla
        with Parla() as rt:
            assert rt.stats()["workers"] == {n}
        with Parla(workers=2) as rt:
            assert rt.stats()["workers"] == 2  # what the program says wins
        """,
        env={"PARLA_NUM_THREADS": str(n)},
    )


def test_an_idle_runtime_uses_no_cpu():
    import time

    with Parla(workers=8):
        spawn()(lambda: None).wait()
        time.sleep(0.05)  # let the workers go to sleep
        before = time.process_time()
        time.sleep(0.5)
        used = time.process_time() - before
    assert used < 0.05, f"{used:.3f} s of processor time in 0.5 s of idleness"


def test_main_threads_interpreter_state_is_untouched():
    profile, trace_function, interval = sys.getprofile(), sys.gettrace(), sys.getswitchinterval()
    with Parla(workers=2):
        small_graph()
    assert (sys.getprofile(), sys.gettrace(), sys.getswitchinterval()) == (profile, trace_function, interval)
