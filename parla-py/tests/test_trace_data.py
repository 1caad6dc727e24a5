"""Data in traces: real programs read the newest versions, and the check notices where a trace says otherwise, and races."""

from __future__ import annotations

import copy
import random
import threading

import numpy as np
import pytest
from machine import configured
from parla import Parla, TaskSpace, asarray, spawn
from parla.cpu import cpu
from parla.devices import gpu
from parla.races import find_races, overlap
from support import LIMIT, pass_gate
from trace_data import check_versions

A = 1  # an array of ten elements
ALL = ((0, 10),)


@pytest.fixture
def two():
    """A machine with two simulated GPUs."""
    with configured({"sim_gpus": 2}):
        yield


def use(access, region=ALL, reads=(), writes=None, exact=True):
    """One operand of a body, in array A."""
    reads = [(region, 0)] if reads == () and access != "output" else list(reads)
    return {
        "array": A,
        "name": "a",
        "region": region,
        "access": access,
        "exact": exact,
        "memory": "gpu:0",
        "reads": reads,
        "writes": writes,
    }


def trace(*steps):
    """Records from `(event, task, more...)`; task n is called `T_n`, spawned at line n."""
    records = []
    for time, (event, task, *extra) in enumerate(steps):
        record = {"event": event, "task": task, "name": f"T_{task}", "time": float(time), "worker": 0}
        if event == "spawned":
            record.update(deps=[], parent=None, location=f"prog.py:{task}")
        for more in extra:
            record.update(more)
        records.append(record)
    return records


def both_spawned(first, second, deps=()):
    """Two tasks, both spawned before any of them runs; the first ends before the second begins."""
    return trace(
        *[("spawned", 1), ("spawned", 2, {"deps": list(deps)})],
        *[("running", 1, {"uses": [first]}), ("done", 1), ("running", 2, {"uses": [second]}), ("done", 2)],
    )


def test_a_read_of_what_was_written_is_good():
    assert check_versions(both_spawned(use("output", writes=2), use("input", reads=[(ALL, 2)]), deps=[1])) == []


def test_a_stale_read_names_who_wrote_what_was_missed():
    records = both_spawned(use("output", ((2, 5),), writes=2), use("input", reads=[(ALL, 0)]), deps=[1])
    assert check_versions(records) == [
        "T_2: read a[0:10] in the memory of gpu:0 as it was in the beginning, not as T_1 did"
    ]
    # Only what overlaps counts.
    records = both_spawned(
        use("output", ((2, 5),), writes=2), use("input", ((5, 9),), reads=[(((5, 9),), 0)]), deps=[1]
    )
    assert check_versions(records) == []


def test_a_version_between_two_is_stale_too():
    records = trace(
        *[("spawned", 1), ("spawned", 2, {"deps": [1]}), ("spawned", 3, {"deps": [2]})],
        *[("running", 1, {"uses": [use("output", writes=2)]}), ("done", 1)],
        *[("running", 2, {"uses": [use("inout", reads=[(ALL, 2)], writes=4)]}), ("done", 2)],
        *[("running", 3, {"uses": [use("input", reads=[(((0, 4),), 4), (((4, 10),), 2)])]}), ("done", 3)],
    )
    assert check_versions(records) == ["T_3: read a[4:10] in the memory of gpu:0 as T_1 wrote it, not as T_2 did"]


def test_memory_that_nobody_wrote_and_a_half_written_version():
    records = both_spawned(use("output", writes=2), use("input", reads=[(((0, 4),), None), (((4, 10),), 1)]), deps=[1])
    assert check_versions(records) == [
        "T_2: read a[0:4] in the memory of gpu:0, where nobody wrote it or copied it to",
        "T_2: read a[4:10] in the memory of gpu:0 as it was while T_1 wrote it",
    ]


@pytest.mark.parametrize("memory", ["host", "gpu:0"])
def test_a_child_shares_the_home_of_its_parent(memory):
    """At home it need not wait until its parent lets go; elsewhere it must."""
    mine, childs = ({**use(a, reads=r, writes=2 * k), "memory": memory} for k, (a, r) in enumerate([("output", []), ("inout", [(ALL, 1)])], 1))
    records = trace(
        *[("spawned", 1), ("running", 1, {"uses": [mine]}), ("spawned", 2, {"parent": 1})],
        *[("running", 2, {"uses": [childs]}), ("suspended", 1, {"on": [2]}), ("done", 2)],
    )
    found = [] if memory == "host" else ["T_2: read a[0:10] in the memory of gpu:0 as it was while T_1 wrote it"]
    assert check_versions(records) == found


def test_what_the_host_wrote_in_between_is_good():
    assert check_versions(both_spawned(use("output", writes=2), use("input", reads=[(ALL, 8)]), deps=[1])) == []


@pytest.mark.parametrize(
    ("first", "second", "verbs"),
    [("output", "input", "writes reads"), ("input", "inout", "reads writes"), ("inout", "output", "writes writes")],
)
def test_a_race_names_both_tasks(first, second, verbs):
    a, b = use(first, ((0, 4),), writes=2), use(second, ((2, 9),), reads=[(((2, 9),), 2)], writes=4)
    (race,) = find_races(both_spawned(a, b))
    one, other = verbs.split()
    assert str(race) == f"T_1 (prog.py:1) {one} and T_2 (prog.py:2) {other} a[2:4]"
    assert (race.array, race.box, race.first.task, race.second.task) == ("a", ((2, 4),), "T_1", "T_2")
    assert find_races(both_spawned(a, b, deps=[1])) == []


