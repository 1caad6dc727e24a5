"""What a coroutine body may not do: await what isn't a task. And objects that misbehave when they are dropped."""

from __future__ import annotations

import asyncio
import sys

import pytest
from parla import Parla, TaskSpace, spawn
from parla.errors import DeadlockError
from support import collect

pytestmark = pytest.mark.usefixtures("works_afterwards")


class Foreign:
    """An awaitable that no runtime here knows."""

    def __await__(self):
        yield self


def test_a_foreign_awaitable_is_named(traced_parla, workers):
    with pytest.raises(TypeError, match="Foreign"), traced_parla(workers=workers):
        @spawn()
        async def body():
            await Foreign()


def test_a_foreign_awaitable_is_an_error_that_the_body_can_catch(traced_parla, workers):
    cleaned = []
    with traced_parla(workers=workers):
        @spawn()
        async def body():
            try:
                await Foreign()
            except TypeError as e:
                cleaned.append("caught")
                return str(e)
    assert "Foreign" in body.result()
    assert cleaned == ["caught"]


@pytest.mark.parametrize("seconds", [0, 0.01])
def test_asyncio_sleep_inside_a_task(traced_parla, seconds):
    """`sleep(0)` yields nothing that has a name; a longer one asks asyncio for its loop, which isn't there."""
    wanted = {0: (TypeError, "body"), 0.01: ((TypeError, RuntimeError), "event loop|Future")}[seconds]
    with pytest.raises(wanted[0]) as caught, traced_parla(workers=1):
        @spawn()
        async def body():
            await asyncio.sleep(seconds)
    text = str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    assert any(word in text for word in wanted[1].split("|"))


def test_a_future_of_asyncio_is_named(traced_parla):
    loop = asyncio.new_event_loop()
    try:
        future = loop.create_future()
        with pytest.raises(TypeError, match="Future"), traced_parla(workers=1):
            @spawn()
            async def body():
                await future
    finally:
        loop.close()


def test_awaiting_something_that_is_no_awaitable(traced_parla):
    with pytest.raises(TypeError, match="int"), traced_parla(workers=1):
        @spawn()
        async def body():
            await 3


def test_awaiting_oneself_is_an_error(traced_parla):
    space = TaskSpace("T")
    with pytest.raises((DeadlockError, RuntimeError), match="T_0"), traced_parla(workers=1):
        @spawn(space[0])
        async def body():
            await space[0]


def test_a_coroutine_object_can_be_spawned_once(traced_parla):
    async def body():
        return 1

    coroutine = body()
    with traced_parla(workers=1):
        assert spawn()(coroutine).result() == 1
        with pytest.raises((RuntimeError, ValueError), match="coroutine"):
            spawn()(coroutine).result()


class ExplodesWhenDropped:
    """An object whose finaliser raises."""

    def __del__(self):
        raise OSError("in a finaliser")


def test_a_captured_object_whose_finaliser_raises(workers):
    unraisable = []
    before, sys.unraisablehook = sys.unraisablehook, lambda report: unraisable.append(report.exc_value)
    try:
        with Parla(workers=workers):
            for i in range(10):
                def body():
                    return i, captured is not None
                captured = ExplodesWhenDropped()
                spawn()(body)
                del captured, body
            after = spawn()(lambda: "unharmed")
        assert after.result() == "unharmed"
        collect()
    finally:
        sys.unraisablehook = before
    assert [str(e) for e in unraisable] == ["in a finaliser"] * 10


def test_a_result_whose_finaliser_raises():
    unraisable = []
    before, sys.unraisablehook = sys.unraisablehook, lambda report: unraisable.append(report.exc_value)
    try:
        with Parla(workers=2):
            for _ in range(10):
                spawn()(ExplodesWhenDropped)
        collect()
    finally:
        sys.unraisablehook = before
    assert len(unraisable) == 10


class SpawnsWhenDropped:
    """An object whose finaliser uses the runtime."""

    def __init__(self, log):
        self.log = log

    def __del__(self):
        spawn()(lambda: None)
        self.log.append("spawned")


def test_a_finaliser_that_spawns():
    log = []
    with Parla(workers=1):
        keep = spawn()(lambda: None)
        for _ in range(5):
            spawn()(lambda: SpawnsWhenDropped(log)).wait()
        keep.wait()
    assert log == ["spawned"] * 5
