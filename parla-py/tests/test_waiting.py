"""Waiting: `await`, `wait`, `result`, `exception`, `cancel`, `done`, other event loops, and `finish`."""

from __future__ import annotations

import asyncio
import threading

import pytest
from parla import Parla, ParlaError, TaskSpace, finish, spawn, tasks
from parla.errors import TaskCancelled
from support import LIMIT, pass_gate


def test_await_gives_the_value_and_none_for_a_collection(traced_parla, workers):
    space = TaskSpace("T")
    with traced_parla(workers=workers):
        for i in range(5):
            spawn(space[i])(lambda: i * 10)

        @spawn()
        async def body():
            return await space[3], await space[1].task, await space, await tasks(space[0:2])

    assert body.result() == (30, 10, None, None)


def test_await_before_the_task_is_spawned(traced_parla, workers):
    space = TaskSpace("T")
    with traced_parla(workers=workers):
        @spawn()
        async def body():
            return await space[0]

        spawn(space[0])(lambda: "late")
    assert body.result() == "late"


def test_many_wait_for_one_and_one_for_many(traced_parla, workers):
    gate = threading.Event()
    with traced_parla(workers=workers):
        source = spawn()(lambda: pass_gate(gate) or 5)
        many = []
        for i in range(20):
            @spawn()
            async def body():
                return await source + i
            many.append(body)

        @spawn()
        async def total():
            return sum([await t for t in many])

        gate.set()
    assert total.result() == 20 * 5 + sum(range(20))


def test_await_again_and_again(traced_parla, workers):
    with traced_parla(workers=workers):
        source = spawn()(lambda: 7)

        @spawn()
        async def body():
            return sum([await source for _ in range(100)])
    assert body.result() == 700


def test_an_awaiting_task_keeps_no_worker(traced_parla):
    """With one worker the child runs while its parent waits, at any depth."""
    with traced_parla(workers=1):
        def nest(depth):
            @spawn(name=f"level {depth}")
            async def level():
                return 0 if depth == 0 else 1 + await nest(depth - 1)
            return level
        task = nest(100)
    assert task.result() == 100


def test_a_blocking_wait_in_a_task_keeps_no_worker(traced_parla, workers):
    with traced_parla(workers=workers):
        def nest(depth):
            @spawn()
            def level():
                return 0 if depth == 0 else 1 + nest(depth - 1).result(LIMIT)
            return level
        task = nest(12)
    assert task.result() == 12


def test_wait_and_result_time_out(traced_parla):
    gate = threading.Event()
    with traced_parla(workers=1):
        task = spawn()(lambda: pass_gate(gate))
        with pytest.raises(TimeoutError):
            task.result(0.01)
        with pytest.raises(TimeoutError):
            task.result(0)
        with pytest.raises(TimeoutError):
            task.wait(0.01)
        assert not task.done()
        gate.set()
        assert task.result(LIMIT) is None
        task.wait(LIMIT)
        assert task.done()


@pytest.mark.parametrize(("bad", "error"), [("soon", TypeError), (float("nan"), ValueError), (object(), TypeError)])
def test_a_bad_timeout_is_refused(bad, error):
    with Parla(workers=1):
        task = spawn()(lambda: None)
        with pytest.raises(error, match="timeout"):
            task.result(bad)
        with pytest.raises(error, match="timeout"):
            task.wait(timeout=bad)


@pytest.mark.parametrize("long", [None, float("inf"), 1e300, 10**12])
def test_a_very_long_timeout_is_no_timeout(long):
    with Parla(workers=1):
        assert spawn()(lambda: 3).result(long) == 3


def test_waiting_from_many_threads_at_once(workers):
    gate, results = threading.Event(), []
    with Parla(workers=workers):
        task = spawn()(lambda: pass_gate(gate) or "value")
        threads = [threading.Thread(target=lambda: results.append(task.result(LIMIT))) for _ in range(8)]
        for t in threads:
            t.start()
        gate.set()
        for t in threads:
            t.join(LIMIT)
    assert results == ["value"] * 8


def test_exception_is_none_or_the_exception(traced_parla):
    with traced_parla(workers=1):
        good, bad = spawn()(lambda: 1), spawn()(lambda: {}["missing"])
        assert good.exception() is None
        assert isinstance(bad.exception(), KeyError)
        with pytest.raises(KeyError, match="missing") as caught:
            bad.result()
        assert caught.value is bad.exception()
    assert bad.state.is_terminal


