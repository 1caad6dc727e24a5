"""The end of the process: normal, early, by `sys.exit` or `os._exit`, with running tasks, and after a fork."""

from __future__ import annotations

import pytest
from support import run_py


@pytest.mark.parametrize("status", [0, 3])
@pytest.mark.parametrize("n", [1, 2, 8])
def test_sys_exit_in_the_block_keeps_its_status(status, n):
    done = run_py(
        f"""
        import sys
        from parla import Parla, spawn
        with Parla(workers={n}):
            spawn()(lambda: print("ran", flush=True)).wait()
            sys.exit({status})
        """,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "ran\n", "")


def test_sys_exit_in_a_task_keeps_its_status():
    done = run_py(
        """
        import sys
        from parla import Parla, spawn
        with Parla(workers=2):
            spawn()(lambda: sys.exit(5))
        """,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (5, "", "")


@pytest.mark.parametrize("where", ["block", "task"])
def test_os_exit_keeps_its_status(where):
    leave = "os._exit(7)" if where == "block" else "spawn()(lambda: os._exit(7))"
    done = run_py(
        f"""
        import os
        from parla import Parla, spawn
        with Parla(workers=2):
            {leave}
        """,
        check=False,
    )
    assert done.returncode == 7


def test_an_uncaught_error_ends_the_program_with_status_1_and_the_users_lines():
    done = run_py(
        """
        from parla import Parla, spawn
        with Parla(workers=2):
            @spawn(name="culprit")
            def body():
                raise RuntimeError("seen by the user")
        """,
        check=False,
    )
    assert done.returncode == 1
    assert "RuntimeError: seen by the user" in done.stderr
    assert 'raise RuntimeError("seen by the user")' in done.stderr
    assert "culprit" in done.stderr
    assert "prog.py:4" in done.stderr
    assert "panicked" not in done.stderr


@pytest.mark.parametrize("n", [1, 2, 8])
def test_the_interpreter_ends_though_the_block_never_does(n):
    """Without `__exit__` the process must end as well, whatever its tasks are doing."""
    done = run_py(
        f"""
        import threading
        from parla import Parla, TaskSpace, spawn
        started = threading.Event()
        rt = Parla(workers={n})
        rt.__enter__()
        T = TaskSpace("T")
        never = threading.Event()

        @spawn(T[0])
        def stuck():
            started.set()
            while not never.wait(0.01):
                pass

        @spawn(T[1], [T["missing"]])
        def waiting():
            pass

        started.wait(10)
        print("end of the script", flush=True)
        """,
        check=False,
    )
    assert done.stdout == "end of the script\n"
    assert done.returncode in (0, 1)
    assert "Fatal" not in done.stderr
    assert "panicked" not in done.stderr


def test_a_daemon_thread_holds_a_runtime_at_the_end():
    done = run_py(
        """
        import threading
        from parla import Parla, spawn
        opened, never = threading.Event(), threading.Event()

        def run():
            with Parla(workers=2):
                @spawn()
                def stuck():
                    opened.set()
                    never.wait()

        threading.Thread(target=run, daemon=True).start()
        opened.wait(10)
        print("end", flush=True)
        """,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "end\n")
    assert "panicked" not in done.stderr


def test_objects_kept_until_the_end_of_the_interpreter():
    """Tasks, spaces and a runtime in module globals are torn down with the interpreter."""
    run_py("""
        from parla import Parla, TaskSpace, spawn, tasks
        T = TaskSpace("T")
        with Parla(workers=2) as rt:
            for i in range(100):
                spawn(T[i], [T[i - 1]])(lambda: [i] * 100)
        everything = [T, rt, tasks(T), T[0], T[0].task]
        everything.append(everything)
        class Last:
            def __del__(self):
                len(T), repr(everything[1])
        last = Last()
    """)


def test_fork_after_a_runtime():
    """The child can start its own runtime and leaves its parent alone."""
    assert run_py("""
        import os
        from parla import Parla, spawn
        with Parla(workers=2):
            assert spawn()(lambda: 1).result() == 1
        pid = os.fork()
        if pid == 0:
            with Parla(workers=2):
                assert spawn()(lambda: 2).result() == 2
            os._exit(11)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 11
        with Parla(workers=2):
            print(spawn()(lambda: 3).result())
    """).stdout == "3\n"


@pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit(0)"])
def test_fork_inside_a_runtime(leave):
    """The child has no workers: using them is an error with a message, and it ends without a hang."""
    source = f"""
        import os, sys
        from parla import Parla, ParlaError, spawn
        with Parla(workers=2):
            before = spawn()(lambda: 1)
            assert before.result() == 1
            pid = os.fork()
            if pid == 0:
                assert before.result() == 1
                try:
                    spawn()(lambda: 2).result(5)
                except (ParlaError, RuntimeError) as e:
                    os.write(1, str(e).encode() + b"\\n")
                else:
                    os.write(1, b"a task ran without workers\\n")
                {leave}
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            after = spawn()(lambda: 3)
        print("parent", status, after.result(), flush=True)
    """
    lines = run_py(source).stdout.splitlines()
    assert "fork" in lines[0]
    assert lines[-1] == "parent 0 3"


@pytest.mark.parametrize("n", [2, 4])
def test_forks_while_the_workers_are_busy(n):
    """Whatever the workers did at that moment, the child can run tasks of its own; a hundred times."""
    assert run_py(f"""
        import os, signal, time
        from parla import Parla, TaskSpace, spawn

        def in_the_child():
            signal.alarm(10)  # ends a child that hangs
            with Parla(workers=2):
                U = TaskSpace("U")
                for i in range(50):
                    spawn(U[i], [U[i - 1]])(lambda: i)
            os._exit(9)

        statuses = []
        for _ in range(100):
            with Parla(workers={n}):
                T = TaskSpace("T")
                for i in range(200):
                    @spawn(T[i], [T[i - 1]] if i % 4 else [])
                    async def body():
                        await spawn()(lambda: i)
                pid = os.fork()
                if pid == 0:
                    in_the_child()
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        print(set(statuses))
    """, timeout=40).stdout == "{9}\n"


def test_a_child_process_made_by_a_task():
    assert run_py("""
        import subprocess, sys
        from parla import Parla, spawn
        with Parla(workers=2):
            made = [spawn()(lambda: subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True).stdout)
                    for _ in range(4)]
        print(sum(int(t.result()) for t in made))
    """).stdout == "4\n"


def test_multiprocessing_inside_a_task():
    assert run_py("""
        import multiprocessing
        from parla import Parla, spawn
        def square(x):
            return x * x
        if __name__ == "__main__":
            with Parla(workers=2):
                @spawn()
                def body():
                    with multiprocessing.get_context("spawn").Pool(2) as pool:
                        return sum(pool.map(square, range(5)))
            print(body.result())
    """).stdout == "30\n"
