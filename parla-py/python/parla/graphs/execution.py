"""Runs task graphs with Parla: bodies that take the time they should, on real data."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from parla.graphs.model import ANY_GPU, ANYWHERE, CPU, Graph, GraphError, GraphTask, Target, TaskKey, Work
from parla.graphs.trace import TaskRun, Trace

if TYPE_CHECKING:
    from parla.graphs.movement import Movement

__all__ = ["MODES", "run"]

MODES = ("manual", "auto", "policy")


def run(
    graph: Graph,
    mode: str = "auto",
    *,
    width: int = 1,
    time_scale: float = 1.0,
    thorough: bool = False,
    workers: int | None = None,
    **options: Any,
) -> Trace:
    """Run a graph in a runtime of its own, and say what happened.

    Args:
        graph: what to run.
        mode: who moves data and who chooses devices. "manual": bodies copy what they need before they compute, to the devices that
            the graph names; "auto": the runtime copies (the data are PArrays, operands of the tasks), to the devices that the graph
            names; "policy": the runtime copies and the policy chooses among all GPUs where the graph names one.
        width: each element of a data block is a row of so many float32.
        time_scale: multiplies the times of all tasks.
        thorough: write and check every element of the data rather than a few of each block; takes time of the CPU.
        workers: worker threads.
        options: passed to `Parla`, such as ``policy="eager"``.

    Raises:
        GraphError: the graph makes no sense.
        PlacementError: there is no device that it asks for.
        ValueError: an argument is out of its range.
    """
    import parla
    from parla.devices import gpu
    from parla.graphs.movement import by_hand, by_runtime

    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(MODES)}")
    if width < 1:
        raise ValueError(f"width={width}: expected 1 or more")
    if not 0 <= time_scale < 1e9:
        raise ValueError(f"time_scale={time_scale}: expected 0 or more")
    graph.check()
    movement = (by_hand if mode == "manual" else by_runtime)(graph, width, thorough)
    trace = Trace(mode, 0.0, time_scale, runs_ahead=any(not gpu.host_access(i) for i in range(len(gpu))))
    with parla.Parla(workers=workers, **options) as runtime:
        _settle(graph, movement)
        if trace.runs_ahead:
            _load_kernels()
        start = perf_counter()
        last = _spawn_all(graph, movement, trace, start)
        trace.seconds = last.result() - start
        movement.finish()
    trace.stats = runtime.stats()
    trace.final = movement.final()
    return trace


def _settle(graph: Graph, movement: Movement) -> None:
    """Bring the data to where it is at first."""
    from parla import spawn
    from parla.devices import gpu

    moves = []
    for block, data in enumerate(graph.data):
        if data.location != CPU:

            @spawn(placement=gpu(data.location - 1), vcus=0, **movement.operands((), (), (block,)))
            def move():
                movement.enter((block,), (block,))

            moves.append(move)
    for move in moves:
        move.result()


def _load_kernels() -> None:
    """Run the kernel of `sim.kernel` once on each GPU: the driver translates and loads it the first time, and may wait for other kernels then."""
    from parla import sim, spawn
    from parla.devices import gpu

    for loaded in [spawn(placement=device)(lambda: sim.kernel(0)) for device in gpu.devices]:
        loaded.result()


def _spawn_all(graph: Graph, movement: Movement, trace: Trace, start: float) -> Any:
    """Spawn every task, and one whose result is the time at which all are done."""
    from parla import TaskSpace, spawn
    from parla.cpu import cpu

    spaces = {space: TaskSpace(space) for space in {task.key.space for task in graph}}

    def handle(key: TaskKey) -> Any:
        return spaces[key.space][key.index if len(key.index) > 1 else key.index[0]]

    has_dependents = {before for before, _ in graph.edges()}
    for number, task in enumerate(graph, start=1):
        body = _body(task, number, movement, trace, start)
        spawn(
            handle(task.key),
            [handle(key) for key in task.dependencies],
            placement=_placement(task, trace.mode),
            **movement.operands(task.reads, task.writes, task.readwrites),
        )(body)

    @spawn(dependencies=[handle(key) for key in graph.tasks if key not in has_dependents], placement=cpu)
    def end():
        return perf_counter()

    return end


def _body(task: GraphTask, number: int, movement: Movement, trace: Trace, start: float) -> Callable[[], None]:
    inputs, outputs, uses = task.inputs, task.outputs, task.data
    costs = {target: _kernel(work, trace.time_scale) for target, work in task.work.items()}

    def body() -> None:
        began = perf_counter() - start
        target = _here()
        seen: dict[int, int] = {}
        views = movement.enter(inputs, outputs) if uses else {}
        kernel = costs[_wanted(costs, target)]

        def stamps() -> None:
            for block in inputs:
                seen[block] = movement.stamp_of(views[block])
            for block in outputs:
                movement.put_stamp(views[block], number)

        # The modelled kernel touches no data. Checking is no part of the task: where the CPU sees the data it does so while the GPU is busy. A real
        # GPU copies them, which must not wait for the kernel.
        if trace.runs_ahead:
            stamps()
            kernel(target)
        else:
            kernel(target)
            stamps()
        trace.runs[task.key] = TaskRun(target, began, perf_counter() - start, seen)

    body.__name__ = str(task.key)
    return body


def _here() -> Target:
    """Where the running task is."""
    from parla import get_current_devices

    return tuple(CPU if device.architecture.name == "cpu" else device.index + 1 for device in get_current_devices())


def _wanted(costs: dict[Target, Any], target: Target) -> Target:
    """The target in the graph that the devices belong to, the most special one first."""
    if target in costs:
        return target
    for wanted in sorted(costs, reverse=True):
        if len(wanted) == len(target) and all(w == ANYWHERE or (w == CPU) == (t == CPU) for w, t in zip(wanted, target, strict=True)):
            return wanted
    raise GraphError(f"the task has no cost for {target}")


def _kernel(work: Work, scale: float) -> Callable[[Target], None]:
    """What takes the time of a task: a busy wait on the CPU, a kernel that computes nothing on a GPU; the GIL is taken by the host in both."""
    from parla import sleep_gil, sleep_nogil

    n = max(work.gil_accesses, 1)
    free_us, gil_us = work.free_us * scale / n, work.gil_us * scale

    def on_cpu() -> None:
        for _ in range(n):
            sleep_nogil(free_us)
            if gil_us:
                sleep_gil(gil_us)

    def on_gpus(n_devices: int) -> None:
        from parla import sim
        from parla.context import get_current_context

        for _ in range(n):
            if n_devices == 1:
                sim.kernel(free_us)
            else:
                for _device in get_current_context().loop():
                    sim.kernel(free_us)
            if gil_us:
                sleep_gil(gil_us)

    def kernel(target: Target) -> None:
        n_gpus = sum(location != CPU for location in target)
        if n_gpus:
            on_gpus(len(target))
        else:
            on_cpu()

    return kernel


def _placement(task: GraphTask, mode: str) -> list[Any]:
    """What the task's targets are in Parla's words, with what it claims there."""
    from parla.devices import cpu, gpu

    options: list[Any] = []

    def one(location: int, work: Work) -> list[Any]:
        needs: dict[str, float] = {"vcus": work.vcus}
        if work.memory:
            needs["memory"] = work.memory
        if location == CPU:
            return [cpu[needs]]
        if location == ANYWHERE:
            return [cpu[needs]] + ([gpu[needs]] if len(gpu) else [])
        if location == ANY_GPU or mode == "policy":
            return [gpu[needs]]
        return [gpu(location - 1)[needs]]

    for target, work in task.work.items():
        if len(target) == 1:
            options += one(target[0], work)
        elif ANYWHERE in target:
            raise GraphError(f"{task.key}: 'anywhere' can't be one of several devices")
        else:
            options.append(tuple(one(location, work)[0] for location in target))
    return options
