"""Random programs of everything at once: right results or an error, in time, and nothing left.

`RANDOM_PROGRAMS=first:count` runs other seeds than the few that run by default (of each kind).
"""

from __future__ import annotations

import os
import random
import threading

import pytest
from cuda_driver import ROOT, run
from machine import configured
from support import LIMIT, leaves

numpy = pytest.importorskip("numpy")

from parla import Parla, TaskSpace, asarray, spawn, tasks  # noqa: E402 - NumPy may be absent
from parla.context import get_current_context  # noqa: E402
from parla.devices import cpu, gpu  # noqa: E402
from parla.errors import DeadlockError, DeviceOutOfMemory, ParlaError  # noqa: E402
from parla.tasks import reserve_persistent_memory  # noqa: E402
from random_programs import Fails, Program, Running  # noqa: E402
from trace_checker import check_trace  # noqa: E402

CHOSEN = os.environ.get("RANDOM_PROGRAMS")
FIRST, COUNT = map(int, CHOSEN.split(":")) if CHOSEN else (0, 8)
KINDS = {
    "well": {},
    "bodies fail": {"bodies_fail": True},
    "devices fail": {"devices_fail": True},
    "both fail": {"bodies_fail": True, "devices_fail": True},
}


def disturb(rng, rt, running):
    """What the program does beside its tasks."""
    p = rng.choice(running.arrays)
    spawned = [node.task for node in running.program.nodes if node.task is not None]
    acts = [
        p.evict_all,
        lambda: p.evict(rng.choice(gpu.devices)),
        lambda: p.sum(),
        lambda: [rt.why(task) for task in spawned[-3:]],
        lambda: [task.wait() for task in spawned] and p.array,
    ]
    try:
        rng.choice(acts)()
    except ParlaError:
        if not running.program.may_fail:
            raise


