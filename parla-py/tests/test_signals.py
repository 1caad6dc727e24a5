"""Ctrl-C: within about a second, once politely and twice at once, wherever the main thread is."""

from __future__ import annotations

import random
import signal
import time

import pytest
from support import WORKER_COUNTS, Program, run_py

# Each program prints `ready` when it may be interrupted, and says what it saw.
PRELUDE = """
import sys, threading, time
from parla import Parla, TaskSpace, spawn, ParlaError
started, gate = threading.Event(), threading.Event()
ran = []

def short_body():
    started.set()
    sys.stdin.readline()   # goes on when the test says so, after its interrupt
    ran.append("short")

def endless_body():
    started.set()
    while not gate.wait(0.05):
        pass
"""


def program(text: str, n: int) -> Program:
    return Program(PRELUDE + text.replace("WORKERS", str(n)))


def interrupt_then_release(run: Program) -> None:
    """Interrupts while the body runs, and lets the body end once the main thread has had time to notice."""
    run.interrupt()
    time.sleep(0.2)
    run.release()


WAITS = {
    "in_exit": "pass",
    "in_body": "while True: pass",
    "in_sleep": "time.sleep(60)",
    "in_task_wait": "pending.wait()",
    "in_result": "pending.result()",
    "in_result_with_timeout": "pending.result(60)",
    "in_space_wait": "T.wait()",
    "in_spawn_loop": "while True: spawn()(lambda: None)",
}


@pytest.mark.parametrize("n", WORKER_COUNTS)
@pytest.mark.parametrize("where", WAITS)
def test_one_interrupt(where, n):
    """What has not started is cancelled, the running body is waited for, `KeyboardInterrupt` leaves the block."""
    run = program(
        f"""
T = TaskSpace("T")
try:
    with Parla(workers=WORKERS):
        running = spawn(T[0])(short_body)
        pending = spawn(T[1], [T[0]])(lambda: ran.append("pending"))
        started.wait(10)
        print("ready", flush=True)
        {WAITS[where]}
except KeyboardInterrupt:
    print("interrupted", ran, running.done(), pending.done(), flush=True)
with Parla(workers=WORKERS):
    again = spawn()(lambda: "again")
print(again.result(), flush=True)
""",
        n,
    )
    run.expect("ready")
    begin = time.monotonic()
    interrupt_then_release(run)
    run.expect("interrupted ['short'] True True", 10)
    assert time.monotonic() - begin < 3
    done = run.finish()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "again"


def endless(at_the_end: str) -> str:
    """A program with a task that never ends; it says when its block is ready, and when an exception leaves the block's body."""
    return f"""
class Announce:
    def __exit__(self, *exc):
        print("leaving", flush=True)
    def __enter__(self):
        pass
try:
    with Parla(workers=WORKERS):
        with Announce():
            spawn()(endless_body)
            started.wait(10)
            print("ready", flush=True)
            {at_the_end}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("n", WORKER_COUNTS)
def test_a_second_interrupt_abandons_running_bodies(n):
    run = program(endless("threading.Event().wait(60)"), n)
    run.expect("ready")
    run.interrupt()
    run.expect("leaving")
    begin = time.monotonic()
    while run.process.poll() is None and time.monotonic() - begin < 5:
        run.interrupt()  # the first of these may still fall into the body of the block
        time.sleep(0.2)
    done = run.finish(5)
    assert time.monotonic() - begin < 3
    assert "interrupted" in done.stdout or done.returncode in (1, 130, -signal.SIGINT)
    assert "panicked" not in done.stderr
    assert "Fatal" not in done.stderr


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("where", ["in_body", "in_exit"])
def test_the_second_interrupt_is_enough(n, where):
    """Also if the first one was raised by the block's own body."""
    run = program(endless("threading.Event().wait(60)" if where == "in_body" else "pass"), n)
    run.expect("ready")
    if where == "in_body":
        run.interrupt()
        run.expect("leaving")
        time.sleep(0.3)  # the main thread waits in the exit by now: a second one in between would fall into the body
    else:
        run.expect("leaving")
        time.sleep(0.3)
        run.interrupt()
        time.sleep(0.3)
    begin = time.monotonic()
    run.interrupt()
    run.expect("interrupted", 5)
    run.finish(5)
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize("n", [1, 3])
def test_an_interrupt_while_thousands_are_pending(n):
    run = program(
        """
T = TaskSpace("T")
try:
    with Parla(workers=WORKERS):
        spawn(T[0])(short_body)
        for i in range(1, 20_000):
            spawn(T[i], [T[i - 1]])(lambda: ran.append(i))
        started.wait(10)
        print("ready", flush=True)
except KeyboardInterrupt:
    print("interrupted", len(ran) < 20_000, all(t.done() for t in T.tasks), flush=True)
""",
        n,
    )
    run.expect("ready")
    interrupt_then_release(run)
    run.expect("interrupted True True", 10)
    done = run.finish()
    assert (done.returncode, done.stderr) == (0, "")


