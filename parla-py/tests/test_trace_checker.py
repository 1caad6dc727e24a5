"""The trace checker itself: a good trace passes, and each kind of broken trace is reported with the task's name."""

from __future__ import annotations

import pytest
from trace_checker import FOLLOWS, TERMINAL, check_trace

DEFAULTS = {"deps": [], "vcus": 0, "memory": 0, "location": "prog.py:1"}


def trace(*steps: tuple) -> list[dict]:
    """Builds records from `(event, task)` or `(event, task, extra)`, one second apart; task n is called `T_n`."""
    records = []
    for time, (event, task, *extra) in enumerate(steps):
        record = {"event": event, "task": task, "name": f"T_{task}", "time": float(time), "worker": 0, "gil": 0.0}
        if event == "spawned":
            record.update(DEFAULTS)
        for more in extra:
            record.update(more)
        records.append(record)
    return records


def life(task: int, **spawned: object) -> list[tuple]:
    """The steps of a task that is spawned, runs and is done."""
    return [("spawned", task, spawned), ("ready", task), ("running", task), ("done", task)]


def test_good_trace_has_no_violations():
    steps = [*life(1), *life(2, deps=[1], vcus=1000), ("spawned", 3, {"deps": [2]}), ("cancelled", 3)]
    assert check_trace(trace(*steps), vcus=1000, memory=0) == []


def test_a_task_that_awaits_and_goes_on_is_good():
    steps = [
        ("spawned", 1),
        ("spawned", 2),
        ("ready", 1),
        ("running", 1),
        ("suspended", 1, {"on": [2]}),
        ("ready", 2),
        ("running", 2),
        ("done", 2),
        ("resumed", 1),
        ("done", 1),
    ]
    assert check_trace(trace(*steps)) == []


def test_running_before_a_dependency_is_done():
    steps = [("spawned", 1), ("ready", 1), ("running", 1), *life(2, deps=[1]), ("done", 1)]
    (violation,) = check_trace(trace(*steps))
    assert violation == "T_2: ran at 5.0, before its dependency T_1 was done at 7.0"


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
def test_running_on_the_result_of_a_task_that_is_not_done(outcome):
    first = [("spawned", 1), ("ready", 1), *([("running", 1)] if outcome == "failed" else []), (outcome, 1)]
    violations = check_trace(trace(*first, *life(2, deps=[1])))
    assert f"T_2: ran though its dependency T_1 is {outcome}" in violations
    assert f"T_2: done though its dependency T_1 is {outcome}" in violations


def test_running_without_a_dependency_that_was_never_spawned():
    (violation,) = check_trace(trace(*life(2, deps=[7])))
    assert violation == "T_2: ran though its dependency task 7 was never spawned"


def test_resumed_before_the_awaited_task_has_ended():
    steps = [
        *[("spawned", 1), ("spawned", 2), ("ready", 1), ("running", 1), ("suspended", 1, {"on": [2]})],
        *[("resumed", 1), ("done", 1), ("ready", 2), ("running", 2), ("done", 2)],
    ]
    (violation,) = check_trace(trace(*steps))
    assert violation == "T_1: resumed at 5.0, before T_2 had ended"


def test_resumed_with_the_error_of_one_of_several_is_good():
    steps = [
        *[("spawned", 1), ("spawned", 2), ("spawned", 3), ("ready", 1), ("running", 1)],
        *[("suspended", 1, {"on": [2, 3]}), ("ready", 2), ("running", 2), ("failed", 2)],
        *[("resumed", 1), ("failed", 1), ("ready", 3), ("running", 3), ("done", 3)],
    ]
    assert check_trace(trace(*steps)) == []


def test_an_abandoned_run_may_resume_early():
    steps = [("spawned", 1), ("ready", 1), ("running", 1), ("suspended", 1, {"on": [9]}), ("resumed", 1), ("failed", 1)]
    assert check_trace(trace(*steps), abandoned=True) == []
    assert check_trace(trace(*steps)) == ["T_1: resumed at 4.0, before task 9 had ended"]


def test_claims_above_capacity_name_the_holders():
    steps = [
        *[("spawned", 1, {"vcus": 600}), ("spawned", 2, {"vcus": 600}), ("spawned", 3)],
        *[("ready", 1), ("ready", 2), ("ready", 3), ("running", 3), ("running", 1), ("running", 2)],
        *[("done", 1), ("done", 2), ("done", 3)],
    ]
    (violation,) = check_trace(trace(*steps), vcus=1000)
    assert violation == "T_1, T_2: hold 1200 vcus of 1000 at 8.0"


def test_a_claim_is_taken_again_after_an_await():
    """The fault of an earlier version: given back at `await` and never taken again."""
    steps = [
        *[("spawned", 1, {"memory": 10}), ("spawned", 2), ("ready", 1), ("running", 1)],
        *[("suspended", 1, {"on": [2]}), ("ready", 2), ("running", 2), ("done", 2), ("resumed", 1)],
        *life(3, memory=10),
        ("done", 1),
    ]
    (violation,) = check_trace(trace(*steps), memory=10)
    assert violation.startswith("T_1, T_3: hold 20 memory of 10")


def test_a_claim_never_given_back():
    steps = [("spawned", 1, {"vcus": 5}), ("ready", 1), ("running", 1)]
    assert "T_1: 5 vcus never given back" in check_trace(trace(*steps), vcus=1000, complete=False)


def test_a_task_that_never_ended():
    (violation,) = check_trace(trace(("spawned", 1), ("ready", 1)))
    assert violation == "T_1: never ended, its last event is ready"
    assert check_trace(trace(("spawned", 1), ("ready", 1)), complete=False) == []


def test_an_event_with_no_spawn_before_it():
    violations = check_trace(trace(("ready", 1), ("running", 1), ("done", 1)))
    assert violations == ["T_1: ready as its first event"]


@pytest.mark.parametrize("terminal", sorted(TERMINAL))
@pytest.mark.parametrize("after", sorted(e for e in FOLLOWS if e))
def test_nothing_happens_to_a_task_after_its_end(terminal, after):
    extra = {"on": [], **DEFAULTS}
    steps = [("spawned", 1), ("ready", 1), ("running", 1), (terminal, 1), (after, 1, extra)]
    assert f"T_1: {after} after {terminal}" in check_trace(trace(*steps), complete=False)


def test_running_twice():
    steps = [("spawned", 1), ("ready", 1), ("running", 1), ("running", 1), ("done", 1)]
    assert check_trace(trace(*steps)) == ["T_1: running after running"]


def test_running_without_being_ready():
    steps = [("spawned", 1), ("running", 1), ("done", 1)]
    assert check_trace(trace(*steps)) == ["T_1: running after spawned"]


def test_time_that_runs_backwards():
    records = trace(*life(1))
    records[2]["time"] = 0.5
    assert check_trace(records) == ["T_1: running at 0.5 is recorded after an event at 1.0"]


def test_unknown_event_changed_name_and_missing_worker():
    records = trace(*life(1))
    records[1]["event"] = "teleported"
    assert "T_1: unknown event 'teleported'" in check_trace(records)
    records = trace(*life(1))
    records[3]["name"] = "other"
    assert check_trace(records) == ["T_1: renamed to 'other' at its event done"]
    records = trace(*life(1))
    records[2]["worker"] = -1
    assert check_trace(records) == ["T_1: running on no worker"]
