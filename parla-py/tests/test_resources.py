"""Claims of vcus and memory: never above the machine, exactly restored, and fair to big and small requests."""

from __future__ import annotations

import threading

import pytest
from parla import Parla, TaskSpace, spawn
from parla.errors import ParlaError
from support import LIMIT, pass_gate, run_py
from trace_checker import check_trace


class Peak:
    """Counts how many are inside at once."""

    def __init__(self):
        self._lock = threading.Lock()
        self.now = self.peak = 0

    def __enter__(self):
        with self._lock:
            self.now += 1
            self.peak = max(self.peak, self.now)

    def __exit__(self, *exc):
        with self._lock:
            self.now -= 1


def traced_with_claims(n, use):
    """Runs `use` in a runtime of `n` workers and checks its trace against the capacity of one whole device."""
    with Parla(workers=n, trace=True) as rt:
        result = use(rt)
    assert check_trace(rt.trace, vcus=1.0) == []
    return result


@pytest.mark.parametrize(("vcus", "fit"), [(1, 1), (0.5, 2), (1 / 3, 3), (0.25, 4), (0.125, 8), (0.6, 1), (0.001, 8)])
def test_never_more_at_once_than_fit(workers, vcus, fit):
    peak = Peak()

    def use(rt):
        for _ in range(40):
            @spawn(vcus=vcus)
            def body():
                with peak:
                    threading.Event().wait(0.001)

    traced_with_claims(workers, use)
    assert 1 <= peak.peak <= min(fit, workers)


@pytest.mark.parametrize(("vcus", "fit"), [(0.5, 2), (1 / 3, 3), (0.125, 8), (0.1, 8)])
def test_as_many_at_once_as_fit(vcus, fit):
    """They meet at a barrier, so fewer at once would be a failure."""
    barrier = threading.Barrier(fit)

    def use(rt):
        return [spawn(vcus=vcus)(lambda: barrier.wait(LIMIT)) for _ in range(fit)]

    assert sorted(t.result() for t in traced_with_claims(8, use)) == list(range(fit))


