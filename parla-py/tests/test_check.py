"""`Parla(check=True)` names the tasks that race, that write their inputs, and that use arrays which they do not name."""

from __future__ import annotations

import ctypes
import textwrap
import time

import numpy as np
import pytest
from machine import configured
from parla import Parla, TaskSpace, asarray, spawn
from parla.cpu import cpu
from parla.devices import gpu
from parla.errors import InputError, ParlaError, RaceError
from support import LIMIT, run_py

HERE = "test_check.py:"


@pytest.fixture(params=[0, 2], ids=["host", "gpus"])
def machine(request):
    """A machine without GPUs, and one with two simulated ones."""
    if not request.param:
        return (yield [cpu])
    with configured({"sim_gpus": request.param}):
        return (yield [gpu(0), gpu(1), cpu])


def named(a: np.ndarray, name: str = "field"):
    """An array with a name to look for."""
    return asarray(a, name=name)


def notes(error: BaseException) -> str:
    """All notes of an exception."""
    return "\n".join(getattr(error, "__notes__", ()))


def test_a_race_names_both_tasks_and_the_elements(machine, workers):
    a = named(np.zeros((6, 10)))
    with pytest.raises(RaceError) as raised, Parla(workers=workers, check=True) as rt:

        @spawn(placement=machine[0], output=[a[0:3, 2:8]], name="writer")
        def _writer():
            a[0:3, 2:8] = 1.0

        @spawn(placement=machine[-1], input=[a[2:6, 0:5]], name="reader")
        def _reader():
            a[2:6, 0:5].array.sum()

    (race,) = raised.value.races
    assert (race.array, race.box) == ("field", ((2, 3), (2, 5)))
    assert (race.first.task, race.first.writes, race.second.task, race.second.writes) == (
        "writer",
        True,
        "reader",
        False,
    )
    line = test_a_race_names_both_tasks_and_the_elements.__code__.co_firstlineno
    text = str(raised.value)
    assert f"{HERE}{line + 4}) writes and reader (" in text
    assert f"{HERE}{line + 8}) reads field[2:3, 2:5]" in text
    assert "give one of the two the other as dependency" in text
    assert rt.trace == []  # nobody asked for it


def test_three_tasks_on_one_element(machine, workers):
    a = named(np.zeros(()))
    T = TaskSpace("T")
    with pytest.raises(RaceError, match=r"T_[01] \(.*\) writes and T_2 \(.*\) writes field\[\(\)\]") as raised:  # noqa: SIM117
        with Parla(workers=workers, check=True):
            for i in range(3):

                @spawn(T[i], [T[0]] if i == 1 else [], placement=machine[i % len(machine)], inout=[a], name=f"T_{i}")
                def _():
                    a[...] = i

    # Once for each element is enough: T_0 and T_1 have an order.
    assert {race.second.task for race in raised.value.races} == {"T_2"}


def ordered_by_dependency(a, places):
    T = TaskSpace("T")
    for i in reversed(range(6)):

        @spawn(T[i], [T[i - 1]] if i else [], placement=places[i % len(places)], inout=[a])
        def _():
            a.array[:] += 1


def ordered_through_a_task_without_arrays(a, places):
    @spawn(placement=places[0], output=[a])
    def first():
        a[:] = 1

    @spawn(dependencies=[first])
    def between():
        pass

    @spawn(dependencies=[between], placement=places[-1], inout=[a])
    def _last():
        a.array[:] += 1


def ordered_by_an_await(a, places):
    """Of a task that has ended already, by one without arrays."""

    @spawn(placement=places[0], output=[a], name="written")
    def written():
        a[:] = 1

    @spawn(name="waits")
    async def waits():
        while not written.done():
            await spawn()(lambda: None)
        await written

    @spawn(dependencies=[waits], placement=places[-1], inout=[a], name="after")
    def _after():
        a.array[:] += 1


