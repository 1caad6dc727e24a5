"""Tasks among the rest of Python: threading's books, logging, context variables, pools, and keys of every kind."""

from __future__ import annotations

import concurrent.futures
import contextvars
import enum
import json
import logging
import threading

import pytest
from parla import Parla, ParlaError, TaskSpace, spawn
from support import LIMIT, run_py


def test_threading_forgets_the_workers(workers):
    """`logging` asks for the current thread, which makes an entry that must not outlive the worker."""
    before = threading.enumerate()
    for _ in range(5):
        with Parla(workers=workers):
            names = [spawn()(lambda: threading.current_thread().name) for _ in range(20)]
        assert all(isinstance(t.result(), str) for t in names)
    assert threading.enumerate() == before


def test_logging_from_tasks(workers, caplog):
    with caplog.at_level(logging.INFO), Parla(workers=workers):
        for i in range(50):
            spawn()(lambda: logging.getLogger("task").info("number %d", i))
    assert sorted(r.args[0] for r in caplog.records) == list(range(50))


def test_context_variables_of_one_task_stay_in_it(workers):
    variable = contextvars.ContextVar("variable", default="unset")

    async def body():
        before = variable.get()
        variable.set("set")
        await spawn()(lambda: None)
        return before

    with Parla(workers=workers):
        made = [spawn()(body) for _ in range(50)]
    assert {t.result() for t in made} == {"unset"}
    assert variable.get() == "unset"


def test_a_context_variable_is_reset_after_an_await(workers):
    """The pattern of `numpy.errstate` and `decimal.localcontext` around an await, wherever the body goes on."""
    variable = contextvars.ContextVar("variable", default=0)
    barrier = threading.Event()

    async def body(i):
        token = variable.set(i)
        await spawn()(lambda: barrier.wait(0.001))
        inside = variable.get()
        variable.reset(token)
        return inside, variable.get()

    with Parla(workers=workers):
        made = [spawn()(body(i)) for i in range(1, 50)]
    assert [t.result() for t in made] == [(i, 0) for i in range(1, 50)]


def test_an_executor_inside_and_around(workers):
    with concurrent.futures.ThreadPoolExecutor(4) as pool, Parla(workers=workers):
        inside = spawn()(lambda: sum(pool.map(lambda x: x * x, range(10))))
        inside.wait()
        around = list(pool.map(lambda i: spawn()(lambda: i).result(LIMIT), range(20)))
    assert inside.result() == 285
    assert around == list(range(20))


@pytest.mark.parametrize("where", ["block", "task"])
def test_a_forking_pool(where):
    """`multiprocessing` with fork, the default on Linux before Python 3.14, from the block and from a task."""
    run = "square_all()" if where == "block" else "spawn()(square_all).result()"
    assert run_py(f"""
        import multiprocessing, warnings
        warnings.simplefilter("ignore")
        from parla import Parla, spawn
        def square(x):
            return x * x
        def square_all():
            with multiprocessing.get_context("fork").Pool(2) as pool:
                return sum(pool.map(square, range(5)))
        with Parla(workers=2):
            before = spawn()(lambda: 1)
            print({run}, before.result())
    """).stdout == "30 1\n"


def test_recursion_through_c_code_ends_in_an_exception(workers):
    """A worker's native stack is as large as the main thread's, or Python's own limit comes first."""
    def nested(n):
        value = []
        for _ in range(n):
            value = [value]
        return value

    def through_c(n):
        return 0 if n == 0 else max([n - 1], key=through_c)

    with Parla(workers=workers):
        repr_task = spawn()(lambda: repr(nested(100_000)))
        json_task = spawn()(lambda: json.dumps(nested(100_000)))
        c_task = spawn()(lambda: through_c(100_000))
        assert isinstance(repr_task.exception(), RecursionError)
        assert isinstance(json_task.exception(), RecursionError)
        assert isinstance(c_task.exception(), RecursionError)