@pytest.mark.parametrize("end", ["value", "error", "await", "await of an error", "cancelled"])
def test_claims_come_back_exactly(workers, end):
    """A thousand claims that don't divide the device; one whole device must be free afterwards."""
    async def awaiting():
        inner = spawn(vcus=0.3)(lambda: 1 // 0 if end == "await of an error" else None)
        try:
            await inner
        except ZeroDivisionError:
            pass

    def use(rt):
        made = []
        for _ in range(300):
            if end == "value":
                made.append(spawn(vcus=0.37)(lambda: None))
            elif end == "error":
                made.append(spawn(vcus=0.37)(lambda: 1 // 0))
            elif end == "cancelled":
                made.append(spawn(vcus=0.37)(lambda: None))
                made[-1].cancel()
            else:
                made.append(spawn(vcus=0.9)(awaiting))
        for t in made:
            assert isinstance(settled(t), (type(None), ZeroDivisionError, ParlaError))
        return spawn(vcus=1)(lambda: "whole").result(LIMIT)

    assert traced_with_claims(workers, use) == "whole"


def settled(task):
    """The exception of a task that has ended, or None."""
    try:
        return task.exception()
    except ParlaError as e:
        return e


def test_an_awaiting_parent_gives_back_what_its_child_needs(workers):
    """And takes it again: `peak` counts the parents' halves too."""
    peak = Peak()

    def use(rt):
        tasks = []
        for _ in range(10):
            @spawn(vcus=1)
            async def parent():
                with peak:
                    pass

                @spawn(vcus=1)
                def child():
                    with peak:
                        return 1

                value = await child
                with peak:
                    threading.Event().wait(0.001)
                return value
            tasks.append(parent)
        return tasks

    assert [t.result() for t in traced_with_claims(workers, use)] == [1] * 10
    assert peak.peak == 1


def test_a_parent_in_a_blocking_wait_gives_back_what_its_child_needs(workers):
    with Parla(workers=workers):
        @spawn(vcus=1)
        def parent():
            return spawn(vcus=1)(lambda: "child").result(LIMIT)
    assert parent.result() == "child"


def test_small_requests_pass_a_big_one_that_does_not_fit_yet():
    """No head-of-line blocking: while a half is taken, a whole one waits and other halves and free tasks run."""
    gate, running = threading.Event(), threading.Event()
    with Parla(workers=3):
        @spawn(vcus=0.5)
        def holder():
            running.set()
            pass_gate(gate)

        pass_gate(running)
        big = spawn(vcus=1)(lambda: "big")
        assert spawn()(lambda: "free").result(LIMIT) == "free"
        assert spawn(vcus=0.5)(lambda: "small").result(LIMIT) == "small"
        assert not big.done()
        gate.set()
        assert big.result(LIMIT) == "big"


def test_a_big_request_behind_a_stream_of_small_ones_is_not_starved(workers):
    """Each small task spawns its successor before it ends, so there is never a moment without a small one."""
    limit, big_ran = 30_000, threading.Event()
    lengths = []

    def stream(n):
        if big_ran.is_set() or n == limit:
            lengths.append(n)
        else:
            spawn(vcus=0.5)(lambda: stream(n + 1))

    with Parla(workers=workers):
        spawn(vcus=0.5)(lambda: stream(0))
        spawn(vcus=0.5)(lambda: stream(0))
        spawn(vcus=1)(big_ran.set)
    assert len(lengths) == 2
    assert max(lengths) < limit, "the big request ran only after the stream of small ones had ended"


def test_many_different_fractions_never_drift(workers):
    """Claims of every size from 1/1000 to 1, each then a whole device again."""
    def use(rt):
        for thousandth in range(1, 1000, 7):
            spawn(vcus=thousandth / 1000)(lambda: None)
        return spawn(vcus=1)(lambda: "whole").result(LIMIT)

    assert traced_with_claims(workers, use) == "whole"


MEMORY = """
import threading
from parla import Parla, spawn
peak, now, lock = 0, 0, threading.Lock()
def inside(step):
    global peak, now
    with lock:
        now += step
        peak = max(peak, now)
def body():
    inside(400)
    threading.Event().wait(0.002)
    inside(-400)
with Parla(workers={n}, trace=True) as rt:
    for _ in range(30):
        spawn(memory=400)(body)
    whole = spawn(memory=1000)(lambda: "whole")
print(peak <= 800, peak >= 400, whole.result())
try:
    with Parla(workers={n}):
        spawn(memory=1001)(lambda: None)
except Exception as e:
    print(type(e).__name__, "1001" in str(e) or "1,001" in str(e), "1000" in str(e) or "1,000" in str(e))
"""


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_memory_claims_stay_inside_the_machine(n):
    out = run_py(MEMORY.format(n=n), env={"PARLA_CPU_MEM": "1000"}).stdout.splitlines()
    assert out[0] == "True True whole"
    assert out[1] == "PlacementError True True"


def test_a_failing_memory_claim_comes_back():
    assert run_py(
        """
        from parla import Parla, spawn
        with Parla(workers=2):
            for _ in range(200):
                assert isinstance(spawn(memory=600)(lambda: 1 // 0).exception(), ZeroDivisionError)
            print(spawn(memory=1000)(lambda: "whole").result(10))
        """,
        env={"PARLA_CPU_MEM": "1000"},
    ).stdout == "whole\n"


def test_one_device_per_core():
    """With `PARLA_CPU_ARCHITECTURE=cores`, whole-device claims of two cores run side by side."""
    assert run_py(
        """
        import threading
        from parla import Parla, spawn
        from parla.cpu import cpu
        assert len(cpu) == 2, len(cpu)
        barrier = threading.Barrier(2)
        with Parla(workers=2):
            made = [spawn(placement=cpu(i), vcus=1)(lambda: barrier.wait(10)) for i in range(2)]
        print(sorted(t.result() for t in made))
        """,
        env={"PARLA_CPU_ARCHITECTURE": "cores", "PARLA_CORES": "2"},
    ).stdout == "[0, 1]\n"


def test_claims_and_dependencies_together(workers):
    space, done = TaskSpace("T"), []

    def use(rt):
        for i in range(100):
            spawn(space[i], [space[i - 3]], vcus=(i % 4 + 1) / 4)(lambda: done.append(i))

    traced_with_claims(workers, use)
    assert sorted(done) == list(range(100))
    for i in range(3, 100):
        assert done.index(i) > done.index(i - 3)
