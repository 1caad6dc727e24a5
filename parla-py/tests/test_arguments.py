"""Wrong arguments: refused where they are given, by name, with the builtin or `ParlaError` that a user expects."""

from __future__ import annotations

import pytest
from parla import Parla, ParlaError, TaskSpace, spawn
from parla.cpu import cpu
from parla.errors import PlacementError
from support import run_py

NAN, INF = float("nan"), float("inf")


def brief(value):
    """Test ids of huge numbers and of objects with addresses, kept short and the same in every run."""
    return type(value).__name__ if type(value) is object else str(value)[:24]



@pytest.fixture(autouse=True)
def runtime():
    """A runtime that is open in each test, and whose end shows that the refused spawn left nothing behind."""
    with Parla(workers=1):
        yield


def refused(error, words, *args, **kwargs):
    """The spawn is refused with `error`, whose text has every word; the id stays free."""
    space = TaskSpace("R")
    with pytest.raises(error) as caught:
        spawn(space[0], *args, **kwargs)(lambda: "must not run")
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {str(caught.value)!r}"
    assert spawn(space[0])(lambda: "free").result(10) == "free"


@pytest.mark.parametrize("value", [NAN, INF, -INF, -1, -0.001, -(10**400)], ids=brief)
@pytest.mark.parametrize("argument", ["vcus", "memory"])
def test_numbers_that_are_no_amount(argument, value):
    refused((ValueError, OverflowError, PlacementError), [argument], **{argument: value})


@pytest.mark.parametrize("value", [2, 1.5, 1e300, 10**400], ids=brief)
def test_more_vcus_than_a_device(value):
    refused((PlacementError, ValueError), ["vcus"], vcus=value)


@pytest.mark.parametrize("value", [2**62, 2**64, 10**400, 1e300], ids=brief)
def test_more_memory_than_a_device(value):
    refused(PlacementError, ["needs", "largest cpu"], memory=value)


@pytest.mark.parametrize("value", ["1", b"1", [1], {}, object(), 1j], ids=brief)
@pytest.mark.parametrize("argument", ["vcus", "memory", "ndevices", "priority", "retries"])
def test_wrong_types(argument, value):
    refused(TypeError, [argument], **{argument: value})


@pytest.mark.parametrize("value", [0, -1, 2, 10**9, 10**400], ids=brief)
def test_numbers_of_devices_that_cannot_be(value):
    refused((PlacementError, ValueError), ["ndevices"], ndevices=value)


def test_negative_retries():
    refused(ValueError, ["retries"], retries=-1)


@pytest.mark.parametrize("value", [2**63, 10**400, -(10**400)], ids=brief)
def test_priorities_beyond_every_integer(value):
    refused((ValueError, OverflowError), ["priority"], priority=value)


def test_zero_claims_are_fine():
    assert spawn(vcus=0, memory=0)(lambda: 1).result(10) == 1


@pytest.mark.parametrize("value", [3, "cpu", object(), int, [3], [None], [[]], [()]], ids=brief)
def test_placements_that_are_none(value):
    refused((TypeError, PlacementError), ["placement"], placement=value)


@pytest.mark.parametrize("value", [[], ()])
def test_an_empty_placement(value):
    refused((PlacementError, ValueError), ["placement"], placement=value)


def test_a_device_that_does_not_exist():
    with pytest.raises((PlacementError, ValueError, IndexError), match="cpu"):
        spawn(placement=cpu(10_000))(lambda: None)


def test_a_gpu_on_a_machine_without_one():
    from parla.devices import gpu

    refused(PlacementError, ["gpu"], placement=gpu)
    assert spawn(placement=[cpu, gpu])(lambda: 1).result(10) == 1


def test_unknown_keywords():
    refused(TypeError, ["colour"], colour="blue")


def test_too_many_positional_arguments():
    with pytest.raises(TypeError):
        spawn(TaskSpace("T")[0], (), cpu)


@pytest.mark.parametrize("value", [3, "T", object(), [], lambda: None], ids=brief)
def test_ids_that_are_none(value):
    with pytest.raises(TypeError, match="taskid"):
        spawn(value)(lambda: None)


