"""The search for races in traces: what it finds, in files, and how its work grows. `test_check` has real programs."""

from __future__ import annotations

import random
import re
import subprocess
import sys

import numpy as np
import pytest
from parla import Parla, asarray, races, spawn
from parla.races import find_races


def test_a_trace_file(tmp_path):
    a, b = asarray(np.zeros((3, 4)), name="field"), asarray(np.zeros(3))

    def program(file, order):
        with Parla(workers=2, trace=file):
            first = spawn(output=[a[:, :3]], name="first")(lambda: None)
            spawn(dependencies=[first] if order else [], input=[a[:, 2:], b], name="second")(lambda: None)

    def races_in(file):
        done = subprocess.run(
            [sys.executable, "-m", "parla.races", str(file)], capture_output=True, text=True, timeout=30
        )
        return done.returncode, done.stdout, done.stderr

    program(tmp_path / "good.json", order=True)
    assert races_in(tmp_path / "good.json") == (0, "no races\n", "")
    program(tmp_path / "bad.json", order=False)
    status, out, err = races_in(tmp_path / "bad.json")
    assert (status, err) == (1, "")
    assert re.search(r"first \(.*test_races.py:\d+\) writes and second \(.*\) reads field\[0:3, 2:3\]", out)
    status, out, err = races_in(tmp_path / "none.json")
    assert (status, out) == (2, "")
    assert "none.json" in err
    (tmp_path / "other.json").write_text("[1, 2")
    assert races_in(tmp_path / "other.json")[0] == 2
    assert races_in("--help")[0] == 0


def synthetic(n: int, uses, deps):
    """A trace of tasks that ran one after another."""
    for i in range(n):
        yield {
            "event": "spawned",
            "task": i,
            "name": f"T_{i}",
            "deps": deps(i),
            "parent": None,
            "location": f"prog.py:{i}",
        }
    for i in range(n):
        yield {"event": "running", "task": i, "name": f"T_{i}", "uses": uses(i)}
        yield {"event": "done", "task": i, "name": f"T_{i}"}


def one_use(start, stop, access="inout"):
    return {"array": 1, "name": "a", "region": ((start, stop),), "access": access, "exact": True}


@pytest.mark.parametrize("seed", range(30))
def test_the_search_agrees_with_looking_at_all_pairs(seed):
    """It drops what later tasks cover: but never all races of an element, and it never names a pair that has an order."""
    dice = random.Random(seed)
    n = 24
    deps = [sorted(dice.sample(range(i), min(i, dice.randrange(3)))) for i in range(n)]
    uses = []
    for _ in range(n):
        start = dice.randrange(8)
        uses.append(one_use(start, dice.randrange(start + 1, 10), dice.choice(["input", "inout", "output"])))
    before = [set() for _ in range(n)]
    for i in range(n):
        for other in deps[i]:
            before[i] |= before[other] | {other}

    def races_at(element):
        here = [i for i in range(n) if uses[i]["region"][0][0] <= element < uses[i]["region"][0][1]]
        writes = [use["access"] != "input" for use in uses]
        return {(a, b) for b in here for a in here if a < b and a not in before[b] and (writes[a] or writes[b])}

    found = find_races(synthetic(n, lambda i: [uses[i]], lambda i: deps[i]))
    pairs = {(int(race.first.task[2:]), int(race.second.task[2:])): race.box for race in found}
    for element in range(10):
        right = races_at(element)
        seen = {pair for pair, ((start, stop),) in pairs.items() if start <= element < stop}
        assert seen <= right
        assert bool(seen) == bool(right)


def test_many_tasks():
    """The work grows with the tasks, not with their square: it is counted, not timed."""
    counts = []
    for count in (3000, 6000):
        records = list(
            synthetic(count, lambda i: [one_use(i % 100, i % 100 + 1)], lambda i: [i - 100] if i >= 100 else [])
        )
        calls = 0

        def count_calls(_frame, event, _argument):
            nonlocal calls
            calls += event == "call"

        sys.setprofile(count_calls)
        try:
            assert find_races(records) == []
        finally:
            sys.setprofile(None)
        counts.append(calls)
    assert counts[1] < 2.5 * counts[0]


def test_everybody_races_with_everybody():
    found = find_races(synthetic(3000, lambda _: [one_use(0, 10)], lambda _: []))
    assert 3000 <= len(found) <= 12_000
    error = races.error_of(found)
    assert str(error).count("\n") == 21
    assert f"and {len(found) - 20} more" in str(error)