def test_a_higher_recursion_limit_holds_in_tasks():
    run_py("""
        import sys
        from parla import Parla, spawn
        sys.setrecursionlimit(6000)
        def depth(n):
            return 0 if n == 0 else 1 + max([n - 1], key=lambda m: 0) - n + 1 + depth(n - 1)
        def through_c(n):
            return 0 if n == 0 else max([n - 1], key=through_c)
        with Parla(workers=2):
            assert spawn()(lambda: depth(5000)).result() == 5000
            assert spawn()(lambda: through_c(2500)).result() == 2499
    """)


class Colour(enum.Enum):
    """A key of a kind that programs use."""

    RED = 1


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (Colour.RED, "T_Colour.RED"),
        (("panel", Colour.RED), "T_panel_Colour.RED"),
        (2.5, "T_2.5"),
        (None, "T_None"),
        (10**30, f"T_{10**30}"),
        (b"x", "T_b'x'"),
    ],
)
def test_names_of_unusual_keys(key, name):
    """A message that calls a task `object0` helps nobody."""
    space = TaskSpace("T")
    assert space[key].name == name
    assert space[key] == space[key]


def test_equal_keys_are_one_key():
    """As in a dict."""
    space = TaskSpace("T")
    assert space[True] == space[1]
    assert space[1.0] == space[1]
    assert hash(space[1.0]) == hash(space[1])


def test_a_large_negative_integer_names_nothing():
    space = TaskSpace("T")
    assert len(space[-(10**30)]) == 0
    with Parla(workers=1), pytest.raises(IndexError):
        spawn(space[-(10**30)])(lambda: None)


def test_text_that_is_no_unicode_is_kept_or_refused():
    """Never replaced by something else on the way."""
    bad = "\udcff"

    def kept_or_refused(make):
        try:
            return make() == bad
        except ValueError:
            return True

    with Parla(workers=1):
        assert kept_or_refused(lambda: TaskSpace(bad).name)
        assert kept_or_refused(lambda: TaskSpace("T")[bad].id)
        assert kept_or_refused(lambda: spawn(name=bad)(lambda: None).name)


def test_a_slice_far_too_long_is_an_error_not_the_end_of_the_machine():
    space = TaskSpace("T")
    with pytest.raises((ValueError, OverflowError, MemoryError)):
        space[0 : 10**15]
    with pytest.raises((ValueError, OverflowError, MemoryError)):
        space[0 : 10**30]


def test_pickling_a_task_is_refused_by_name():
    import pickle

    with Parla(workers=1):
        task = spawn()(lambda: None)
        with pytest.raises((TypeError, pickle.PicklingError), match="Task"):
            pickle.dumps(task)


def test_copying_a_task_is_refused_or_gives_the_task():
    import copy

    with Parla(workers=1):
        task = spawn()(lambda: None)
        for make in (copy.copy, copy.deepcopy):
            try:
                assert make(task) is task
            except TypeError as e:
                assert "Task" in str(e)


def test_classes_cannot_be_made_by_hand_or_are_harmless():
    import parla

    for kind in (parla.Task, parla.TaskID):
        with pytest.raises(TypeError):
            kind()


def test_a_thread_that_opened_nothing_spawns_into_the_open_runtime(workers):
    """And after its end it is refused."""
    results, ended = [], threading.Event()

    def foreign(task_made):
        task = spawn()(lambda: "foreign")
        task_made.set()
        results.append(task.result(LIMIT))
        assert ended.wait(LIMIT)
        try:
            spawn()(lambda: None)
        except ParlaError as e:
            results.append(type(e).__name__)

    made = threading.Event()
    thread = threading.Thread(target=foreign, args=(made,))
    with Parla(workers=workers):
        thread.start()
        assert made.wait(LIMIT)
    ended.set()
    thread.join(LIMIT)
    assert results[0] == "foreign"
    assert len(results) == 2