def ordered_by_a_blocking_wait(a, places):

    @spawn(placement=places[0], output=[a], name="written")
    def written():
        time.sleep(0.01)
        a[:] = 1

    @spawn(name="waits")
    def waits():
        written.wait(LIMIT)

    @spawn(dependencies=[waits], placement=places[-1], inout=[a], name="after")
    def _after():
        a.array[:] += 1


def ordered_by_the_block(a, places):
    first = spawn(placement=places[0], output=[a])(lambda: a.update(np.ones(10)))
    first.wait(LIMIT)
    spawn(placement=places[-1], inout=[a])(lambda: None)


def ordered_by_spawning_and_waiting(a, places):
    @spawn(placement=places[0], inout=[a])
    async def outer():
        a[:] = 1

        @spawn(placement=places[-1], inout=[a])
        def inner():
            a.array[:] += 1

        await inner
        a.array[:] += 1

        @spawn(placement=places[0], inout=[a])
        def third():
            a.array[:] += 1

        third.wait(LIMIT)
        assert (a.array == 4).all()

    spawn(dependencies=[outer], placement=places[-1], input=[a])(lambda: None)


def ordered_by_a_result(a, places):
    """A task asks for the result of one that has ended."""
    written = spawn(placement=places[0], output=[a])(lambda: a.update(np.ones(10)))

    @spawn(name="asks")
    def asks():
        written.result(LIMIT)
        return written.result()

    spawn(dependencies=[asks], placement=places[-1], inout=[a])(lambda: None)


def readers_only(a, places):
    for i in range(8):
        spawn(placement=places[i % len(places)], input=[a])(lambda: float(a.array.sum()))


def neighbours(a, places):
    for i in range(10):
        spawn(placement=places[i % len(places)], inout=[a[i : i + 1]])(lambda: None)


PROGRAMS = [
    ordered_by_dependency,
    ordered_through_a_task_without_arrays,
    ordered_by_an_await,
    ordered_by_a_blocking_wait,
    ordered_by_the_block,
    ordered_by_spawning_and_waiting,
    ordered_by_a_result,
    readers_only,
    neighbours,
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_ordered_program_has_no_race(machine, workers, program):
    a = named(np.zeros(10))
    with Parla(workers=workers, check=True):
        program(a, machine)


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p.__name__.startswith("ordered")])
def test_and_one_more_task_would_race(machine, program):
    """The programs above use the array in a way that the check sees."""
    a = named(np.zeros(10))
    with pytest.raises(RaceError), Parla(workers=2, check=True):
        spawn(placement=machine[0], inout=[a[3:4]], name="stray")(lambda: None)
        program(a, machine)


