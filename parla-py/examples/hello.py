"""The first program: four tasks in any order, then one that waits for all of them."""

from parla import Parla
from parla.cpu import cpu
from parla.tasks import TaskSpace, spawn

with Parla:
    T = TaskSpace("Example Space")
    for i in range(4):
        @spawn(T[i], placement=cpu)
        def tasks_A():
            print(f"We run first on the CPU. I am task {i}", flush=True)
    @spawn(T[4], dependencies=[T[0:4]], placement=cpu)
    def task_B():
        print("I run second", flush=True)