def test_an_uncaught_interrupt_ends_the_process_as_python_does():
    run = program(
        """
with Parla(workers=2):
    spawn()(short_body)
    started.wait(10)
    print("ready", flush=True)
""",
        2,
    )
    run.expect("ready")
    interrupt_then_release(run)
    done = run.finish(5)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


def test_the_users_own_handler_runs_while_the_block_ends():
    """A handler that doesn't raise must not end the wait."""
    run = Program("""
        import signal, threading
        from parla import Parla, spawn
        gate, started = threading.Event(), threading.Event()
        signal.signal(signal.SIGUSR1, lambda *_: gate.set())
        with Parla(workers=1):
            @spawn()
            def body():
                started.set()
                assert gate.wait(20)
                return "ran"
            started.wait(10)
            print("ready", flush=True)
        print(body.result(), flush=True)
    """)
    run.expect("ready")
    run.interrupt(signal.SIGUSR1)
    run.expect("ran", 5)
    assert run.finish().returncode == 0


def test_a_handler_that_raises_is_an_error_of_the_block():
    run = Program("""
        import signal, threading
        from parla import Parla, spawn
        started, gate = threading.Event(), threading.Event()
        def alarm(*_):
            gate.set()
            raise TimeoutError("too late")
        signal.signal(signal.SIGUSR1, alarm)
        try:
            with Parla(workers=1):
                @spawn()
                def body():
                    started.set()
                    assert gate.wait(20)
                started.wait(10)
                print("ready", flush=True)
        except TimeoutError as e:
            print(e, flush=True)
    """)
    run.expect("ready")
    run.interrupt(signal.SIGUSR1)
    run.expect("too late", 5)
    assert run.finish().returncode == 0


def test_an_interrupted_coroutine_cleans_up():
    run = program(
        """
T = TaskSpace("T")
try:
    with Parla(workers=2):
        spawn(T[0])(short_body)
        @spawn()
        async def waiting():
            try:
                await T[1]
            finally:
                ran.append("cleaned")
        spawn(T[1], [T[0]])(lambda: ran.append("pending"))
        started.wait(10)
        print("ready", flush=True)
except KeyboardInterrupt:
    print("interrupted", sorted(ran), flush=True)
""",
        2,
    )
    run.expect("ready")
    interrupt_then_release(run)
    run.expect("interrupted ['cleaned', 'short']", 10)
    assert run.finish().returncode == 0


@pytest.mark.parametrize("n", [1, 2, 8])
def test_interrupts_at_any_moment(n):
    """Dozens of them, wherever they hit: no hang, no crash, and a runtime that works afterwards."""
    run = program(
        """
import faulthandler, os, signal
faulthandler.dump_traceback_later(25, exit=True)
rounds = interrupted = 0
stop = threading.Event()
def listen():
    sys.stdin.readline()
    stop.set()
threading.Thread(target=listen, daemon=True).start()

def one():
    T = TaskSpace("T")
    with Parla(workers=WORKERS):
        for i in range(30):
            @spawn(T[i], [T[i - 1]] if i % 3 else [])
            async def body():
                await spawn()(lambda: time.sleep(0.0005))
                return spawn()(lambda: i).result()
        spawn()(lambda: T.wait())
        T.wait()

armed = 0
def handler(*_):   # raises at most twice per round, so that none hits the loop of this test
    global armed
    if armed:
        armed -= 1
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, handler)
print("ready", flush=True)
while not stop.is_set():
    rounds += 1
    try:
        try:
            armed = 2
            one()
            armed = 0
        except KeyboardInterrupt:
            interrupted += 1
            armed = 0
    except KeyboardInterrupt:
        pass
print("rounds", rounds > 1, interrupted > 1, flush=True)
faulthandler.cancel_dump_traceback_later()
with Parla(workers=WORKERS):
    again = spawn()(lambda: "again")
print(again.result(), flush=True)
os._exit(0)
""",
        n,
    )
    run.expect("ready")
    rng = random.Random(n)
    for _ in range(60):
        time.sleep(rng.uniform(0.005, 0.05))
        run.interrupt()
    time.sleep(0.3)
    run.release()
    run.expect("again", 20)
    done = run.finish(5)
    assert "rounds True True" in done.stdout
    assert done.returncode == 0


def test_no_signal_is_lost_in_a_spawn():
    """What its handler raises in the middle of a spawn leaves that spawn or comes right after it."""
    run = run_py(
        """
import _thread, functools, signal, sys
from parla import Parla, spawn

class Alarm(Exception):
    pass

def ring(*_):
    raise Alarm

ignored = []
sys.unraisablehook = ignored.append
signal.signal(signal.SIGALRM, ring)
with Parla(workers=1):
    spawner = spawn()
    def body():  # its first spawn finds out all about it
        pass
    # Without a moment between the two in which Python looks for signals.
    alarm = functools.partial(_thread.interrupt_main, signal.SIGALRM)
    steps = [alarm, functools.partial(spawner, body)]
    try:
        list(map(functools.partial.__call__, steps))
    except Alarm:
        print("heard", ignored)
"""
    )
    assert run.stdout == "heard []\n"