def play(rt, program, running):
    """Spawns it, and cancels, reads and evicts in between."""
    rng = random.Random(program.seed + 1)
    held = reserve_persistent_memory(program.capacity // 8, gpu(0)) if program.reserves else None
    for i, node in enumerate(program.nodes):
        running.spawn(node)
        for doomed in program.nodes[: i + 1]:
            if doomed.cancelled_at == i:
                doomed.task.cancel()
        if program.disturbs and rng.random() < 0.15:
            disturb(rng, rt, running)
    if held is not None and rng.random() < 0.5:
        held.release()


def run_program(program):
    """Runs it and checks what came of it."""
    buffers = [a.copy() for a in program.initial]
    running = Running(program, [asarray(b, name=f"A{i}") for i, b in enumerate(buffers)], TaskSpace("T"))
    expected = (Fails, ParlaError) if program.bodies_fail else (ParlaError,)
    try:
        with Parla(**program.runtime) as rt:
            play(rt, program, running)
    except BaseException as error:
        if not program.may_fail:
            raise
        for leaf in leaves(error):
            assert isinstance(leaf, expected) and not isinstance(leaf, DeadlockError), repr(leaf)
    for node in program.all:
        assert node.task is None or node.task.done()
        assert node.task is None or isinstance(node.task.exception(), (*expected, type(None)))
    wanted, doubtful = [a.copy() for a in program.initial], [numpy.zeros(a.shape, bool) for a in buffers]
    program.expect(wanted, doubtful)
    if program.may_fail:
        check_elements(program, running.arrays, wanted, doubtful)
    else:
        assert all((b == w).all() for b, w in zip(buffers, wanted, strict=True))
    stats = rt.stats()
    assert not any(memory["used"] for memory in stats["memories"][1:]), stats
    if program.runtime["trace"] and not program.cuda:  # on CUDA tasks run ahead of what they depend on
        assert not check_trace(rt.trace)


def check_elements(program, arrays, wanted, doubtful):
    """What can be read is right; what can't is what failed tasks were to write, or a device has lost."""
    for p, right, doubts in zip(arrays, wanted, doubtful, strict=True):
        for index in numpy.ndindex(right.shape):
            try:
                value = int(p[index])
            except ParlaError:
                assert doubts[index] or program.devices_fail, f"{p.name}{index} is lost though all went well"
            else:
                assert doubts[index] or value == right[index], f"{p.name}{index}"


@pytest.mark.moves_more("little memory, evictions in between, waits: what was copied ahead is given up again, and copies home are begun that prove needless")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(0 if CHOSEN else 60)
@pytest.mark.usefixtures("works_afterwards")
def test_random_programs(kind, dump_if_stuck):
    for seed in range(FIRST, FIRST + COUNT):
        program = Program(seed, **KINDS[kind])
        with dump_if_stuck(f"{kind}: seed {seed}"), configured(**program.environment()):
            run_program(program)


def test_random_programs_on_the_driver_of_our_own(driver):
    """CUDA's own ways: streams, copies that are still under way, tasks that run ahead."""
    for seed in range(FIRST, FIRST + COUNT // 3):
        program = f"""
import sys
sys.path.insert(0, {str(ROOT / "parla-py/tests")!r})
from test_random_programs import Program, run_program
run_program(Program({seed}, cuda=True))
"""
        env = Program(seed, cuda=True).environment()
        run(driver, program, FAKE_CUDA_DEVICES="2", FAKE_CUDA_DELAY_US="50", **env)


# Who waits gives back what others wait for, and takes it again in the same order as all: nobody waits in a circle.

BYTES = 8000


class Crosswise:
    """Tasks that want most of the memories of two GPUs, in data or claims, and wait for others that want the same; each adds 1 to its arrays."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.n_gpus = self.rng.choice([2, 3])
        self.buffers = [numpy.zeros(BYTES // 16, "i8") for _ in range(4)]
        self.arrays = [asarray(b) for b in self.buffers]
        self.counts = [0] * 4

    def task(self, depth):
        """A function that spawns one, after its children are known."""
        rng = self.rng
        kind = rng.choice(["data", "claim", "both", "pair"])
        used = {"data": 2, "claim": 0, "both": 1, "pair": 2}[kind]
        used = rng.sample(range(4), used)
        here, there = rng.sample(range(self.n_gpus), 2)
        place = [(gpu(here), gpu(there))] if kind == "pair" else gpu(here)
        claim = {"data": 0, "claim": rng.choice([BYTES, BYTES // 2]), "both": BYTES // 2, "pair": BYTES // 2}[kind]
        operands = [(self.arrays[a], slot if kind == "pair" else 0) for slot, a in enumerate(used)]
        children = [self.task(depth - 1) for _ in range(rng.randrange(1, 4))] if depth and rng.random() < 0.7 else []
        before, vcus = rng.random() < 0.5, rng.choice([None, None, 0.3])
        for a in used:
            self.counts[a] += 1

        def change():
            for p, slot in operands:
                with get_current_context()[slot]:
                    p.array[...] += 1

        def plain():
            if before:
                change()
            for child in [child() for child in children]:
                child.result()
            if not before:
                change()

        async def coroutine():
            if before:
                change()
            await tasks([child() for child in children])
            if not before:
                change()

        body = rng.choice([plain, coroutine])
        return lambda: spawn(placement=place, memory=claim, vcus=vcus, inout=operands)(body)


@pytest.mark.timeout(0 if CHOSEN else 60)
@pytest.mark.usefixtures("works_afterwards")
def test_tasks_that_want_each_other_s_memory_do_not_wait_in_a_circle(dump_if_stuck):
    for seed in range(FIRST, FIRST + COUNT):
        program = Crosswise(seed)
        rng = program.rng
        with dump_if_stuck(f"crosswise: seed {seed}"), configured(PARLA_SIM_GPUS=str(program.n_gpus), PARLA_SIM_GPU_MEM=str(BYTES)):
            with Parla(workers=rng.choice([1, 2, 4]), policy=rng.choice(["eager", "locality", "random"]), depth=rng.choice([1, 2, 3])):
                for start in [program.task(3) for _ in range(rng.randrange(2, 10))]:
                    start()
        assert [b.tolist() for b in program.buffers] == [[n] * len(b) for n, b in zip(program.counts, program.buffers, strict=True)]


def test_bodies_that_take_memory_themselves_do_not_wait_for_each_other():
    """Each holds all of its GPU's memory and asks for some of the other's: an error, after a while, not a hang."""
    with configured(PARLA_SIM_GPUS="2", PARLA_SIM_GPU_MEM="8000"), Parla(workers=2):
        arrays, made, both = [asarray(numpy.zeros(1000)) for _ in range(2)], [], threading.Barrier(2)
        for k in range(2):

            @spawn(placement=gpu(k), inout=[arrays[k]])
            def body():
                both.wait(LIMIT)
                gpu(1 - k).memory()(numpy.zeros(1000))

            made.append(body)
        errors = [task.exception() for task in made]
    assert all(error is None or isinstance(error, DeviceOutOfMemory) for error in errors)
    assert any(errors)


def test_what_nobody_can_end_is_a_deadlock_not_a_hang(workers):
    """All memories are wanted by tasks that wait for what is never spawned, and by others behind them."""
    arrays, missing, ran = [asarray(numpy.zeros(1000)) for _ in range(3)], TaskSpace("missing"), []
    with configured(PARLA_SIM_GPUS="2", PARLA_SIM_GPU_MEM="8000"):
        with pytest.raises(BaseException) as caught, Parla(workers=workers):
            for k in range(6):
                places = [(gpu(k % 2), gpu(1 - k % 2))] if k % 3 == 0 else gpu(k % 2)

                @spawn(placement=places, inout=[arrays[k % 3]])
                async def body():
                    if k < 3:
                        await missing[0]
                    ran.append(k)

            @spawn(placement=cpu, inout=[arrays[0]])
            def blocking():
                spawn(missing[1], [missing[0]])(int).wait()

    (deadlock,) = (error for error in leaves(caught.value) if isinstance(error, DeadlockError))
    assert "missing_0, which was never spawned" in str(deadlock)
    assert sorted(ran) == [3, 4, 5]