def test_a_space_or_a_slice_is_no_id():
    space = TaskSpace("T")
    for several in (space, space[0:3]):
        with pytest.raises(TypeError, match="taskid"):
            spawn(several)(lambda: None)


@pytest.mark.parametrize("name", [3, b"name", [], object()], ids=brief)
def test_names_that_are_no_text(name):
    refused(TypeError, ["name"], name=name)


@pytest.mark.parametrize("name", ["", "späte Aufgabe 🦀", "a\nb", "{}%s", "x" * 10_000])
def test_any_text_is_a_name(name):
    task = spawn(name=name)(lambda: None)
    assert task.name == name
    task.wait()
    assert repr(task)


def test_the_family_of_errors():
    from parla import errors

    family = {
        "ParlaError": Exception,
        "SpawnError": (errors.ParlaError, ValueError),
        "PlacementError": errors.ParlaError,
        "DeadlockError": errors.ParlaError,
        "TaskCancelled": errors.ParlaError,
        "DependencyFailed": errors.TaskCancelled,
        "DeviceError": errors.ParlaError,
        "DeviceOutOfMemory": (errors.DeviceError, MemoryError),
        "PolicyError": errors.ParlaError,
        "VariantDefinitionError": errors.ParlaError,
        "InvalidSchedulerAccessException": errors.ParlaError,
    }
    for name, bases in family.items():
        for base in bases if isinstance(bases, tuple) else (bases,):
            assert issubclass(getattr(errors, name), base), (name, base)


@pytest.mark.parametrize("argument", ["name", "shape", "start"])
def test_arguments_of_a_space(argument):
    with pytest.raises(TypeError, match=argument):
        TaskSpace(**{argument: object()})


@pytest.mark.parametrize("shape", [-1, (2, -1)])
def test_a_negative_shape(shape):
    with pytest.raises(ValueError, match="shape"):
        TaskSpace("T", shape=shape)


BAD_RUNTIMES = [
    ({"workers": 0}, ValueError, "workers"),
    ({"workers": -1}, ValueError, "workers"),
    ({"workers": 10**9}, ValueError, "workers"),
    ({"workers": 10**400}, (ValueError, OverflowError), "workers"),
    ({"workers": 1.5}, TypeError, "workers"),
    ({"workers": "2"}, TypeError, "workers"),
    ({"n_workers": 0}, ValueError, "workers"),
    ({"workers": 1, "n_workers": 2}, (TypeError, ValueError), "workers"),
    ({"policy": "no such policy"}, (ParlaError, ValueError), "policy.*no such policy"),
    ({"policy": 3}, TypeError, "policy"),
    ({"colour": "blue"}, TypeError, "colour"),
    ({"trace": 3.5}, TypeError, "trace"),
]


@pytest.mark.parametrize(("options", "error", "word"), BAD_RUNTIMES, ids=brief)
def test_options_of_the_runtime(options, error, word):
    with pytest.raises(error, match=word):
        Parla(**options)


BAD_ENVIRONMENT = [
    *[("PARLA_NUM_THREADS", v) for v in ("0", "-1", "two", "1.5", "99999999999999999999")],
    *[("PARLA_CPU_ARCHITECTURE", v) for v in ("half", "2")],
    *[("PARLA_CORES", v) for v in ("0", "-3", "many")],
    *[("PARLA_CPU_MEM", v) for v in ("-1", "lots", "nan")],
    *[("PARLA_WATCHDOG", v) for v in ("-1", "soon", "nan")],
    ("PARLA_SIM_GPUS", "two"),
]


@pytest.mark.parametrize(("variable", "value"), BAD_ENVIRONMENT)
def test_a_bad_environment_value_is_an_error_that_names_it(variable, value):
    done = run_py(
        """
        try:
            from parla import Parla, spawn
            from parla.cpu import cpu
            with Parla():
                spawn(placement=cpu, memory=1)(lambda: print("ran"))
        except Exception as e:
            print(type(e).__name__, e)
        """,
        env={variable: value, **({"PARLA_CPU_ARCHITECTURE": "cores"} if variable == "PARLA_CORES" else {})},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert variable in done.stdout, done.stdout + done.stderr
    assert "ran" not in done.stdout.splitlines()
