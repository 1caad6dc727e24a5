"""Never a silent hang: what can't go on is named, with what each task waits for; what can go on is left alone."""

from __future__ import annotations

import threading
import time

import pytest
from parla import Parla, TaskSpace, spawn
from parla.errors import DeadlockError, ParlaError
from support import LIMIT, pass_gate, run_py

pytestmark = pytest.mark.usefixtures("works_afterwards")


def test_a_dependency_that_is_never_spawned(traced_parla, workers):
    space, ran = TaskSpace("T"), []
    with pytest.raises(DeadlockError) as caught, traced_parla(workers=workers):
        spawn(space[0], [space[7]], name="stuck")(lambda: ran.append(0))
        fine = spawn()(lambda: "ran")
    message = str(caught.value)
    line = test_a_dependency_that_is_never_spawned.__code__.co_firstlineno + 3
    for part in ("stuck", "T_7", "never spawned", f"test_deadlock.py:{line}"):
        assert part in message, message
    assert ran == []
    assert fine.result() == "ran"
    with pytest.raises(ParlaError):
        space[0].task.result()


def test_a_cycle(traced_parla, workers):
    space = TaskSpace("T")
    with pytest.raises(DeadlockError, match="cycle") as caught, traced_parla(workers=workers):
        spawn(space[0], [space[2]])(lambda: None)
        spawn(space[1], [space[0]])(lambda: None)
        spawn(space[2], [space[1]])(lambda: None)
        spawn(space[3], [space[2]])(lambda: None)
    for name in ("T_0", "T_1", "T_2"):
        assert name in str(caught.value)


def test_a_task_that_depends_on_itself(workers):
    space = TaskSpace("T")
    with pytest.raises((DeadlockError, ParlaError, ValueError), match="T_0"), Parla(workers=workers):
        spawn(space[0], [space[0]])(lambda: None)


def test_two_coroutines_that_await_each_other(traced_parla, workers):
    space, cleaned = TaskSpace("T"), []
    with pytest.raises(DeadlockError) as caught, traced_parla(workers=workers):
        for i in range(2):
            @spawn(space[i])
            async def body():
                try:
                    await space[1 - i]
                finally:
                    cleaned.append(i)
    assert "T_0" in str(caught.value)
    assert "T_1" in str(caught.value)
    assert sorted(cleaned) == [0, 1], "an abandoned coroutine still cleans up"


def test_awaiting_what_is_never_spawned(traced_parla, workers):
    space = TaskSpace("T")
    with pytest.raises(DeadlockError) as caught, traced_parla(workers=workers):
        @spawn(name="waiter")
        async def body():
            await space["missing"]
    assert "waiter" in str(caught.value)
    assert "T_missing" in str(caught.value)


def test_a_blocking_wait_for_what_is_never_spawned(workers):
    """The block goes on after the error, and its end raises nothing more once the task is there."""
    space = TaskSpace("T")
    with Parla(workers=workers):
        task = spawn(space[1], [space[0]], name="stuck")(lambda: "ran")
        with pytest.raises(DeadlockError, match="T_0"):
            task.wait()
        if not task.done():
            spawn(space[0])(lambda: None)
            assert task.result(LIMIT) == "ran"


def test_a_blocking_wait_inside_a_task_for_what_is_never_spawned(traced_parla, workers):
    space = TaskSpace("T")
    with pytest.raises(DeadlockError, match="T_0"), traced_parla(workers=workers):
        spawn(space[1], [space[0]], name="stuck")(lambda: None)

        @spawn(name="blocked")
        def body():
            space[1].task.wait()


