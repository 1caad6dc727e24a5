"""Fixtures of the suite: worker counts, runtimes whose trace is checked, and a stack dump for a test that hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import signal
import sys

import pytest
from cuda_driver import driver  # noqa: F401
from least_bytes import watch
from machine import no_gpus, two_gpus, two_small_gpus  # noqa: F401
from parla import Parla, TaskSpace, spawn
from parla.errors import DeadlockError
from parla.races import find_races
from support import WORKER_COUNTS, leaves
from trace_checker import check_trace

# pytest-timeout raises in the main thread; a main thread stuck in native code can't hear it. This is for that case.
HARD_LIMIT = 120.0

_stderr = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Keeps a handle on the real stderr, because pytest captures the one that tests see."""
    config.stash[_stderr] = os.fdopen(os.dup(sys.__stderr__.fileno()), "w")
    # A shell that starts a job in the background has it ignore SIGINT, and the processes that tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Ends the whole run with the stacks of all threads when a test is stuck where no signal reaches it."""
    stderr = item.config.stash[_stderr]
    faulthandler.dump_traceback_later(HARD_LIMIT, exit=True, file=stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(params=WORKER_COUNTS, ids=lambda n: f"w{n}")
def workers(request: pytest.FixtureRequest) -> int:
    """The number of workers: the test runs at each of 1, 2, 3 and 8."""
    return request.param


@pytest.fixture
def dump_if_stuck(request: pytest.FixtureRequest):
    """Use as `with dump_if_stuck("what"):` around one of many steps of a test: ends the run with all stacks if that step takes too long."""

    @contextlib.contextmanager
    def watched(what: str):
        stderr = request.config.stash[_stderr]
        faulthandler.dump_traceback_later(HARD_LIMIT, exit=True, file=stderr)
        try:
            yield
        except BaseException as error:
            if hasattr(error, "add_note"):
                error.add_note(what)
            else:
                print(what)
            raise

    return watched


class CheckedRuntime:
    """`with Parla(...)`, whose trace is checked by an independent checker however the block ends."""

    def __init__(self, may_race: bool = False, **options: object) -> None:
        self._parla = Parla(trace=True, **options)
        self._may_race = may_race

    def __enter__(self):
        self._rt = self._parla.__enter__()
        return self._rt

    def __exit__(self, *exc: object) -> bool | None:
        abandoned = exc[0] is not None
        try:
            return self._parla.__exit__(*exc)
        except BaseException as e:
            gave_up = (DeadlockError, KeyboardInterrupt, SystemExit, GeneratorExit)
            abandoned = any(isinstance(leaf, gave_up) for leaf in leaves(e))
            raise
        finally:
            violations = check_trace(self._rt.trace, abandoned=abandoned)
            if not self._may_race:
                violations += map(str, find_races(self._rt.trace))
            assert not violations, "\n".join(violations[:20])


@pytest.fixture
def traced_parla(request: pytest.FixtureRequest):
    """Use as `with traced_parla(workers=n) as rt:` in place of `Parla`. Tasks must not race, but where the test is marked so."""
    return functools.partial(CheckedRuntime, may_race=request.node.get_closest_marker("races") is not None)


@pytest.fixture
def works_afterwards():
    """Whatever the test did to a runtime, the next one in this process works."""
    yield
    with Parla(workers=2):
        after = TaskSpace("after")

        @spawn(after[0])
        def first():
            return 20

        @spawn(after[1], [after[0]])
        async def second():
            return await first + 1

    assert second.result() == 21


@pytest.fixture(autouse=True)
def everything_is_given_back(monkeypatch: pytest.MonkeyPatch):
    """When a runtime has ended, however it has, devices hold no copies of arrays, and nothing is claimed."""
    leave, kept = Parla.__exit__, []

    def checked(self: Parla, *exc: object) -> bool | None:
        try:
            return leave(self, *exc)
        finally:
            stats = self.stats()
            kept.extend(memory for memory in stats.get("memories", ())[1:] if memory["used"])
            kept.extend((key, stats[key]) for key in ("vcus_claimed", "memory_claimed") if stats.get(key))

    monkeypatch.setattr(Parla, "__exit__", checked)
    yield
    assert not kept


@pytest.fixture(autouse=True)
def no_byte_moves_that_need_not(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """When a runtime has ended, just as many bytes have moved as the oracle says had to, but where the test is marked so."""
    if request.node.get_closest_marker("moves_more"):
        yield
        return
    wasted = watch(monkeypatch.setattr)
    yield
    assert not wasted, "\n".join(wasted)
