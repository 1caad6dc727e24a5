"""The first program on a CPU and a GPU: four tasks in any order, then one on any GPU that waits for all of them.

Without a GPU, ask for simulated ones: ``PARLA_SIM_GPUS=1 python hello_gpu.py``.
"""

from parla import Parla
from parla.cpu import cpu
from parla.cuda import gpu
from parla.tasks import TaskSpace, spawn

with Parla:
    T = TaskSpace("Example Space")
    for i in range(4):
        @spawn(T[i], placement=cpu)
        def tasks_A():
            print(f"We run first on the CPU. I am task {i}", flush=True)
    @spawn(T[4], dependencies=[T[0:4]], placement=gpu)
    def task_B():
        print("I run second on any GPU", flush=True)