def test_a_deadlock_beside_an_error_loses_neither(traced_parla):
    space = TaskSpace("T")
    with pytest.raises(BaseException) as caught, traced_parla(workers=1):
        spawn(space[1], [space[0]])(lambda: None)
        spawn()(lambda: 1 // 0)
    found = {type(e).__name__ for e in getattr(caught.value, "exceptions", ())}
    assert found == {"ZeroDivisionError", "DeadlockError"}


def test_a_long_message_stays_readable_and_a_long_chain_is_diagnosed_quickly(workers):
    space = TaskSpace("T")
    start = time.perf_counter()
    with pytest.raises(DeadlockError, match="T_missing") as caught, Parla(workers=workers):
        spawn(space[0], [space["missing"]])(lambda: None)
        for i in range(1, 30_000):
            spawn(space[i], [space[i - 1]])(lambda: None)
    assert len(str(caught.value)) < 20_000
    assert "30000" in str(caught.value).replace(",", "").replace(" ", "")  # how many tasks are stuck
    assert time.perf_counter() - start < 10


def test_a_long_cycle_is_diagnosed_without_recursion():
    space = TaskSpace("T")
    with pytest.raises(DeadlockError, match="cycle"), Parla(workers=2):
        for i in range(30_000):
            spawn(space[i], [space[(i + 1) % 30_000]])(lambda: None)


def test_no_false_alarm_while_a_body_runs_for_long(traced_parla, workers):
    space = TaskSpace("T")
    with traced_parla(workers=workers):
        @spawn()
        def late_spawner():
            time.sleep(0.3)  # long enough for a hasty detector
            spawn(space[0])(lambda: None)

        waiting = spawn(dependencies=[space[0]])(lambda: "ran")
    assert waiting.result() == "ran"


@pytest.mark.parametrize("limit", [None, LIMIT])
@pytest.mark.parametrize("where", ["wait", "exit"])
def test_no_false_alarm_while_another_thread_may_still_spawn(workers, where, limit):
    """A thread that the block started counts, though the runtime has not heard of it yet."""
    space, go = TaskSpace("T"), threading.Event()

    def foreign():
        pass_gate(go)
        time.sleep(0.3)  # the main thread is in its wait by now, and nothing runs
        spawn(space[0])(lambda: "from outside")

    with Parla(workers=workers):
        thread = threading.Thread(target=foreign)
        thread.start()
        task = spawn(dependencies=[space[0]])(lambda: "ran")
        go.set()
        if where == "wait":
            assert task.result(limit) == "ran"
    thread.join()
    assert task.result() == "ran"


def test_no_false_alarm_if_another_thread_spawns_and_ends_meanwhile(workers):
    """Between the moment at which nothing can move and the look at who else may spawn."""
    for k in range(60):
        space = TaskSpace("T")

        def foreign():
            time.sleep(0.0002 + 0.0005 * (k % 8))
            spawn(space[0])(lambda: None)

        with Parla(workers=workers):
            thread = threading.Thread(target=foreign)
            thread.start()
            task = spawn(dependencies=[space[0]])(lambda: "ran")
        thread.join()
        assert task.result() == "ran"


def test_no_false_alarm_while_the_block_is_still_running(workers):
    space = TaskSpace("T")
    with Parla(workers=workers):
        task = spawn(dependencies=[space[0]])(lambda: "ran")
        time.sleep(0.3)  # nothing can run until the block goes on
        spawn(space[0])(lambda: None)
    assert task.result() == "ran"


def test_no_false_alarm_at_the_edge_of_idleness(workers):
    """Every task is the only one that runs when it spawns the dependency of the next."""
    for _ in range(20):
        space = TaskSpace("T")
        with Parla(workers=workers):
            for i in range(30):
                @spawn(dependencies=[space[i]])
                def body():
                    spawn(space[i + 1])(lambda: None)
            spawn(space[0])(lambda: None)


def test_why_tells_what_a_task_waits_for():
    space = TaskSpace("T")
    with Parla(workers=1) as rt:
        task = spawn(space[1], [space[0]], name="waiting")(lambda: None)
        text = rt.why(task)
        assert "T_0" in text
        spawn(space[0])(lambda: None)
        task.wait()
        assert isinstance(rt.why(task), str)


def test_the_watchdog_reports_a_livelock_and_leaves_the_program_alone():
    done = run_py(
        """
        from parla import Parla, spawn
        with Parla(workers=2):
            @spawn(name="spinner")
            def body():
                import time
                end = time.monotonic() + 2.5
                while time.monotonic() < end:
                    pass
            spawn(dependencies=[body], name="behind")(lambda: print("ran"))
        """,
        env={"PARLA_WATCHDOG": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ran\n"
    assert "spinner" in done.stderr


def test_no_watchdog_no_report():
    run_py("""
        from parla import Parla, spawn
        with Parla(workers=1):
            @spawn()
            def body():
                import time
                time.sleep(0.5)
    """)
