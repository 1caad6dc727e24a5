"""Which globals a body at module level captures, and the namespace it runs in."""

from __future__ import annotations

import gc
import sys
import textwrap
import types
import weakref

import pytest
from parla._capture import CapturedGlobals, rebound_globals
from parla.errors import SpawnError


def module(source: str) -> types.CodeType:
    return compile(textwrap.dedent(source), "<module under test>", "exec")


def code_of(name: str, code: types.CodeType) -> types.CodeType:
    """The code of the function `name`, wherever it is in the module."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            if constant.co_name == name:
                return constant
            try:
                return code_of(name, constant)
            except LookupError:
                continue
    raise LookupError(name)


def captured(source: str) -> tuple[str, ...]:
    """What the function `body` of the module captures."""
    code = module(source)
    return rebound_globals(code, code_of("body", code))


BODY = """
def body():
    return a
"""


@pytest.mark.parametrize(
    "binding",
    [
        "for a in range(3): pass",
        "for a, b in []: pass",
        "for b, *a in []: pass",
        "for b in []:\n    a = 1",
        "for b in []:\n    if b:\n        a = 1\n    else:\n        pass",
        "for b in []:\n    for a in []: pass",
        "for b in []:\n    with b as a: pass",
        "for b in []:\n    try:\n        pass\n    except KeyError:\n        a = 1",
        "for b in []:\n    try:\n        pass\n    finally:\n        a = 1",
        "for b in []:\n    a: int = 1",
        "while b:\n    a = 1",
        "while True:\n    a = 1\n    if a: break",
        "while b:\n    if b:\n        a = 1\n        continue\n    b()",
        "while (a := b()):\n    pass",
        "a = 1\na = 2",
        "a = 1\na += 1",
        "(a, b) = 1, 2\na = 3",
        "a = b = 1\na, c = 1, 2",
        "a = 1\ndel a",
        "try:\n    pass\nexcept KeyError as a:\n    pass",
        "with b as a: pass\nwith c as a: pass",
        "if b:\n    a = 1\nelse:\n    a = 2",
        "a = lambda: 1\na = lambda: 2",
        "for b in []:\n    a = lambda: 1",
        "for b in []:\n    a = [x for x in b]",
        "[a := x for x in b]",
        "[[a := x for x in b] for b in c]",
        "sum(a := x for x in b)",
        "import a\na = 1\na = 2",
        "def a(): pass\na = 1\na = 2",
        "global a\nfor a in []: pass",
        "global a\na = 1\na = 2",
    ],
)
def test_rebound(binding):
    assert captured(binding + BODY) == ("a",)


@pytest.mark.parametrize(
    "binding",
    [
        "",
        "a = 1",
        "a: int = 1",
        "a: int",
        "with b as a: pass",
        "import a",
        "import a\nimport a",
        "import x.y as a\nfrom x import a\nfrom x import b, c as a",
        "for b in []:\n    import a",
        "for b in []:\n    from a import a, c",
        "from x import *\na = 1",
        "def a(): pass\ndef a(): pass",
        "for b in []:\n    def a(): pass",
        "for b in []:\n    class a: pass",
        "for b in []:\n    @b(1)\n    @c\n    def a(x=b, *, y: int = 3): pass",
        "for b in []:\n    @b\n    class a(b, metaclass=c): pass",
        "for b in []:\n    async def a(): pass",
        "def a(): pass\na = 1",
        "a = [a for a in b]",
        "for b in []:\n    [a for a in b]",
        "def f():\n    for a in []: pass",
        "class C:\n    for a in []: pass",
        "for b in []: pass\nc = [x for x in b]\na = 1",
        "while b: pass\na = 1",
    ],
)
def test_not_rebound(binding):
    assert captured(binding + BODY) == ()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
@pytest.mark.parametrize("binding", ["for b in []:\n    def a[T](x: T): pass", "for b in []:\n    class a[T]: pass", "for b in []:\n    type a = int"])
def test_generic_definitions_are_definitions(binding):
    assert captured(binding + BODY) == ()


def test_captured_names_and_global_assignments_together_are_refused():
    """The namespace that holds the first is the task's own, so the second would not reach the module at once."""
    with pytest.raises(SpawnError, match="'a'.*'c'.*a=a"):
        captured("for a in []:\n    def body():\n        global c\n        c = a")