def test_the_error_of_a_task_carries_the_race(machine, workers):
    a = named(np.zeros(10))
    with pytest.raises(ZeroDivisionError) as raised, Parla(workers=workers, check=True):
        spawn(placement=machine[0], inout=[a], name="left")(lambda: None)
        spawn(placement=machine[-1], inout=[a], name="right")(lambda: None)
        spawn()(lambda: 1 // 0)
    assert "besides, RaceError: a race of the program" in notes(raised.value)
    assert "left (" in notes(raised.value)


def test_the_error_of_the_block_carries_the_race(machine):
    a = named(np.zeros(10))
    with pytest.raises(LookupError, match="mine") as raised, Parla(workers=2, check=True):
        spawn(placement=machine[0], inout=[a], name="left")(lambda: None).wait(LIMIT)
        both = [spawn(placement=machine[-1], inout=[a], name=f"right_{i}")(lambda: None) for i in range(2)]
        for one in both:
            one.wait(LIMIT)
        raise LookupError("mine")
    assert "right_0 (" in notes(raised.value)
    assert "left (" not in notes(raised.value)


def test_an_interrupt_does_not_wait_for_the_check():
    a = named(np.zeros(10))
    with pytest.raises(KeyboardInterrupt) as raised, Parla(workers=2, check=True):
        for _ in range(2):
            spawn(inout=[a])(lambda: None).state  # noqa: B018
        raise KeyboardInterrupt
    assert "RaceError" not in notes(raised.value)


def test_without_check_nobody_looks():
    a, x = named(np.zeros(10)), np.zeros(4)
    b = named(x, "b")
    with Parla(workers=2):
        for _ in range(2):
            spawn(inout=[a])(lambda: None)
        spawn(input=[b])(lambda: x.fill(1))
        spawn()(lambda: b.array[:1].sum())


def test_the_environment_asks_for_it(monkeypatch):
    a = named(np.zeros(10))
    monkeypatch.setenv("PARLA_CHECK", "1")
    with pytest.raises(RaceError), Parla(workers=2):
        for _ in range(2):
            spawn(inout=[a])(lambda: None)
    with Parla(workers=2, check=False):
        for _ in range(2):
            spawn(inout=[a])(lambda: None)
    monkeypatch.setenv("PARLA_CHECK", "maybe")
    with pytest.raises(ValueError, match="PARLA_CHECK='maybe': expected 0 or 1"):
        Parla()


# Inputs.


def through_an_address(local):
    ctypes.c_double.from_address(local.ctypes.data + local.strides[0]).value = 7.0


def through_strides(local):
    address = local.__array_interface__["data"][0]
    interface = {"shape": local.shape, "typestr": local.dtype.str, "data": (address, False), "version": 3}
    holder = type("Memory", (), {"__array_interface__": interface | {"strides": local.strides}})
    np.asarray(holder())[1] = 7.0


@pytest.mark.parametrize("write", [through_an_address, through_strides])
def test_a_body_that_writes_its_input_is_named(machine, workers, write):
    for place in machine:
        a = named(np.zeros((6, 4)))
        ran = []
        with pytest.raises(InputError) as raised, Parla(workers=workers, check=True):

            @spawn(placement=place, input=[a[2:5, 1]], retries=1, name="culprit")
            def culprit():
                ran.append(1)
                write(a[2:5, 1].array)

            spawn(dependencies=[culprit])(lambda: ran.append("behind"))

        line = test_a_body_that_writes_its_input_is_named.__code__.co_firstlineno
        assert f"culprit spawned at {__file__}:{line + 7} has field[2:5, 1:2] as an input only" in str(raised.value)
        assert ran == [1]  # not again on what it has spoilt
        if place is not cpu:
            assert (a.array == 0).all()  # the copy is spoilt, not the array


def test_the_users_own_buffer(workers):
    for at_base in (False, True):
        x = np.zeros(8)
        a = named(x)
        with (
            pytest.raises(InputError, match=r"culprit spawned at .* has field\[0:8\]"),
            Parla(workers=workers, check=True),
        ):
            spawn(input=[a], name="culprit")(lambda: (a.array.base if at_base else x).fill(3.0))


def test_a_changed_input_is_not_read_any_more(machine, workers):
    """Where it was changed it is invalid; where there is another copy, that is read."""
    for place in machine:
        a = named(np.zeros(8))
        with Parla(workers=workers, check=True):

            @spawn(placement=place, inout=[a[0:4]])
            def before():
                a[0:4] = 5.0  # newest there, and nowhere else

            @spawn(dependencies=[before], placement=place, input=[a])
            def culprit():
                through_an_address(a.array)

            assert isinstance(culprit.exception(), InputError)
            reader = spawn(placement=machine[0], input=[a[0:1]])(lambda: None)
            assert "changed it, an input" in str(reader.exception())
            if place is not cpu:
                others = spawn(placement=machine[0], input=[a[4:8]])(lambda: a[4:8].array.sum())
                assert others.result() == 0.0  # as it is at home
        with pytest.raises(ParlaError, match="culprit .* changed it, an input"):
            print(a.array)
        a[:] = 1.0
        assert a.array.sum() == 8.0


def test_a_write_before_a_wait_is_found_at_the_end(machine, workers):
    a = named(np.zeros(10))
    with pytest.raises(InputError, match="as an input only"), Parla(workers=workers, check=True):

        @spawn(placement=machine[0], input=[a])
        async def _writes():
            through_an_address(a.array)
            await spawn()(lambda: None)
            spawn()(lambda: None).wait(LIMIT)


def test_a_body_that_fails_besides(machine):
    a = named(np.zeros(10))
    with pytest.raises(LookupError, match="mine") as raised, Parla(workers=1, check=True):

        @spawn(placement=machine[0], input=[a])
        def _writes():
            through_an_address(a.array)
            raise LookupError("mine")

    assert "as an input only" in notes(raised.value)


@pytest.mark.parametrize("dtype", ["i1", "c16", "S5", "M8[s]", [("x", "f4"), ("y", "i2", 3)], ">f8"])
def test_good_programs_of_all_kinds(machine, dtype):
    whole = np.zeros((5, 4), dtype)
    mirrored, row = whole.copy()[:, ::-1], whole[0].copy()
    for x in (whole, whole.copy(order="F"), mirrored, np.broadcast_to(row, (5, 4))):
        a = named(x)
        with Parla(workers=2, check=True):
            for view in (np.s_[:], np.s_[::-1], np.s_[::2, 1:], np.s_[0, :0], np.s_[[1, 3]]):
                for place in machine:
                    spawn(placement=place, input=[a[view]])(lambda: np.array(a[view].array))


# What is not named.


def test_an_array_that_a_task_does_not_name(machine, workers):
    a, b = named(np.zeros(10)), named(np.zeros(10), "other")
    with pytest.raises(ParlaError, match=r"secret .* uses field\[2:4\], but does not name it"):  # noqa: SIM117
        with Parla(workers=workers, check=True):
            spawn(name="secret")(lambda: a[2:4].array)
    with pytest.raises(ParlaError, match=r"secret .* uses field\[2:4\], but does not name it"):  # noqa: SIM117
        with Parla(workers=workers, check=True):
            spawn(name="secret", placement=cpu, input=[b])(lambda: a[2:4].array)
    with pytest.raises(ParlaError, match=r"secret .* uses field\[2:4\], but named only \[0:3\]"):  # noqa: SIM117
        with Parla(workers=workers, check=True):
            spawn(name="secret", placement=cpu, input=[a[0:3]])(lambda: a[2:4].array)


def test_an_array_of_its_own(machine, workers):
    """A task makes arrays for tasks that it spawns."""
    with Parla(workers=workers, check=True):

        @spawn()
        async def makes():
            a = asarray(np.zeros(4))
            await spawn(inout=[a], placement=machine[0])(lambda: a.update(np.ones(4)))
            return float(a.array.sum())

    assert makes.result() == 4.0


CUDA = """
    import numpy as np
    from parla import Parla, TaskSpace, asarray, spawn
    from parla.devices import cpu, gpu
    from parla.errors import InputError, RaceError

    x = np.zeros(64)
    a = asarray(x, name="field")

    def chain(last):
        T = TaskSpace("T")
        for i in range(40):
            @spawn(T[i], [T[i - 1]] if i else [], placement=[gpu(0), gpu(1), cpu][i % 3 if i % 10 == 9 else 0], inout=[a])
            def _():
                a.array[:] = float(i)
        spawn(dependencies=[T[last]], placement=gpu(1), input=[a[:8]], name="reader")(lambda: a[:8].array)
        return T

    with Parla(workers=3, check=True):
        chain(39)
    assert (x == 39).all()
    try:
        with Parla(workers=3, check=True):
            chain(38)
        raise SystemExit("no race was found")
    except RaceError as error:
        (race,) = error.races
        assert (race.first.task, race.second.task, race.box) == ("_", "reader", ((0, 8),)), race
    try:
        with Parla(workers=3, check=True):
            spawn(placement=gpu(0), input=[a])(lambda: None)
            spawn(placement=cpu, input=[a], name="culprit")(lambda: x.fill(1.0))
        raise SystemExit("no change was found")
    except InputError as error:
        assert "culprit" in str(error)
"""


def test_on_cuda_gpus(driver):
    """Dependents run ahead of the devices there: what orders them is the same."""
    run_py(textwrap.dedent(CUDA), env={"LD_LIBRARY_PATH": str(driver)}, timeout=50)