def test_no_race():
    write = use("output", ((0, 4),), writes=2)
    assert find_races(both_spawned(use("input"), use("input"))) == []
    assert find_races(both_spawned(write, use("input", ((4, 9),)))) == []
    # Every other element, say.
    assert find_races(both_spawned({**write, "exact": False}, use("input"))) == []


def test_waits_order_too():
    write, read = use("output", writes=2), use("input", reads=[(ALL, 0)])
    inside = [("running", 2, {"uses": [write]}), ("done", 2)]
    # A task awaits another that it has spawned.
    around = [("spawned", 1), ("running", 1, {"uses": [read]}), ("spawned", 2, {"parent": 1})]
    records = trace(*around, ("suspended", 1, {"on": [2]}), *inside, ("resumed", 1, {"uses": [read]}), ("done", 1))
    assert find_races(records) == []
    assert check_versions(records) == [
        "T_1: read a[0:10] in the memory of gpu:0 as it was in the beginning, not as T_2 did"
    ]
    # It was spawned by somebody else, who may not have known.
    around = [("spawned", 1), ("spawned", 2), ("running", 1, {"uses": [read]})]
    records = trace(*around, *inside, ("done", 1))
    assert len(find_races(records)) == 1
    # Spawned after somebody outside has seen the end of the first.
    first = [("spawned", 1), ("running", 1, {"uses": [read]}), ("done", 1)]
    assert find_races(trace(*first, ("waited", 1, {"on": []}), ("spawned", 2), *inside)) == []
    assert len(find_races(trace(*first, ("spawned", 2), *inside))) == 1


def program(seed: int, rt_options: dict) -> list[dict]:
    """Ordered tasks on slices of two arrays, here and there; the result is that of running them one after another."""
    dice = random.Random(seed)
    expected = [np.zeros(40, np.int64), np.zeros((6, 8), np.int64)]
    arrays = [asarray(a.copy()) for a in expected]
    T = TaskSpace("T")
    with Parla(trace=True, check=True, **rt_options) as rt:
        for i in range(40):
            which = dice.randrange(2)
            rows = sorted(dice.sample(range(len(expected[which]) + 1), 2))
            part = slice(*rows)
            array = arrays[which]

            @spawn(T[i], [T[:i]], placement=dice.choice([cpu, gpu, gpu(0), gpu(1), [cpu, gpu]]), inout=[array[part]])
            def _():
                array[part] = array[part].array * 2 + i

            expected[which][part] = expected[which][part] * 2 + i
    for array, right in zip(arrays, expected, strict=True):
        assert (array.array == right).all()
    return rt.trace


@pytest.mark.parametrize("seed", range(4))
def test_real_programs_read_the_newest(two, seed):
    records = program(seed, {"workers": 3, "policy": "random" if seed % 2 else "locality"})
    assert check_versions(records) == []
    assert find_races(records) == []
    reads = [(record, use) for record in records for use in record.get("uses", ()) if use["reads"]]
    assert len(reads) == 40
    assert {use["memory"] for _, use in reads} == {"host", "gpu:0", "gpu:1"}
    # Whatever version is replaced by an older one, it is noticed.
    for at in range(len(reads)):
        changed = copy.deepcopy(records)
        found = [use for record in changed for use in record.get("uses", ()) if use["reads"]][at]
        if all(version == 0 for _, version in found["reads"]):
            continue
        found["reads"] = [(box, 0) for box, _ in found["reads"]]
        assert any("as it was in the beginning" in text for text in check_versions(changed))


def test_little_memory(two):
    with configured({"sim_gpus": 2, "gpu_memory": 1000}):
        assert check_versions(program(9, {"workers": 2, "policy": "random"})) == []


def test_a_real_race_is_reported(two):
    a = asarray(np.zeros(10))
    go = threading.Event()
    with Parla(workers=3, trace=True) as rt:

        @spawn()
        def first():
            pass_gate(go)

        @spawn(dependencies=[first], placement=gpu(0), inout=[a[0:6]], name="left")
        def _left():
            a[0:6] = 1.0

        @spawn(dependencies=[first], placement=gpu(1), inout=[a[4:10]], name="right")
        def _right():
            a[4:10] = 2.0

        go.set()
    (race,) = find_races(rt.trace)
    assert {race.first.task, race.second.task} == {"left", "right"}
    assert "test_trace_data.py:" in race.first.location
    assert race.box == ((4, 6),)
    assert check_versions(rt.trace) == []


def test_a_body_that_waits_sees_what_it_waited_for(two):
    a = asarray(np.zeros(10))

    with Parla(workers=2, trace=True) as rt:

        @spawn(placement=gpu(0), inout=[a])
        async def outer():
            a[:] = 1.0

            @spawn(placement=gpu(1), inout=[a])
            def inner():
                a[:] = a.array + 1.0

            await inner

            @spawn(placement=cpu, inout=[a])
            def third():
                a[:] = a.array + 1.0

            third.wait(LIMIT)
            return float(a.array.sum())

        assert outer.result(LIMIT) == 30.0
    assert check_versions(rt.trace) == []
    assert find_races(rt.trace) == []
    assert sum(len(record.get("uses", ())) for record in rt.trace) == 5  # three of `outer`, one of each other


def test_boxes():
    assert overlap(((0, 4), (2, 6)), ((3, 9), (0, 3))) == ((3, 4), (2, 3))
    assert overlap(((0, 4), (2, 6)), ((4, 9), (0, 3))) is None