def test_cancel_before_the_start(traced_parla, workers):
    gate, ran = threading.Event(), []
    with traced_parla(workers=workers):
        blocker = spawn()(lambda: pass_gate(gate))
        waiting = spawn(dependencies=[blocker], name="waiting")(lambda: ran.append(1))
        dependent = spawn(dependencies=[waiting])(lambda: ran.append(2))
        assert waiting.cancel() is True
        assert waiting.done()
        gate.set()
        with pytest.raises(TaskCancelled, match="waiting"):
            waiting.result(LIMIT)
        with pytest.raises(TaskCancelled, match="waiting"):
            dependent.result(LIMIT)
    assert ran == []
    assert blocker.result() is None


def test_cancel_too_late(traced_parla):
    gate, running = threading.Event(), threading.Event()
    with traced_parla(workers=1):
        task = spawn()(lambda: running.set() or pass_gate(gate) or "ran")
        pass_gate(running)
        assert task.cancel() is False
        gate.set()
        assert task.result(LIMIT) == "ran"
        assert task.cancel() is False
    assert task.result() == "ran"


def test_awaiting_a_cancelled_task_raises(traced_parla, workers):
    gate = threading.Event()
    with traced_parla(workers=workers):
        blocker = spawn()(lambda: pass_gate(gate))
        victim = spawn(dependencies=[blocker], name="victim")(lambda: None)

        @spawn()
        async def awaiting():
            try:
                await victim
            except TaskCancelled as e:
                return str(e)

        victim.cancel()
        gate.set()
        assert "victim" in awaiting.result(LIMIT)


def test_a_cancelled_coroutine_object_is_closed_silently():
    """No 'coroutine was never awaited' warning: the suite turns warnings of that kind into errors."""
    async def body():
        pass

    gate = threading.Event()
    with Parla(workers=1):
        blocker = spawn()(lambda: pass_gate(gate))
        victim = spawn(dependencies=[blocker])(body())
        assert victim.cancel()
        gate.set()


@pytest.mark.parametrize("where", ["main thread", "other thread"])
def test_a_coroutine_of_another_event_loop_awaits_tasks(where, workers):
    results = []

    async def main():
        gate = threading.Event()
        with Parla(workers=workers):
            first = spawn()(lambda: pass_gate(gate) or 1)
            second = spawn()(lambda: 2)
            failing = spawn()(lambda: 1 // 0)
            asyncio.get_running_loop().call_soon(gate.set)
            results.append(await first)
            results.append(sum(await asyncio.gather(first, second)))
            with pytest.raises(ZeroDivisionError):
                await failing

    if where == "main thread":
        asyncio.run(main())
    else:
        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        thread.join(LIMIT)
    assert results == [1, 3]


def test_an_event_loop_stays_alive_while_it_awaits_a_task():
    async def main():
        ticks, gate = 0, threading.Event()
        with Parla(workers=1):
            task = spawn()(lambda: pass_gate(gate))

            async def awaiting():
                await task

            waiter = asyncio.ensure_future(awaiting())
            while ticks < 10:
                await asyncio.sleep(0.001)
                ticks += 1
            assert not waiter.done()
            gate.set()
            await waiter
            with pytest.raises(asyncio.TimeoutError):
                never = threading.Event()
                late = spawn()(lambda: pass_gate(never) or "unharmed")
                try:
                    await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(wrap(late))), 0.01)
                finally:
                    never.set()
            assert await late == "unharmed"

    async def wrap(task):
        return await task

    asyncio.run(main())


def test_an_event_loop_inside_a_task(traced_parla, workers):
    async def twice(x):
        await asyncio.sleep(0)
        return 2 * x

    with traced_parla(workers=workers):
        made = [spawn()(lambda: asyncio.run(twice(i))) for i in range(10)]
    assert [t.result() for t in made] == [2 * i for i in range(10)]


def test_finish_waits_for_what_was_spawned_inside(traced_parla, workers):
    space, order = TaskSpace("T"), []
    with traced_parla(workers=workers):
        outside = spawn(dependencies=[space["late"]])(lambda: None)

        @spawn()
        async def parent():
            async with finish():
                for i in range(10):
                    spawn()(lambda: order.append(i))
                async with finish():
                    spawn()(lambda: order.append("nested"))
                order.append("nested is done")
            order.append("all are done")
            return outside.done()

        assert parent.result(LIMIT) is False
        spawn(space["late"])(lambda: None)
    assert order[-1] == "all are done"
    assert order.index("nested") < order.index("nested is done")
    assert sorted(x for x in order if isinstance(x, int)) == list(range(10))


def test_finish_raises_what_its_tasks_raised(traced_parla, workers):
    with traced_parla(workers=workers):
        @spawn()
        async def parent():
            try:
                async with finish():
                    spawn()(lambda: 1 // 0)
            except ZeroDivisionError:
                return "caught"
        assert parent.result(LIMIT) == "caught"


def test_finish_outside_a_task_is_refused():
    with pytest.raises((ParlaError, RuntimeError), match="finish|task"):
        asyncio.run(enter_finish())


async def enter_finish():
    async with finish():
        pass
