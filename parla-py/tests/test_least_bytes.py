"""The oracle of `least_bytes` notices what was moved though it need not be; and programs in which more was moved once."""

from __future__ import annotations

import pytest

np = pytest.importorskip("numpy")

from least_bytes import find_waste, watch  # noqa: E402 - NumPy may be absent
from machine import configured  # noqa: E402
from parla import Parla, TaskSpace, asarray, spawn  # noqa: E402
from parla.devices import cpu, gpu  # noqa: E402

# An array of ten elements of eight bytes; instance 0 is its home, 1 is on the first GPU, 2 on the second.
MEMORIES = ["host", "gpu:0", "gpu:1"]
ALL = (0, 10)


def one(event, at, region=ALL, **more):
    return {
        **{"event": event, "array": 5, "name": "a", "shape": (10,), "item": 8},
        **{"instance": at, "memory": MEMORIES[at], "region": (region,), **more},
    }


def asked(at, region=ALL, access="input", exact=True, again=False):
    return one("asked", at, region, access=access, exact=exact, again=again)


def copied(at, source, region=ALL):
    return one("copied", at, region, source=MEMORIES[source], **{"from": source})


def written(at, region=ALL):
    return one("written", at, region)


def home():
    return one("called home", 0)


def waste(*happenings, cancelled=0):
    return find_waste(happenings, {"cancelled": cancelled})


def test_what_has_to_be_is_no_waste():
    assert waste(asked(1, (0, 4)), copied(1, 0, (0, 4)), asked(1, (2, 6)), copied(1, 0, (4, 6)), home()) == []
    there_and_back = [asked(1, access="inout"), copied(1, 0), written(1), asked(2, (0, 3)), copied(2, 1, (0, 3))]
    assert waste(*there_and_back, home(), copied(0, 1)) == []
    # Whoever writes all of it needs nothing, unless there are gaps, or it has been at work there before a wait.
    assert waste(asked(1, (2, 5), "output"), written(1, (2, 5)), home(), copied(0, 1, (2, 5))) == []
    assert waste(asked(1, (2, 5), "output", exact=False), copied(1, 0, (2, 5))) == []
    assert waste(asked(1, (2, 5), "output", again=True), copied(1, 0, (2, 5))) == []


@pytest.mark.parametrize(
    ("happenings", "moved", "least", "why"),
    [
        ([asked(1, (0, 4)), copied(1, 0)], 80, 32, "48 never needed"),
        ([asked(1), copied(1, 0), asked(1, (3, 5)), copied(1, 0, (3, 5))], 96, 80, "16 were there"),
        ([asked(1, access="output"), copied(1, 0), written(1), home(), copied(0, 1)], 80, 0, "80 not needed before others were written"),
        ([copied(1, 0), one("given up", 1)], 80, 0, "80 not needed before the copy was given up"),
        ([one("ahead", 1, sure=True), copied(1, 0), written(0)], 80, 0, "80 not needed before others were written"),
    ],
)
def test_waste_is_named(happenings, moved, least, why):
    assert waste(*happenings) == [f"a: {moved} bytes were moved to gpu:0, where {least} had to be: {why}"]


def test_what_did_not_come_is_named():
    assert waste(asked(1)) == ["a: 0 bytes were moved to gpu:0, where 80 had to be"]
    assert waste(written(1, (0, 2)), home()) == ["a: 0 bytes were moved to host, where 16 had to be"]
    assert waste(one("refused", 1), asked(1)) == []


def test_what_goes_home():
    alone = [asked(1, access="output"), written(1)]
    assert waste(*alone, copied(0, 1), one("written back", 1), one("given up", 1)) == []
    assert waste(*alone, one("evicted", 0) | {"memory": "gpu:0"}, copied(0, 1), one("given up", 1)) == []
    # Not if it is elsewhere, too, or what is there was lost or overwritten.
    both = [*alone, asked(2), copied(2, 1)]
    assert waste(*both, one("given up", 1)) == []
    assert waste(*both, one("given up", 1), copied(0, 2)) != []
    assert waste(*alone, one("lost", 1), home()) == []
    assert waste(*alone, one("reached", 0, overwrites=True), written(0), home()) == []


def test_guesses_and_failures_are_excused():
    assert waste(one("ahead", 1, sure=False), copied(1, 0), written(0)) == []
    assert waste(one("ahead", 1, sure=True), copied(1, 0), written(0), cancelled=1) == []
    assert waste(one("ahead", 1, sure=False), copied(1, 0), asked(2), copied(2, 0), copied(2, 0)) != []
    assert waste(asked(1), copied(1, 0), one("failed", 1), asked(1), copied(1, 0)) == []
    evicted = one("evicted", 0) | {"memory": "gpu:0"}
    assert waste(one("ahead", 1, sure=True), copied(1, 0), evicted, one("given up", 1), asked(2), copied(2, 0)) == []


def test_every_copy_that_is_counted_is_in_the_record():
    counted = {"cancelled": 0, "memories": [{"name": "gpu:0", "bytes_from": {"host": 88}}]}
    assert find_waste([asked(1), copied(1, 0)], counted) == ["88 bytes were counted from host to gpu:0, the record has 80"]


def test_the_record_of_a_real_program_and_what_one_copy_more_would_be(monkeypatch):
    with configured(PARLA_SIM_GPUS="2"):
        assert not watch(monkeypatch.setattr)
        a = asarray(np.zeros(10))
        with Parla(workers=2) as rt:
            spawn(placement=gpu(0), inout=[a[2:6]])(lambda: a[2:6].array.fill(1)).wait()
            spawn(placement=gpu(1), input=[a[::2]])(lambda: None).wait()
    history = rt._native.data_history()
    copies = [happening for happening in history if happening["event"] == "copied"]
    assert sorted(happening["memory"] for happening in copies) == ["gpu:0", "gpu:1", "gpu:1", "gpu:1", "host"]
    assert find_waste(history, rt.stats()) == []
    for copy in copies:
        at = next(i for i, happening in enumerate(history) if happening is copy)
        assert find_waste([*history[:at], copy, *history[at:]], rt.stats()) != []
        assert find_waste([*history[:at], *history[at + 1 :]], rt.stats()) != []


def test_nothing_is_sent_ahead_for_a_task_that_is_spawned_before_its_dependencies():
    with configured(PARLA_SIM_GPUS="2"):
        a = asarray(np.zeros(10), name="backwards")
        with Parla(workers=2) as rt:
            T = TaskSpace("T")
            for i in reversed(range(4)):

                @spawn(T[i], [T[i - 1]] if i else [], placement=gpu(i % 2), inout=[a])
                def _():
                    a.array[...] += 1

                for _ in range(20):  # workers had something to do since, and nothing
                    spawn(placement=cpu)(lambda: None).wait()
        moved = {memory["name"]: memory["bytes_from"] for memory in rt.stats()["memories"]}
        assert moved["gpu:1"] == {"host": 0, "gpu:0": 160, "gpu:1": 0}
        assert moved["gpu:0"] == {"host": 80, "gpu:0": 0, "gpu:1": 80}
    assert a.sum() == 40
