"""Large graphs: linear cost, a flat stack, and memory that comes back."""

from __future__ import annotations

import threading
import time

import pytest
from parla import Parla, TaskSpace, spawn
from support import leaves, pass_gate, run_py


def test_100_000_wide_fan_out_and_in(workers):
    n, space, ran = 100_000, TaskSpace("T"), []
    with Parla(workers=workers):
        gate = threading.Event()
        source = spawn()(lambda: pass_gate(gate))
        for i in range(n):
            spawn(space[i], [source])(lambda: ran.append(None))
        sink = spawn(dependencies=[space])(lambda: len(ran))
        gate.set()
    assert sink.result() == n


def test_await_a_space_of_100_000(workers):
    n, space, ran = 100_000, TaskSpace("T"), []
    with Parla(workers=workers):
        for i in range(n):
            spawn(space[i])(lambda: ran.append(None))

        @spawn()
        async def sink():
            await space
            return len(ran)
    assert sink.result() == n


CHAIN = """
import resource, sys, threading
resource.setrlimit(resource.RLIMIT_STACK, (512 << 10, resource.getrlimit(resource.RLIMIT_STACK)[1]))
threading.stack_size(256 << 10)
from parla import Parla, TaskSpace, spawn
n, count = {n}, [0]
def step():
    count[0] += 1
def program():
    {program}
thread = threading.Thread(target=program)   # a stack of 256 KiB
thread.start()
thread.join()
print(count[0])
"""

RUN = """
    gate = threading.Event()
    with Parla(workers=2):
        last = spawn()(gate.wait)
        for _ in range(n):
            last = spawn(dependencies=[last])(step)
        gate.set()
    del last
"""

KEEP = """
    T = TaskSpace("T")
    with Parla(workers=2):
        for i in range(n):
            spawn(T[i], [T[i - 1]])(step)
    del T
"""

REVERSED = """
    T = TaskSpace("T")
    with Parla(workers=2):
        for i in reversed(range(n)):
            spawn(T[i], [T[i - 1]])(step)
    del T
"""

FAIL = """
    T = TaskSpace("T")
    try:
        with Parla(workers=2):
            for i in reversed(range(1, n)):
                spawn(T[i], [T[i - 1]])(step)
            spawn(T[0])(lambda: 1 // 0)
    except ZeroDivisionError:
        count[0] = n if all(t.done() for t in T.tasks) else -1
    del T
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "n"),
    [(RUN, 1_000_000), (KEEP, 300_000), (REVERSED, 300_000), (FAIL, 300_000)],
    ids=["chain of a million", "kept in a space", "spawned in reverse", "failing at its start"],
)
def test_long_chains_on_a_small_stack(program, n):
    """Built, run and dropped: nothing on the way may recurse."""
    out = run_py(CHAIN.format(n=n, program=program.strip()), timeout=50).stdout
    assert out == f"{n}\n"


@pytest.mark.slow
def test_a_million_pending_behind_a_gate():
    """Spawn and finish; the cost per task stays flat from a thousand on."""
    def cost(n):
        gate, ran = threading.Event(), []
        start = time.perf_counter()
        with Parla(workers=2):
            first = spawn()(lambda: pass_gate(gate))
            for _ in range(n):
                spawn(dependencies=[first])(lambda: ran.append(None))
            gate.set()
        assert len(ran) == n
        return (time.perf_counter() - start) / n

    cost(1000)
    small = min(cost(10_000) for _ in range(3))
    large = cost(1_000_000)
    assert large < 4 * small + 2e-6, f"{small * 1e6:.2f} us per task at 10 000, {large * 1e6:.2f} us at 1 000 000"


def test_100_000_coroutines_await_one_task(workers):
    gate = threading.Event()
    with Parla(workers=workers):
        source = spawn()(lambda: pass_gate(gate) or 1)
        made = []
        for _ in range(100_000):
            async def body():
                return await source
            made.append(spawn()(body))
        gate.set()
    assert sum(t.result() for t in made) == 100_000


def test_10_000_errors_are_one_group(workers):
    with pytest.raises(BaseException) as caught, Parla(workers=workers):
        for i in range(10_000):
            @spawn()
            def body():
                raise KeyError(i)
    assert sorted(e.args[0] for e in leaves(caught.value)) == list(range(10_000))


@pytest.mark.parametrize("n", [1, 2, 8])
def test_30_000_chained_awaits(n):
    with Parla(workers=n):
        previous = spawn()(lambda: 0)
        for _ in range(30_000):
            async def body():
                return 1 + await previous
            previous = spawn()(body)
    assert previous.result() == 30_000


@pytest.mark.parametrize("n", [1, 2, 8])
def test_30_000_nested_awaits(n):
    """Each spawns the next and waits for it: 30 000 suspended coroutines at once, and none of them holds a worker."""
    def nest(depth):
        @spawn()
        async def level():
            return 0 if depth == 0 else 1 + await nest(depth - 1)
        return level

    with Parla(workers=n):
        top = nest(30_000)
    assert top.result() == 30_000


def test_30_000_awaits_that_fail_one_after_another():
    """The error of the innermost passes through every await, the same object throughout."""
    with Parla(workers=2):
        def nest(depth):
            @spawn()
            async def level():
                if depth == 0:
                    raise KeyError("innermost")
                try:
                    await nest(depth - 1)
                except KeyError as e:
                    raise e.with_traceback(None)
            return level
        error = nest(3_000).exception()
    assert isinstance(error, KeyError)


def test_tasks_that_spawn_tasks(workers):
    """A binary tree of 2**13 - 1 tasks, each spawned by the one above."""
    lock, count = threading.Lock(), [0]

    def node(depth):
        with lock:
            count[0] += 1
        if depth:
            for _ in range(2):
                spawn()(lambda: node(depth - 1))

    with Parla(workers=workers):
        spawn()(lambda: node(12))
    assert count[0] == 2**13 - 1


def test_fibonacci_by_spawn_and_await(workers):
    def fib(n):
        @spawn()
        async def value():
            if n < 2:
                return n
            left, right = fib(n - 1), fib(n - 2)
            return await left + await right
        return value

    with Parla(workers=workers):
        task = fib(15)
    assert task.result() == 610


def test_a_stencil_of_a_hundred_steps(workers):
    width, steps, space = 50, 100, TaskSpace("S")
    cells = [list(range(width))] + [[None] * width for _ in range(steps)]
    with Parla(workers=workers):
        for step in range(1, steps + 1):
            for x in range(width):
                @spawn(space[step, x], [space[step - 1, max(0, x - 1) : min(width, x + 2)] if step > 1 else []])
                def update():
                    above = cells[step - 1][max(0, x - 1) : x + 2]
                    cells[step][x] = sum(above) % 1_000_003
    oracle = list(range(width))
    for _ in range(steps):
        oracle = [sum(oracle[max(0, x - 1) : x + 2]) % 1_000_003 for x in range(width)]
    assert cells[steps] == oracle


def test_many_edges(workers):
    """2 000 tasks with up to 200 dependencies each: linear in the edges."""
    space, start = TaskSpace("T"), time.perf_counter()
    ran = []
    with Parla(workers=workers):
        for i in range(2000):
            spawn(space[i], [space[max(0, i - 200) : i]])(lambda: ran.append(i))
    assert ran == list(range(2000))
    assert time.perf_counter() - start < 10
