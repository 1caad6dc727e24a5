"""The interpreter as a resource: bodies that release it overlap, and no user lock, hook or switch interval stops us."""

from __future__ import annotations

import itertools
import sys
import threading
import time

import pytest
from parla import Parla, TaskSpace, sleep_gil, sleep_nogil, spawn
from support import LIMIT, run_py


@pytest.mark.parametrize("n", [2, 3, 8])
def test_bodies_that_release_the_interpreter_overlap(traced_parla, n):
    """All of them meet at a barrier, which only works when they run at the same time."""
    barrier = threading.Barrier(n)
    with traced_parla(workers=n):
        met = [spawn()(lambda: barrier.wait(LIMIT)) for _ in range(n)]
    assert sorted(t.result() for t in met) == list(range(n))


def test_sleeping_without_the_interpreter_overlaps_and_with_it_does_not():
    def run(sleep):
        start = time.perf_counter()
        with Parla(workers=4):
            for _ in range(4):
                spawn()(lambda: sleep(100_000))
        return time.perf_counter() - start

    assert run(sleep_nogil) < 0.3
    assert run(sleep_gil) >= 0.4


@pytest.mark.parametrize("interval", [1e-6, 1.0])
def test_any_switch_interval(traced_parla, workers, interval):
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        space, order = TaskSpace("T"), []
        with traced_parla(workers=workers):
            for i in range(300):
                @spawn(space[i], [space[i - 1]])
                async def body():
                    order.append(i)
                    await spawn()(lambda: None)
    finally:
        sys.setswitchinterval(before)
    assert order == list(range(300))


def test_spawning_in_a_long_loop_lets_workers_run(workers):
    """With a long switch interval only a cooperative hand-over lets a body run while the main thread spawns."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5)
    try:
        ran, spawned_when_first_ran = [], None
        with Parla(workers=workers):
            for i in range(20_000):
                spawn()(lambda: ran.append(1))
                if ran:
                    spawned_when_first_ran = i
                    break
    finally:
        sys.setswitchinterval(before)
    assert spawned_when_first_ran is not None, "no task ran while 20 000 were spawned"


def test_a_user_lock_held_across_spawn_and_taken_by_the_task(workers):
    lock, taken = threading.Lock(), []

    def body():
        with lock:
            taken.append(1)

    with Parla(workers=workers):
        for _ in range(200):
            with lock:
                spawn()(body)
        with lock:
            made = [spawn()(body) for _ in range(200)]
            assert not any(t.done() for t in made)
    assert len(taken) == 400


def test_a_finaliser_and_a_key_that_take_the_users_lock(workers):
    """Objects dropped by the runtime, and keys compared by it, may want a lock that a task holds."""
    lock = threading.RLock()

    class Locking:
        def __init__(self, n):
            self.n = n

        def __hash__(self):
            with lock:
                return hash(self.n)

        def __eq__(self, other):
            with lock:
                return self.n == other.n

        def __del__(self):
            with lock:
                pass

    with Parla(workers=workers):
        space = TaskSpace("T")
        for i in range(100):
            captured = Locking(i)

            @spawn(space[Locking(i)], [space[Locking(j)] for j in range(max(0, i - 3), i)])
            def body():
                with lock:
                    return captured.n
    assert space[Locking(99)].task.result() == 99


def test_many_threads_spawn_at_once(traced_parla, workers):
    n_threads, n_each = 8, 200
    counter, ran = itertools.count(), []
    space = TaskSpace("T")
    barrier = threading.Barrier(n_threads)

    def submit(k):
        barrier.wait(LIMIT)
        for i in range(n_each):
            spawn(space[k, i], [space[k, i - 1], space[(k + 1) % n_threads, i - 1]])(
                lambda: ran.append(next(counter))
            )

    with traced_parla(workers=workers):
        threads = [threading.Thread(target=submit, args=(k,)) for k in range(n_threads)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(LIMIT)
        space.wait()
    assert len(ran) == n_threads * n_each


def test_one_id_raced_for_by_many_threads_is_spawned_once(workers):
    for _ in range(20):
        space, won, lost, ran = TaskSpace("T"), [], [], []
        barrier = threading.Barrier(6)

        def race():
            barrier.wait(LIMIT)
            try:
                spawn(space[0])(lambda: ran.append(1))
                won.append(1)
            except RuntimeError:
                lost.append(1)

        with Parla(workers=workers):
            threads = [threading.Thread(target=race) for _ in range(6)]
            for t in threads:
                t.start()
            for t in threads:
                t.join(LIMIT)
        assert (len(won), len(lost), len(ran)) == (1, 5, 1)


HOOKS = {
    "settrace": "sys.settrace(hook); threading.settrace(hook)",
    "setprofile": "sys.setprofile(hook); threading.setprofile(hook)",
}


@pytest.mark.parametrize("hook", HOOKS)
def test_tracing_and_profiling(hook):
    """Hooks set for all threads see the bodies of tasks, and the program runs as before."""
    assert run_py(f"""
        import sys, threading
        seen = set()
        def hook(frame, event, arg):
            seen.add(frame.f_code.co_name)
            return hook
        {HOOKS[hook]}
        from parla import Parla, TaskSpace, spawn
        T = TaskSpace("T")
        with Parla(workers=2):
            for i in range(100):
                @spawn(T[i], [T[i - 1]])
                async def traced_body():
                    await spawn()(lambda: None)
                    return i
            total = spawn(dependencies=[T])(lambda: sum(t.result() for t in T.tasks))
        sys.settrace(None); sys.setprofile(None)
        assert "traced_body" in seen, seen
        print(total.result())
    """).stdout == "4950\n"


def test_threading_local_belongs_to_a_worker_and_survives_from_task_to_task():
    """One thread state per worker, kept: what a library puts into `threading.local` is there for the next task."""
    local, made = threading.local(), []

    def body():
        if not hasattr(local, "value"):
            local.value = object()
            made.append(local.value)
        return threading.get_ident()

    with Parla(workers=3):
        idents = {spawn()(body).result() for _ in range(300)}
    assert len(made) == len(idents) <= 3


def test_a_task_looks_like_a_thread_to_python(workers):
    with Parla(workers=workers):
        @spawn()
        def body():
            thread = threading.current_thread()
            return thread.name, thread is threading.main_thread(), threading.get_ident() != 0
    name, is_main, has_ident = body.result()
    assert isinstance(name, str)
    assert (is_main, has_ident) == (False, True)


@pytest.mark.parametrize("kind", ["generator", "recursion"])
def test_deep_python_stacks_in_tasks(workers, kind):
    """A worker's native stack carries what Python's own recursion limit allows."""
    def depth(n):
        return 0 if n == 0 else 1 + depth(n - 1)

    def chain(n):
        yield n
        if n:
            yield from chain(n - 1)

    with Parla(workers=workers):
        task = spawn()((lambda: sum(1 for _ in chain(300))) if kind == "generator" else lambda: depth(900))
        too_deep = spawn()(lambda: depth(10**6))
        assert isinstance(too_deep.exception(), RecursionError)
    assert task.result() == (301 if kind == "generator" else 900)