@pytest.mark.parametrize(
    "body",
    [
        "def body(): return a",
        "async def body(): await a",
        "def body(): return [a for _ in b]",
        "def body(): return lambda: a",
        "def body():\n    def inner():\n        def innermost(): return a\n        return innermost\n    return inner",
        "def body():\n    class C:\n        x = a\n    return C",
        "def body():\n    class C:\n        def f(self): return a\n    return C",
        "def body(): print(f'{a}')",
        "def body(): a.attribute = 1",
        "def body(): a[0] += 1",
        "@spawn(a)\ndef body(): return a",
    ],
)
def test_reads_anywhere_in_the_body(body):
    assert captured("for a in []:\n" + textwrap.indent(body, "    ")) == ("a",)


@pytest.mark.parametrize(
    "body",
    [
        "def body(): return b",
        "def body(a): return a",
        "def body(a=a): return a",
        "def body():\n    a = 1\n    return a",
        "def body(): return b.a",
        "def body():\n    import a\n    return a",
        "def body():\n    global a\n    a += 1",
        "def body():\n    global a\n    del a",
        "def body():\n    def inner():\n        global a\n        a = 1\n    return a",
        "def body(): return [a for a in b]",
    ],
)
def test_bodies_that_do_not_capture(body):
    assert captured("for a in []:\n" + textwrap.indent(body, "    ")) == ()


def test_several_names_sorted():
    source = """
        n = 0
        while n < 3:
            for word, (i, j) in []:
                n += 1
                def body():
                    return n, word, j, len(once)
        once = 1
    """
    assert captured(source) == ("j", "n", "word")


def test_a_spawning_function_that_rebinds_a_global():
    code = module("""
        def launch():
            global a
            for a in []:
                def body():
                    return a
        def other():
            def body2():
                return a
    """)
    body = code_of("body", code)
    assert rebound_globals(code_of("launch", code), body) == ("a",)
    assert rebound_globals(code_of("other", code), body) == ()
    assert rebound_globals(code, body) == ()


def test_inside_try_and_with_in_a_loop():
    source = """
        with b:
            for a in []:
                try:
                    with c() as a2:
                        def body():
                            return a, a2, d
                except KeyError as e:
                    f = e
                else:
                    continue
        d = 1
    """
    assert set(captured(source)) - {"d"} == {"a", "a2"}


def test_what_lookups_in_the_namespace_need():
    source = """
        for a in []:
            def body():
                from . import sibling
                class C(Base):
                    x = a + limit
                return C, helper
    """
    names = captured(source)
    assert {"a", "limit", "__package__", "__spec__"} <= set(names)
    assert "helper" not in names


def run_with(source: str, names: tuple[str, ...], module_globals: dict) -> tuple[object, CapturedGlobals]:
    """Call the function `body` of the source in captured globals."""
    namespace = CapturedGlobals.make(names, module_globals)
    function = types.FunctionType(code_of("body", module(source)), namespace)
    return function(), namespace


def test_captured_names_keep_their_values_and_others_follow_the_module():
    globals_ = {"a": 1, "b": 1, "__name__": "somewhere"}
    namespace = CapturedGlobals.make(("a", "unbound"), globals_)
    function = types.FunctionType(code_of("body", module("def body(): return a, b, len, unbound")), namespace)
    with pytest.raises(NameError, match="unbound"):
        function()
    globals_.update(a=2, b=2, unbound=3)
    assert function() == (1, 2, len, 3)
    del globals_["b"]
    with pytest.raises(NameError, match="'b' is not defined"):
        function()
    assert function.__module__ == "somewhere"


def test_nested_code_sees_the_same_names():
    source = """
        def body():
            class C:
                x = a
                def f(self): return a, b
            return [a for _ in range(2)], (lambda: a)(), C.x, C().f(), eval("a")
    """
    result, _ = run_with(source, ("a",), {"a": 1, "b": 2, "__name__": "m"})
    assert result == ([1, 1], 1, 1, (1, 2), 1)


def test_a_modules_own_builtins_are_used():
    result, _ = run_with("def body(): return len(a)", ("a",), {"a": [1], "__builtins__": {"len": lambda x: "mine"}})
    assert result == "mine"


def test_imports_in_the_body():
    result, _ = run_with("def body():\n    import math\n    return math.pi, a", ("a",), {"a": 1, "__name__": "m"})
    assert result == (pytest.approx(3.14159, abs=1e-5), 1)


def test_nothing_is_kept():
    class Thing:
        """Something that can be referred to weakly."""

    globals_ = {"a": Thing(), "__name__": "m"}
    reference = weakref.ref(globals_["a"])
    _, namespace = run_with("def body(): return None", ("a",), globals_)
    del globals_["a"]
    assert reference() is not None
    del namespace, _
    gc.collect()
    assert reference() is None
