"""Task graphs: both formats of files, the shapes, runs, and a checker that notices what is wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

import pytest

pytest.importorskip("numpy", reason="the data of graphs are arrays")

import parla
from parla import _native, graphs
from parla.graphs import ANY_GPU, ANYWHERE, CPU, DataBlock, Graph, GraphError, GraphTask, TaskKey, Work

SHORT = {(CPU,): Work(200, 0.25)}

OLD = """\
6250, 100
0 | 1000, 1, 0, 1, 0 | | 0 : : 1
1 | 500.5, 4, 3, 2, 50 | 0 | : 0 :
2, 1 | 7, 0, 2, 0, 0 | 0 : 1   # the last part may be missing

3 | 1, 1, 1, 0, 0
"""

NEW = """\
{6250 : -1}, {100 : 2}
0 | {-1 : 1000, 0.25, 1, 0, 0} | | 0 : : 1
1, 2 | {0 : 500.5, 1, 2, .5, 1024}, {-1 : 9, .5, 0, 0, 0} | 0 | : 0 :
('S', 3) | {(1, 2) : 7, 1, 0, 0, 0} | ('T', 0) : ('T', (1, 2)) | 0, 1 : :
('S', (4,)) | {-2 : 1, 0, 0, 0, 0} | 3
"""


def test_reads_files_of_version_02(tmp_path):
    path = tmp_path / "old.gph"
    path.write_text(OLD)
    graph = graphs.read(path)
    assert graph.data == [DataBlock(6250), DataBlock(100)]
    first, second, third, fourth = graph
    assert first == GraphTask(TaskKey((0,)), {(CPU,): Work(1000, 1, 1)}, reads=(0,), readwrites=(1,))
    assert second.work == {(1,): Work(600.5, 0.25, 2, 100 / 600.5)}  # 3 is GPU 0
    assert (second.work[(1,)].free_us, second.work[(1,)].gil_us) == (pytest.approx(500.5), pytest.approx(50))
    assert (second.dependencies, second.reads, second.writes) == ((TaskKey((0,)),), (), (0,))
    assert third.key == TaskKey((2, 1))
    assert third.work == {(ANYWHERE,): Work(7, 0)}
    assert third.dependencies == (TaskKey((0,)), TaskKey((1,)))
    assert fourth.work == {(ANY_GPU,): Work(1)}


def test_reads_files_of_version_03(tmp_path):
    path = tmp_path / "new.gph"
    path.write_text(NEW)
    graph = graphs.read(path)
    assert graph.data == [DataBlock(6250, CPU), DataBlock(100, 2)]
    first, second, third, fourth = graph
    assert first.work == {(CPU,): Work(1000, 0.25, 1)}
    assert second.work == {(ANY_GPU,): Work(500.5, 1, 2, 0.5, 1024), (CPU,): Work(9, 0.5)}
    assert second.dependencies == (first.key,)
    assert third.key == TaskKey((3,), "S")
    assert third.work == {(1, 2): Work(7)}
    assert third.dependencies == (TaskKey((0,)), TaskKey((1, 2)))
    assert third.reads == (0, 1)
    # An index alone means the space of the line's own task.
    assert fourth.dependencies == (third.key,)
    assert fourth.work == {(ANYWHERE,): Work(1, 0)}


@pytest.mark.parametrize(("text", "version"), [(OLD, "0.2"), (NEW, "0.3"), (OLD, "0.3")])
def test_round_trips(tmp_path, text, version):
    graph = graphs.loads(text)
    graphs.write(graph, tmp_path / "again.gph", version)
    again = graphs.read(tmp_path / "again.gph")
    assert again.data == graph.data
    assert list(again.tasks) == list(graph.tasks)
    for task in graph:
        other = again.tasks[task.key]
        assert replace(other, work=task.work) == task
        for target, work in task.work.items():
            found = other.work[target]
            assert found.time_us == pytest.approx(work.time_us)
            assert found.gil_fraction == pytest.approx(work.gil_fraction)
            assert (found.vcus, found.gil_accesses, found.memory) == (work.vcus, work.gil_accesses, work.memory)


@pytest.mark.parametrize("version", ["0.2", "0.3"])
@pytest.mark.parametrize("seed", range(20))
def test_random_graphs_round_trip(seed, version):
    work = Work(1000 + seed, float(Fraction(1, seed + 1)) if seed in (0, 1, 3, 7) else 0.5, 2, 0.25)
    graph = graphs.random(40, work, seed=seed, size=seed % 3 * 10, n_gpus=seed % 4 or None)
    again = graphs.loads(graphs.dumps(graph, version))
    assert again.tasks == graph.tasks
    assert again.data == graph.data


def test_a_graph_without_data():
    graph = graphs.independent(2, Work(1))
    assert graph.data == []
    assert graphs.loads(graphs.dumps(graph)).data == []
    assert graphs.loads(graphs.dumps(graph, "0.2")).data == []
    # The earlier version wrote one element nobody uses.
    assert graphs.loads("{1 : -1}\n0 | {0 : 1, 1, 0, 0, 0} | |").data == [DataBlock(1)]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", None, "empty"),
        ("{1 : -1}\n0", 2, "expected 'id | cost | dependencies | data', got 1 part$"),
        ("{1 : -1}\n0 | {0 : 1, 1, 0, 0, 0} | | | |", 2, "got 6 parts"),
        ("{1 : -1}\n | {0 : 1, 1, 0, 0, 0}", 2, "without a name"),
        ("{1 : -1}\n\nx | {0 : 1, 1, 0, 0, 0}", 3, "'x' is not a task's name"),
        ("{1 : -1}\n-1 | {0 : 1, 1, 0, 0, 0}", 2, "'-1' is not a task's name"),
        ("{1 : -1}\n('a b', 1) | {0 : 1, 1, 0, 0, 0}", 2, "'a b' can't name"),
        ("{1 : -1}\n__import__('os') | {0 : 1, 1, 0, 0, 0}", 2, "is not a task's name"),
        ("{1 : -1}\n0 | {0 : 1, 1, 0, 0}", 2, "cost: expected"),
        ("{1 : -1}\n0 | {0 : 1, 1, 0, 0, 0", 2, "expected '{targets"),
        ("{1 : -1}\n0 | {0 : abc, 1, 0, 0, 0}", 2, "us: expected a number, got 'abc'"),
        ("{1 : -1}\n0 | {0 : -5, 1, 0, 0, 0}", 2, "a time of -5.0 us"),
        ("{1 : -1}\n0 | {0 : nan, 1, 0, 0, 0}", 2, "a time of nan us"),
        ("{1 : -1}\n0 | {0 : 1, 2, 0, 0, 0}", 2, "2.0 of a device"),
        ("{1 : -1}\n0 | {0 : 1, 1, -1, 0, 0}", 2, "-1 accesses"),
        ("{1 : -1}\n0 | {0 : 1, 1, 1, 1.5, 0}", 2, "1.5 of the time"),
        ("{1 : -1}\n0 | {0 : 1, 1, 0, 0, -1}", 2, "-1 bytes"),
        ("{1 : -1}\n0 | {-3 : 1, 1, 0, 0, 0}", 2, "no device has the number -3"),
        ("{1 : -1}\n0 | {() : 1, 1, 0, 0, 0}", 2, "empty list of devices"),
        ("{1 : -1}\n0 | {0 : 1, 1, 0, 0, 0}, {0 : 2, 1, 0, 0, 0}", 2, "twice"),
        ("{1 : -1}\n0 | {0 : 1, 1, 0, 0, 0}\n0 | {0 : 1, 1, 0, 0, 0}", 3, r"T\[0\] was on line 2 already"),
        ("{1 : -1}\n0 | {0 : 1, 1, 0, 0, 0}\n1 | {0 : 1, 1, 0, 0, 0} | 7", 3, r"T\[1\] depends on T\[7\]"),
        ("{1 : -1}\n0 | {0 : 1, 1, 0, 0, 0} | | 1", 2, "data block 1; there are 1"),
        ("{1 : -1}\n0 | {0 : 1, 1, 0, 0, 0} | | 0 : 0", 2, "data block 0 twice"),
        ("{1 : -1}\n0 | {0 : 1, 1, 0, 0, 0} | | 0 : : : 0", 2, "got 4 parts"),
        ("{1 : -1}\n0 | {0 : 1, 1, 0, 0, 0} | | x", 2, "expected an integer, got 'x'"),
        ("{1 : -1}\n0 | {0 : 1, 1, 0, 0, 0} | 0", None, r"in a circle, or on one: T\[0\]$"),
        ("{1 : -1}\n0 | {0 : 1, 1, 0, 0, 0} | 1\n1 | {0 : 1, 1, 0, 0, 0} | 0", None, r"T\[0\], T\[1\]$"),
        ("{1 : 0}\n", 1, "data at location 0"),
        ("{-1 : -1}\n", 1, "a block of -1 elements"),
        ("{1}\n", 1, "expected '{size : location}'"),
        ("{1 : -1} x\n", 1, "expected '{size : location}, ...'"),
        ("5, x\n", 1, "expected an integer, got 'x'"),
        ("5\n0 | 1, 1, 0, 0", 2, "expected 'us, 1/vcus, location, GIL accesses, GIL us', got 4 numbers"),
        ("5\n0 | 1, 0.5, 0, 0, 0", 2, "1/vcus: expected 1 or more"),
        ("5\n0 | 1, 1, -1, 0, 0", 2, "location: expected 0"),
        ("5\n0 | 1, 1, 0, 0, -2", 2, "negative"),
    ],
)
def test_malformed_lines_are_named(text, line, says):
    with pytest.raises(GraphError) as caught:
        graphs.loads(text, "some.gph")
    start = "some.gph: " if line is None else f"some.gph:{line}: "
    assert str(caught.value).startswith(start)
    assert re.search(says, str(caught.value))


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "a.gph").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GraphError, match="not a text file"):
        graphs.read(tmp_path / "a.gph")
    with pytest.raises(FileNotFoundError):
        graphs.read(tmp_path / "absent.gph")


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (Graph.of([GraphTask(TaskKey((0,), "S"), SHORT)]), "no names for spaces"),
        (Graph.of([GraphTask(TaskKey((0,)), {(1, 2): Work(1)})]), "one target"),
        (Graph.of([GraphTask(TaskKey((0,)), {(CPU,): Work(1), (ANY_GPU,): Work(2)})]), "one target"),
        (Graph.of([GraphTask(TaskKey((0,)), {(CPU,): Work(1, memory=5)})]), "memory"),
        (Graph.of([], [DataBlock(1, 1)]), "not on the CPU"),
    ],
)
def test_what_version_02_cannot_say(graph, says):
    assert graphs.loads(graphs.dumps(graph)).tasks == graph.tasks
    with pytest.raises(GraphError, match=says):
        graphs.dumps(graph, "0.2")


def test_unknown_version():
    with pytest.raises(ValueError, match="0.2, 0.3"):
        graphs.dumps(Graph(), "1")


ALL_SHAPES = {
    "independent": lambda **how: graphs.independent(7, SHORT, **how),
    "serial": lambda **how: graphs.serial(5, SHORT, chains=2, dependencies=3, **how),
    "own_data": lambda **how: graphs.serial(6, SHORT, own_data=True, **how),
    "reduction": lambda **how: graphs.reduction(3, 2, SHORT, **how),
    "reduction_scatter": lambda **how: graphs.reduction_scatter(4, 3, SHORT, **how),
    "stencil": lambda **how: graphs.stencil(4, 4, SHORT, **how),
    "tree": lambda **how: graphs.tree(2, 3, SHORT, **how),
    "random": lambda **how: graphs.random(20, SHORT, seed=3, **how),
}


@pytest.mark.parametrize(
    ("shape", "n_tasks", "n_edges", "n_blocks"),
    [
        ("independent", 7, 0, 7),
        ("serial", 10, 2 * (1 + 2 + 3 + 3), 2),
        ("own_data", 6, 5, 6),
        ("reduction", 15, 14, 8),
        ("reduction_scatter", 15, 3 * 4 + 2 * 4, 4),
        ("stencil", 16, 3 * (4 * 3 - 2), 8),
        ("tree", 13, 12, 13),
    ],
)
def test_counts_of_the_shapes(shape, n_tasks, n_edges, n_blocks):
    graph = ALL_SHAPES[shape](size=5)
    assert (len(graph), len(list(graph.edges())), len(graph.data)) == (n_tasks, n_edges, n_blocks)
    assert ALL_SHAPES[shape]().data == []


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_no_shape_leaves_the_order_of_accesses_open(shape):
    assert graphs.races(ALL_SHAPES[shape](size=5)) == []


def test_edges_of_a_reduction():
    graph = graphs.reduction(2, 3, SHORT, size=1)
    root = graph.tasks[TaskKey((2, 0))]
    assert root.dependencies == (TaskKey((1, 0)), TaskKey((1, 1)), TaskKey((1, 2)))
    assert (root.reads, root.readwrites) == ((3, 6), (0,))
    assert graph.tasks[TaskKey((1, 1))].reads == (4, 5)
    assert graph.tasks[TaskKey((0, 4))].readwrites == (4,)


def test_edges_of_a_stencil():
    graph = graphs.stencil(4, 3, SHORT, periodic=True, size=1)
    assert set(graph.tasks[TaskKey((2, 0))].dependencies) == {TaskKey((1, 3)), TaskKey((1, 0)), TaskKey((1, 1))}
    assert set(graph.tasks[TaskKey((1, 0))].reads) == {7, 4, 5}
    assert graph.tasks[TaskKey((1, 0))].writes == (0,)


def test_placement_by_hand():
    def gpus(graph):
        return [next(iter(task.work))[0] for task in graph]

    assert gpus(graphs.independent(5, Work(1), n_gpus=2)) == [1, 2, 1, 2, 1]
    assert gpus(graphs.serial(4, Work(1), n_gpus=3)) == [1, 2, 3, 1]
    assert gpus(graphs.reduction(2, 2, Work(1), n_gpus=2)) == [1, 1, 2, 2, 1, 2, 1]
    assert gpus(graphs.independent(2, Work(1))) == [ANY_GPU] * 2
    with pytest.raises(GraphError, match="cost of a task on any GPU"):
        graphs.independent(2, SHORT, n_gpus=2)


def test_random_graphs_depend_on_their_seed_only():
    one, same, other = (graphs.random(50, SHORT, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    "make",
    [
        lambda: graphs.independent(0, SHORT),
        lambda: graphs.serial(1, SHORT, chains=0),
        lambda: graphs.reduction(-1, 2, SHORT),
        lambda: graphs.stencil(0, 1, SHORT),
        lambda: graphs.independent(1, Work(1), n_gpus=0),
    ],
)
def test_sizes_that_make_no_sense(make):
    with pytest.raises(GraphError, match="expected [01] or more"):
        make()


@pytest.mark.parametrize("mode", graphs.MODES)
@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_runs_on_the_cpu(shape, mode):
    graph = ALL_SHAPES[shape](size=3)
    trace = graphs.run(graph, mode, workers=3, width=2, thorough=True)
    assert graphs.verify(graph, trace) == []
    assert len(trace.runs) == len(graph)
    assert {run.target for run in trace.runs.values()} == {(CPU,)}
    assert trace.seconds > 0
    assert trace.stats["done"] == len(graph) + 1  # the one that looks at the clock


@pytest.fixture(params=[1, 2, 4], ids=lambda n: f"{n}gpus")
def n_gpus(request):
    """So many simulated GPUs, with slow links so that what is missing is noticed."""
    _native.configure_machine({"sim_gpus": request.param, "links": "latency=20us,bandwidth=100MB/s,peer=none"})
    yield request.param
    _native.configure_machine(None)


GPU_SHAPES = {
    "independent": lambda **how: graphs.independent(7, Work(300), **how),
    "serial": lambda **how: graphs.serial(6, Work(300, 1, 2, 0.1), chains=2, **how),
    "own_data": lambda **how: graphs.serial(6, Work(300), own_data=True, **how),
    "reduction": lambda **how: graphs.reduction(3, 2, Work(300, 0.5), **how),
    "reduction_scatter": lambda **how: graphs.reduction_scatter(4, 3, Work(300), **how),
    "stencil": lambda **how: graphs.stencil(4, 4, Work(300), **how),
    "tree": lambda **how: graphs.tree(2, 3, Work(300), **how),
    "random": lambda **how: graphs.random(20, Work(300), seed=3, **how),
}


@pytest.mark.parametrize("mode", graphs.MODES)
@pytest.mark.parametrize("shape", GPU_SHAPES)
def test_runs_on_simulated_gpus(n_gpus, shape, mode):
    graph = GPU_SHAPES[shape](size=50, n_gpus=n_gpus)
    trace = graphs.run(graph, mode, workers=3, width=20, thorough=True)
    assert graphs.verify(graph, trace) == []
    assert all(len(run.target) == 1 and 1 <= run.target[0] <= n_gpus for run in trace.runs.values())
    for memory in trace.stats["memories"]:
        assert memory["used"] == 0


def test_data_that_begin_on_a_gpu(n_gpus):
    tasks = [GraphTask(TaskKey((i,)), {(ANY_GPU,): Work(200)}, readwrites=(i,)) for i in range(n_gpus)]
    graph = Graph.of(tasks, [DataBlock(10, i + 1) for i in range(n_gpus)])
    for mode in graphs.MODES:
        trace = graphs.run(graph, mode, workers=2, width=3, thorough=True)
        assert graphs.verify(graph, trace) == []


@pytest.mark.parametrize("mode", ["auto", "policy"])
def test_mixed_placements(n_gpus, mode):
    everywhere = {(CPU,): Work(300, 0.5), (ANY_GPU,): Work(100)}
    graph = graphs.random(40, everywhere, seed=5, size=30)
    trace = graphs.run(graph, mode, workers=3, width=4, thorough=True)
    assert graphs.verify(graph, trace) == []


def test_several_devices_together(n_gpus):
    together = {(1, 2): Work(200)}
    tasks = [GraphTask(TaskKey((i,)), together, (TaskKey((i - 1,)),) if i else ()) for i in range(4)]
    graph = Graph.of(tasks)
    if n_gpus < 2:
        with pytest.raises(parla.PlacementError):
            graphs.run(graph, "auto")
        return
    trace = graphs.run(graph, "auto", workers=2)
    assert graphs.verify(graph, trace) == []
    assert {run.target for run in trace.runs.values()} == {(1, 2)}


def test_the_least_is_moved(n_gpus):
    """Where a user places the tasks, only what another device changed moves."""
    graph = graphs.serial(6, Work(100), size=100, n_gpus=n_gpus)
    trace = graphs.run(graph, "auto", workers=2, width=5)
    assert graphs.verify(graph, trace) == []
    copies = {(m["name"], source): n for m in trace.stats["memories"] for source, n in m["bytes_from"].items() if n}
    block = 100 * 5 * 4
    assert copies.pop(("gpu:0", "host")) == block
    assert copies.pop(("host", f"gpu:{5 % n_gpus}")) == block
    assert sum(copies.values()) == (0 if n_gpus == 1 else 5 * block)


def test_a_gpu_that_is_not_there(n_gpus):
    graph = graphs.independent(1, {(n_gpus + 1,): Work(1)})
    with pytest.raises((parla.PlacementError, IndexError)):
        graphs.run(graph, "auto")
    trace = graphs.run(graph, "policy", workers=1)
    assert graphs.verify(graph, trace) == []


def test_tasks_take_their_time_with_and_without_the_gil():
    graph = graphs.serial(4, {(CPU,): Work(5000, 0, 3, 0.2)})
    trace = graphs.run(graph, "manual", workers=2)
    assert graphs.verify(graph, trace) == []
    assert trace.seconds >= 0.02
    short = graphs.run(graph, "manual", workers=2, time_scale=0.01)
    assert graphs.verify(graph, short) == []
    assert short.seconds < 0.02


def test_claims_are_kept():
    graph = graphs.independent(6, {(CPU,): Work(2000, 1)})
    trace = graphs.run(graph, "manual", workers=3)
    assert graphs.verify(graph, trace) == []
    assert trace.seconds >= 0.012


def test_arguments_of_run():
    graph = graphs.independent(1, SHORT)
    with pytest.raises(ValueError, match="mode='by hand'"):
        graphs.run(graph, "by hand")
    with pytest.raises(ValueError, match="width=0"):
        graphs.run(graph, "manual", width=0)
    with pytest.raises(ValueError, match="time_scale=-1"):
        graphs.run(graph, "manual", time_scale=-1)


def falsified(graph, trace, key, **changes):
    trace.runs[key] = replace(trace.runs[key], **changes)
    return graphs.verify(graph, trace)


@pytest.fixture
def chain():
    """A graph, and a run of it that is right."""
    graph = graphs.serial(3, {(CPU,): Work(300)}, size=4)
    trace = graphs.run(graph, "manual", workers=2)
    assert graphs.verify(graph, trace) == []
    return graph, trace


def test_the_checker_notices_a_broken_order(chain):
    graph, trace = chain
    (problem,) = falsified(graph, trace, TaskKey((1, 0)), start=trace.runs[TaskKey((0, 0))].start)[:1]
    assert re.match(r"T\[1, 0\] started at .* before T\[0, 0\] was done", problem)


def test_the_checker_notices_stale_data(chain):
    graph, trace = chain
    assert falsified(graph, trace, TaskKey((2, 0)), seen={0: 1}) == [
        "T[2, 0] found in data block 0 what T[0, 0] wrote instead of what T[1, 0] wrote"
    ]
    assert falsified(graph, trace, TaskKey((2, 0)), seen={0: 0})[0].endswith("the initial contents instead of what T[1, 0] wrote")
    assert "pieces of several" in falsified(graph, trace, TaskKey((2, 0)), seen={0: -1})[0]
    assert "nothing was recorded" in falsified(graph, trace, TaskKey((2, 0)), seen={})[0]


def test_the_checker_notices_lost_data_at_the_end(chain):
    graph, trace = chain
    trace.final[0] = 2
    assert graphs.verify(graph, trace) == ["in the end the CPU found in data block 0 what T[1, 0] wrote instead of what T[2, 0] wrote"]


def test_the_checker_notices_a_wrong_device(chain):
    graph, trace = chain
    assert falsified(graph, trace, TaskKey((2, 0)), target=(1,)) == ["T[2, 0] ran on (1,), allowed are (-1,)"]


def test_the_checker_notices_missing_and_unknown_tasks(chain):
    graph, trace = chain
    trace.runs[TaskKey((9,))] = trace.runs.pop(TaskKey((1, 0)))
    assert graphs.verify(graph, trace) == ["T[9] ran but is not in the graph", "T[1, 0] did not run"]


def test_the_checker_notices_that_all_was_over_too_soon(chain):
    """Where bodies run ahead of their GPUs nothing else tells that nobody waited for a kernel."""
    graph, trace = chain
    trace.seconds = 0.0008
    assert graphs.verify(graph, trace) == ["all was over after 0.000800 s, but tasks of 0.000900 s follow one another"]


def test_the_checker_notices_a_task_that_was_too_short(chain):
    graph, trace = chain
    run = trace.runs[TaskKey((2, 0))]
    (problem,) = falsified(graph, trace, TaskKey((2, 0)), end=run.start + 1e-4)
    assert re.match(r"T\[2, 0\] took 0.000100 s instead of 0.000300 s", problem)


def test_the_checker_notices_devices_given_away_twice():
    graph = graphs.independent(2, {(CPU,): Work(300, 0.6)})
    trace = graphs.run(graph, "manual", workers=2)
    assert graphs.verify(graph, trace) == []
    one = trace.runs[TaskKey((0,))]
    problems = falsified(graph, trace, TaskKey((1,)), start=one.start, end=one.end)
    assert re.match(r"T\[0\], T\[1\] held 1.2 of device -1 at", problems[0])


def test_races_are_found():
    tasks = [GraphTask(TaskKey((i,)), SHORT, readwrites=(0,)) for i in range(2)]
    assert graphs.races(Graph.of(tasks, [DataBlock(1)])) == ["T[0] and T[1] use data block 0 in no order"]
    tasks = [GraphTask(TaskKey((i,)), SHORT, reads=(0,)) for i in range(2)]
    assert graphs.races(Graph.of(tasks, [DataBlock(1)])) == []


def test_drawing():
    graph = graphs.reduction(1, 2, {(CPU,): Work(5), (ANY_GPU,): Work(1)}, size=8)
    text = graphs.draw(graph, data=True)
    assert text.startswith("digraph {")
    assert text.rstrip().endswith("}")
    assert text.count("->") == 2 + 2 * 3 + 1  # edges, in and out of three readwrites, one read
    assert '"T[0, 1]" -> "T[1, 0]";' in text
    assert "cpu: 5 us\\ngpu: 1 us" in text
    assert "data 0" not in graphs.draw(graph)
