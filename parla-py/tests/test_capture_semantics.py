"""Capture by value: what a body sees is what its names meant when it was spawned."""

from __future__ import annotations

import threading

import parla
import pytest
from parla import TaskSpace, spawn
from support import pass_gate, run_py


def test_each_task_sees_its_own_loop_variable(traced_parla, workers):
    with traced_parla(workers=workers):
        tasks = []
        for i in range(50):
            @spawn()
            def body():
                return i
            tasks.append(body)
    assert [t.result() for t in tasks] == list(range(50))


def test_nonlocal_changes_the_own_copy_only(traced_parla, workers):
    i = 10
    with traced_parla(workers=workers):
        tasks = []
        for _ in range(5):
            @spawn()
            def body():
                nonlocal i
                i += 4
                return i
            tasks.append(body)
    assert [t.result() for t in tasks] == [14] * 5
    assert i == 10


def test_a_change_after_the_spawn_is_not_seen():
    gate = threading.Event()
    value = "old"
    with parla.Parla(workers=1):
        @spawn()
        async def body():
            pass_gate(gate)
            return value

        value = "new"
        gate.set()
    assert (body.result(), value) == ("old", "new")


def test_the_copy_is_shallow(traced_parla):
    shared = []
    with traced_parla(workers=2):
        for i in range(20):
            spawn()(lambda: shared.append(i))
    assert sorted(shared) == list(range(20))


def test_names_used_in_nested_code_are_captured(traced_parla):
    with traced_parla(workers=2):
        tasks = []
        for i in range(10):
            @spawn()
            async def body():
                def inner():
                    return lambda: i
                return [i for _ in range(2)] + [inner()()]
            tasks.append(body)
    assert [t.result() for t in tasks] == [[i] * 3 for i in range(10)]


def test_the_capture_survives_an_await(traced_parla, workers):
    with traced_parla(workers=workers):
        space = TaskSpace("leaf")
        tasks = []
        for i in range(10):
            spawn(space[i])(lambda: None)

            @spawn()
            async def body():
                before = i
                await space[i]
                return before, i
            tasks.append(body)
    assert [t.result() for t in tasks] == [(i, i) for i in range(10)]


def test_the_function_itself_keeps_its_variables():
    count = 0

    def body():
        nonlocal count
        count += 1
        return count

    with parla.Parla(workers=1):
        first, second = spawn()(body), spawn()(body)
    assert (first.result(), second.result(), count) == (1, 1, 0)
    assert body() == 1
    assert count == 1


def test_defaults_and_attributes_come_along(traced_parla):
    def body(a=[1], *, b="kw"):
        """Documented."""
        return a, b, body_name
    body_name = body.__name__
    with traced_parla(workers=1):
        task = spawn()(body)
    assert task.result() == ([1], "kw", "body")
    assert task.result()[0] is body.__defaults__[0]


class Base:
    """A class whose method is called through super()."""

    def value(self):
        return "base"


class Derived(Base):
    """A class whose method spawns a body that uses super()."""

    def value(self):
        @spawn()
        def body():
            return super(Derived, self).value(), __class__
        return body


def test_self_and_class_cells(traced_parla):
    with traced_parla(workers=1):
        task = Derived().value()
    assert task.result() == ("base", Derived)


def test_an_unassigned_cell_is_named(works_afterwards):
    with parla.Parla(workers=1):
        with pytest.raises(NameError, match="later_value"):
            @spawn()
            def body():
                return later_value
        later_value = 1
    assert later_value == 1


def test_a_deleted_variable_is_named(works_afterwards):
    gone = 1
    with parla.Parla(workers=1):
        del gone
        with pytest.raises(NameError, match="gone"):
            spawn()(lambda: gone)


def module(body: str) -> list[str]:
    """Runs `body` indented into a `with Parla()` at module level and returns the sorted lines it printed."""
    indented = "\n".join("    " + line for line in body.strip("\n").splitlines())
    header = "from parla import Parla, TaskSpace, spawn, get_current_task\nT = TaskSpace('T')\n"
    return sorted(run_py(f"{header}with Parla(workers=2):\n{indented}\n").stdout.splitlines())


def test_module_level_loop_variable():
    assert module("""
for i in range(5):
    @spawn(T[i])
    def body():
        print(i)
""") == ["0", "1", "2", "3", "4"]


def test_module_level_while_and_rebinding():
    assert module("""
i, word = 0, "first"
while i < 3:
    @spawn(T[i])
    async def body():
        print(i, word)
    i += 1
    word = "later"
""") == ["0 first", "1 later", "2 later"]


def test_module_level_nested_code():
    assert module("""
for i in range(3):
    @spawn(T[i])
    def body():
        print((lambda: [i for _ in range(2)])())
""") == ["[0, 0]", "[1, 1]", "[2, 2]"]


def test_module_level_capture_survives_an_await():
    assert module("""
for i in range(3):
    @spawn(T[i])
    async def body():
        if i:
            await T[i - 1]
        print(i)
""") == ["0", "1", "2"]


def test_module_level_global_statement_writes_the_module():
    source = """
        from parla import Parla, spawn
        total = 0
        with Parla(workers=1):
            for i in range(4):
                @spawn()
                def body(i=i):
                    global total
                    total += i
        print(total)
    """
    assert run_py(source).stdout == "6\n"


def test_module_level_captured_and_global_names_together_are_refused():
    """What a body assigns to globals is the module's at once, so it cannot run in a namespace of its own."""
    source = """
        from parla import Parla, SpawnError, spawn
        total = 0
        with Parla(workers=1):
            for i in range(4):
                try:
                    @spawn()
                    def body():
                        global total
                        total += i
                except SpawnError as error:
                    print(error)
    """
    lines = run_py(source).stdout.splitlines()
    assert len(lines) == 4
    for part in ("'body'", "'i'", "'total'", "i=i"):
        assert part in lines[0]


def test_module_level_names_bound_once_stay_by_reference():
    """A name that the spawning code binds once, such as a function defined further down, means the module's."""
    source = """
        from parla import Parla, spawn
        with Parla(workers=1) as rt:
            import threading
            gate = threading.Event()
            @spawn()
            def body():
                assert gate.wait(10)
                print(helper())
            def helper():
                return "defined later"
            gate.set()
    """
    assert run_py(source).stdout == "defined later\n"


def test_module_level_name_bound_nowhere_is_the_bodys_error():
    source = """
        from parla import Parla, spawn
        try:
            with Parla(workers=1):
                @spawn()
                def body():
                    return missing_name
        except NameError as e:
            print(e)
    """
    assert run_py(source).stdout == "name 'missing_name' is not defined\n"
