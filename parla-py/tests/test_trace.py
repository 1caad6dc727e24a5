"""What a runtime tells about itself: the trace, the statistics, and a file for Perfetto."""

from __future__ import annotations

import json
import threading

import pytest
from parla import Parla, TaskSpace, sleep_gil, sleep_nogil, spawn
from support import pass_gate, run_py

EVENTS = {"spawned", "ready", "running", "suspended", "resumed", "waited", "done", "failed", "cancelled"}


def events_of(trace, name):
    return [r["event"] for r in trace if r["name"] == name]


def test_records_have_the_documented_fields(traced_parla, workers):
    space = TaskSpace("T")
    with traced_parla(workers=workers) as rt:
        spawn(space[0], name="first", vcus=0.5, memory=1000)(lambda: None)

        @spawn(space[1], [space[0]], name="second")
        async def body():
            await spawn(name="child")(lambda: None)

    by_name = {r["name"]: r for r in rt.trace if r["event"] == "spawned"}
    line = test_records_have_the_documented_fields.__code__.co_firstlineno
    assert set(by_name) == {"first", "second", "child"}
    assert by_name["second"]["deps"] == [by_name["first"]["task"]]
    assert by_name["first"]["deps"] == []
    assert by_name["first"]["memory"] == 1000
    assert by_name["first"]["vcus"] > 0 == by_name["second"]["vcus"]
    assert by_name["first"]["location"].endswith(f"test_trace.py:{line + 3}"), by_name["first"]["location"]
    for r in rt.trace:
        assert r["event"] in EVENTS
        assert isinstance(r["task"], int)
        assert isinstance(r["time"], float)
        assert -1 <= r["worker"] < max(workers, 64)
    times = [r["time"] for r in rt.trace]
    assert times == sorted(times)
    assert events_of(rt.trace, "first") == ["spawned", "ready", "running", "done"]
    second = events_of(rt.trace, "second")
    assert [e for e in second if e != "ready"] in (
        ["spawned", "running", "suspended", "resumed", "done"],
        ["spawned", "running", "waited", "done"],  # the child was faster than the await
    )


def test_a_suspension_names_what_it_waits_for(traced_parla):
    gate = threading.Event()
    with traced_parla(workers=2) as rt:
        child = spawn(name="child")(lambda: pass_gate(gate))

        @spawn(name="parent")
        async def parent():
            spawn()(gate.set)
            await child

    (suspended,) = [r for r in rt.trace if r["event"] == "suspended"]
    child_id = next(r["task"] for r in rt.trace if r["name"] == "child")
    assert suspended["name"] == "parent"
    assert suspended["on"] == [child_id]


def test_ends_of_tasks(traced_parla):
    with pytest.raises(ZeroDivisionError), traced_parla(workers=1) as rt:
        bad = spawn(name="bad")(lambda: 1 // 0)
        spawn(name="behind", dependencies=[bad])(lambda: None)
        spawn(name="good")(lambda: None)
    assert events_of(rt.trace, "bad") == ["spawned", "ready", "running", "failed"]
    assert events_of(rt.trace, "behind") == ["spawned", "cancelled"]
    assert events_of(rt.trace, "good")[-1] == "done"


def test_the_time_a_body_held_the_interpreter(traced_parla):
    with traced_parla(workers=1) as rt:
        spawn(name="holds")(lambda: sleep_gil(50_000))
        spawn(name="releases")(lambda: sleep_nogil(50_000))
    held = {r["name"]: r["gil"] for r in rt.trace if r["event"] == "done"}
    assert 0.045 <= held["holds"] < 0.5
    assert held["releases"] >= 0.0


def test_no_trace_unless_asked_for():
    with Parla(workers=1) as rt:
        spawn()(lambda: None)
    assert not rt.trace


def test_a_trace_file_that_perfetto_reads(tmp_path):
    path = tmp_path / "trace.json"
    with Parla(workers=2, trace=str(path)):
        for i in range(5):
            spawn(name=f"task {i}")(lambda: None)
    document = json.loads(path.read_text())
    events = document["traceEvents"] if isinstance(document, dict) else document
    bodies = [e for e in events if e.get("ph") == "X"]
    assert {e["name"] for e in bodies} >= {f"task {i}" for i in range(5)}
    assert all(e["dur"] >= 0 and e["ts"] >= 0 for e in bodies)


def test_a_trace_file_by_environment(tmp_path):
    path = tmp_path / "trace.json"
    run_py(
        """
        from parla import Parla, spawn
        with Parla(workers=2):
            spawn(name="traced")(lambda: None)
        """,
        env={"PARLA_TRACE": str(path)},
    )
    assert "traced" in path.read_text()


def test_a_trace_file_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match="no such folder"):
        with Parla(workers=1, trace=str(tmp_path / "no such folder" / "trace.json")):
            spawn()(lambda: None)


def test_awkward_names_in_a_trace_file(tmp_path):
    path = tmp_path / "trace.json"
    with Parla(workers=1, trace=str(path)):
        spawn(name='quote " backslash \\ newline \n 🦀')(lambda: None)
    assert 'quote " backslash \\ newline \n 🦀' in {e.get("name") for e in flat(json.loads(path.read_text()))}


def flat(document):
    return document["traceEvents"] if isinstance(document, dict) else document


def test_statistics_count_tasks(workers):
    with Parla(workers=workers) as rt:
        for _ in range(10):
            spawn()(lambda: None)
        bad = spawn()(lambda: 1 // 0)
        bad.exception()
    stats = rt.stats()
    assert stats["workers"] == workers
    assert stats["spawned"] == 11
    assert stats["done"] + stats["failed"] == 11
    assert stats["failed"] == 1
    assert stats["pending"] == 0


def test_statistics_are_readable_at_any_moment(workers):
    gate = threading.Event()
    with Parla(workers=workers) as rt:
        blocker = spawn()(lambda: pass_gate(gate))
        for _ in range(5):
            spawn(dependencies=[blocker])(lambda: None)
        assert rt.stats()["pending"] == 6
        inside = spawn()(lambda: rt.stats()["pending"] >= 1)
        gate.set()
    assert inside.result() is True
    assert rt.stats()["pending"] == 0
