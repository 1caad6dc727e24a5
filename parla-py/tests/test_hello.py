"""The first program a newcomer runs: the example of the README, as a script, in each of its spellings."""

from __future__ import annotations

import pytest
from support import WORKER_COUNTS, run_py

EXAMPLE = """
from parla import Parla
from parla.cpu import cpu
from parla.tasks import TaskSpace, spawn

with {runtime}:
    T = TaskSpace("Example Space")
    for i in range(4):
        @spawn(T[i], placement=cpu)
        def tasks_A():
            print(f"We run first on the CPU. I am task {{i}}", flush=True)
    @spawn(T[4], dependencies=[T[0:4]], placement=cpu)
    def task_B():
        print("I run second", flush=True)
"""

IN_A_FUNCTION = """
from parla import Parla, TaskSpace, spawn
from parla.cpu import cpu

def main():
    T = TaskSpace("Example Space")
    for i in range(4):
        @spawn(T[i], placement=cpu)
        def tasks_A():
            print(f"We run first on the CPU. I am task {i}", flush=True)
    @spawn(T[4], dependencies=[T[0:4]], placement=cpu)
    def task_B():
        print("I run second", flush=True)

if __name__ == "__main__":
    with Parla():
        main()
"""

MAIN_TASK = """
from parla import Parla, TaskSpace, spawn
from parla.cpu import cpu

def main():
    @spawn(placement=cpu)
    async def main_task():
        T = TaskSpace("T")
        for i in range(4):
            @spawn(T[i], placement=cpu)
            def tasks_A():
                print(f"We run first on the CPU. I am task {i}", flush=True)
        await T
        print("I run second", flush=True)

if __name__ == "__main__":
    with Parla():
        main()
"""


def check_output(stdout: str) -> None:
    lines = stdout.splitlines()
    assert sorted(lines[:4]) == [f"We run first on the CPU. I am task {i}" for i in range(4)]
    assert lines[4:] == ["I run second"]


@pytest.mark.parametrize("runtime", ["Parla", "Parla()"])
@pytest.mark.parametrize("n", WORKER_COUNTS)
def test_example_from_module_level(runtime, n):
    check_output(run_py(EXAMPLE.format(runtime=runtime), env={"PARLA_NUM_THREADS": str(n)}).stdout)


def test_example_with_the_default_number_of_workers():
    check_output(run_py(EXAMPLE.format(runtime="Parla")).stdout)


@pytest.mark.parametrize("program", [IN_A_FUNCTION, MAIN_TASK], ids=["in_a_function", "in_a_task"])
@pytest.mark.parametrize("n", [1, 2])
def test_example_elsewhere(program, n):
    check_output(run_py(program, env={"PARLA_NUM_THREADS": str(n)}).stdout)


def test_a_program_without_tasks():
    assert run_py("from parla import Parla\nwith Parla():\n    pass\nprint('end')").stdout == "end\n"


@pytest.mark.parametrize("module", ["parla", "parla.tasks"])
def test_names_are_importable_where_programs_look_for_them(module):
    names = "spawn, TaskSpace, tasks, CompletedTaskSpace, AtomicTaskSpace, finish, get_current_task"
    run_py(f"from {module} import {names}")


def test_sleeps_are_importable_and_take_microseconds():
    run_py("""
        import time
        from parla import sleep_gil, sleep_nogil
        for sleep in (sleep_gil, sleep_nogil):
            start = time.perf_counter()
            sleep(20_000)
            assert 0.02 <= time.perf_counter() - start < 2.0
    """)
