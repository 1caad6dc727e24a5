"""Coroutines that are given up (deadlock, an error of the block) and what they may do about it; retries after awaits."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref

import pytest
from parla import Parla, TaskSpace, finish, spawn
from parla.errors import DeadlockError, ParlaError
from support import LIMIT, leaves, pass_gate

pytestmark = pytest.mark.usefixtures("works_afterwards")


def test_an_abandoned_coroutine_may_spawn_in_its_cleanup(workers):
    """The task runs or is refused with the usual error; the deadlock is reported all the same."""
    space, log = TaskSpace("T"), []
    with pytest.raises(DeadlockError, match="T_0"), Parla(workers=workers):
        @spawn(name="stubborn")
        async def body():
            try:
                await space[0]
            finally:
                try:
                    spawn()(lambda: log.append("ran"))
                except ParlaError:
                    log.append("refused")
    assert log in (["ran"], ["refused"])
    assert body.done()


def test_an_abandoned_coroutine_that_awaits_the_same_again_and_again(workers):
    """It can't keep the block open for ever."""
    space, tries = TaskSpace("T"), []
    with pytest.raises(BaseException) as caught, Parla(workers=workers):
        @spawn(name="stubborn")
        async def body():
            while True:
                try:
                    await space[0]
                except ParlaError:
                    tries.append(1)
                    if len(tries) > 1000:
                        raise
    assert any(isinstance(e, DeadlockError) for e in leaves(caught.value))


def test_cleanup_of_an_abandoned_coroutine_that_raises(workers):
    """The error is reported, if nowhere else then as one of a finaliser is; the deadlock is raised."""
    space, reported = TaskSpace("T"), []
    before, sys.unraisablehook = sys.unraisablehook, lambda report: reported.append(report.exc_value)
    try:
        with pytest.raises(BaseException) as caught, Parla(workers=workers):
            @spawn()
            async def body():
                try:
                    await space[0]
                finally:
                    raise KeyError("in cleanup")
    finally:
        sys.unraisablehook = before
    found = leaves(caught.value)
    assert any(isinstance(e, DeadlockError) for e in found)
    assert any(isinstance(e, KeyError) for e in found + reported)


@pytest.mark.parametrize("n_waiting", [2, 10, 50])
def test_many_coroutines_in_one_deadlock_are_one_error(workers, n_waiting):
    """A ring of awaits: one error that tells about all, not one per member."""
    for _ in range(20):
        space, cleaned = TaskSpace("T"), []
        with pytest.raises(DeadlockError, match="cycle"), Parla(workers=workers):
            for i in range(n_waiting):
                @spawn(space[i])
                async def body():
                    try:
                        await space[(i + 1) % n_waiting]
                    finally:
                        cleaned.append(i)
        assert sorted(cleaned) == list(range(n_waiting))


def test_an_error_of_the_block_ends_suspended_coroutines(workers):
    space, log = TaskSpace("T"), []
    with pytest.raises(KeyError, match="block"), Parla(workers=workers):
        waiting = threading.Event()

        @spawn(name="suspended")
        async def body():
            try:
                waiting.set()
                await space[0]
            finally:
                log.append("cleaned")
        pass_gate(waiting)
        raise KeyError("block")
    assert log == ["cleaned"]
    assert body.done()


def test_context_managers_around_awaits_are_left(workers):
    log = []

    class Manager:
        async def __aenter__(self):
            await spawn()(lambda: log.append("enter"))

        async def __aexit__(self, kind, error, traceback):
            await spawn()(lambda: log.append("exit"))
            return kind is ZeroDivisionError

    with Parla(workers=workers):
        @spawn()
        async def body():
            async with Manager():
                await spawn()(lambda: 1 // 0)
            return "left"
    assert (log, body.result()) == (["enter", "exit"], "left")


def test_async_generators_and_comprehensions_inside_a_body(workers):
    async def numbers():
        for i in range(5):
            yield await spawn()(lambda: i)

    with Parla(workers=workers):
        @spawn()
        async def body():
            return [i async for i in numbers()], [await spawn()(lambda: i) for i in range(3)]
    assert body.result() == ([0, 1, 2, 3, 4], [0, 1, 2])


def test_finish_with_an_error_in_its_block_waits_all_the_same(workers):
    gate, done = threading.Event(), []
    with Parla(workers=workers):
        @spawn()
        async def parent():
            try:
                async with finish():
                    spawn()(lambda: pass_gate(gate) or done.append("child"))
                    gate.set()
                    raise KeyError("in the block")
            except KeyError:
                return list(done)
    assert parent.result() == ["child"]


def test_retries_after_an_await(workers):
    attempts = []
    with Parla(workers=workers):
        @spawn(retries=2)
        async def flaky():
            attempts.append("begun")
            await spawn()(lambda: None)
            if len(attempts) < 3:
                raise OSError("after an await")
            return "done"
    assert flaky.result() == "done"
    assert attempts == ["begun"] * 3


def test_retries_start_from_the_captured_values(workers):
    count, attempts = 0, []
    with Parla(workers=workers):
        @spawn(retries=3)
        def flaky():
            nonlocal count
            count += 1
            attempts.append(count)
            if len(attempts) < 3:
                raise OSError("again")
    assert attempts == [1, 1, 1]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_program_is_not_retried(kind):
    attempts = []
    with pytest.raises(kind), Parla(workers=1):
        @spawn(retries=5)
        def body():
            attempts.append(1)
            raise kind
    assert attempts == [1]


def test_cancel_races_with_the_start(workers):
    """Each task either ran or was cancelled, whatever `cancel` was told it did."""
    for _ in range(20):
        ran, answers = set(), {}
        with Parla(workers=workers):
            made = [spawn()(lambda: ran.add(i)) for i in range(100)]
            for i, task in reversed(list(enumerate(made))):
                answers[i] = task.cancel()
        for i, task in enumerate(made):
            assert answers[i] == (i not in ran)
            assert task.state.name == ("cancelled" if answers[i] else "done")


def test_a_suspended_coroutine_is_dropped_with_its_frame(workers):
    """What the frame of an abandoned coroutine held is free after the block."""
    class Tracked:
        pass

    space, watches = TaskSpace("T"), []
    with pytest.raises(DeadlockError), Parla(workers=workers):
        @spawn()
        async def body():
            tracked = Tracked()
            watches.append(weakref.ref(tracked))
            await space[0]
            del tracked
    del body
    gc.collect()
    assert watches[0]() is None


def test_awaiting_a_task_of_another_runtime(workers):
    """Refused with a reason: the two runtimes don't know of each other's waits."""
    gate = threading.Event()
    with Parla(workers=workers):
        outer = spawn()(lambda: pass_gate(gate) or "outer")
        with Parla(workers=workers):
            @spawn()
            async def body():
                try:
                    return await outer
                except ParlaError as e:
                    return str(e)
            answer = body.result(LIMIT)
        gate.set()
    assert "runtime" in answer


def test_waiting_in_plain_code_for_a_task_of_another_runtime(workers):
    with Parla(workers=workers):
        outer = spawn()(lambda: "outer")
        with Parla(workers=workers):
            body = spawn()(lambda: outer.result(LIMIT))
        assert body.result() == "outer"


def test_a_callback_of_asyncio_may_spawn_and_await(workers):
    async def main():
        with Parla(workers=workers):
            async def worker(i):
                return await spawn()(lambda: i * i)
            return await asyncio.gather(*(worker(i) for i in range(20)))
    assert asyncio.run(main()) == [i * i for i in range(20)]
