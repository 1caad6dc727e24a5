"""Capture by value for task bodies written at module level.

A body inside a function holds the names around it in closure cells, and `spawn` copies those. A body at module level
finds them as globals, so that all tasks spawned by a loop would see the loop variable's last value. `rebound_globals`
reads from the bytecode which globals of a body the code around its spawn binds more than once; `CapturedGlobals` is
the namespace in which such a body runs: those names by value, all others still the module's own.

What stays by reference: names the spawning code binds once (modules, functions, constants, arrays), and whatever
functions called by the body read. A body cannot do both, capture names and assign to names it declares ``global``: the
namespace it runs in is its own. That is an error at spawn, which says how to write it instead.
"""

from __future__ import annotations

import dis
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from types import CodeType
from typing import Any

from parla.errors import SpawnError

__all__ = ["CapturedGlobals", "rebound_globals"]

_STORES = frozenset({"STORE_NAME", "STORE_GLOBAL"})
_DELETES = frozenset({"DELETE_NAME", "DELETE_GLOBAL"})
# How class bodies read globals, and scopes of annotations and type parameters inside them (3.12 and later).
_NAMESPACE_LOADS = frozenset({"LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_GLOBAL_LOADS = frozenset({"LOAD_GLOBAL"}) | _NAMESPACE_LOADS
_GLOBAL_WRITES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_IMPORTS = frozenset({"IMPORT_NAME", "IMPORT_FROM"})
_STAR_IMPORTS = frozenset({"IMPORT_STAR", "CALL_INTRINSIC_1"})
_JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
_COMPREHENSIONS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})
_GENERIC = "<generic parameters of "
# Relative imports look these up in the namespace directly, where `__missing__` isn't asked.
_IMPORT_CONTEXT = ("__package__", "__spec__")

# What every captured namespace holds besides the captured names.
_OWN = frozenset({"__name__", "__builtins__"})

_ABSENT = object()


def rebound_globals(spawning_code: CodeType, body_code: CodeType) -> tuple[str, ...]:
    """The globals that a body must capture by value, sorted.

    These are the names that the body, or a function or class inside it, reads as globals and does not itself declare
    ``global``, and that the spawning code binds at two or more places or at one inside a loop. Bindings by ``def``,
    ``class`` and ``import`` don't count; ``del`` does.

    Raises:
        SpawnError: the body also assigns to global names.
    """
    read, written, imports_relatively = _global_uses(body_code)
    names = (read - written) & _rebound(spawning_code)
    if not names:
        return ()
    if written:
        raise SpawnError(
            f"the body '{body_code.co_name}' is written at module level, reads {_quoted(names)}, which the code around it "
            f"binds again and again, and assigns to {_quoted(written)}, declared global: Parla cannot give it the first by "
            f"value and the second by reference. Take the first as defaults (`def {body_code.co_name}"
            f"({', '.join(f'{n}={n}' for n in sorted(names))})`), or spawn inside a function"
        )
    # A class body inside looks its globals up in the namespace directly, so what it reads has to be there.
    names |= _class_body_reads(body_code) - written - _OWN
    if imports_relatively:
        names |= set(_IMPORT_CONTEXT)
    return tuple(sorted(names))


def _quoted(names: Iterable[str]) -> str:
    return " and ".join(f"'{name}'" for name in sorted(names))


@lru_cache(maxsize=512)
def _global_uses(code: CodeType) -> tuple[frozenset[str], frozenset[str], bool]:
    """Globals read and written by the code and all code inside it, and whether it has relative imports."""
    read: set[str] = set()
    written: set[str] = set()
    imports_relatively = False
    instructions = list(dis.get_instructions(code))
    for position, instruction in enumerate(instructions):
        if instruction.opname in _GLOBAL_LOADS:
            read.add(instruction.argval)
        elif instruction.opname in _GLOBAL_WRITES:
            written.add(instruction.argval)
        elif instruction.opname == "IMPORT_NAME" and position >= 2:
            # The level (above 0: relative) and the list of names are loaded just before.
            level = instructions[position - 2].argval
            imports_relatively |= isinstance(level, int) and level > 0
    for inner in _inner_codes(code):
        inner_read, inner_written, inner_relative = _global_uses(inner)
        read |= inner_read
        written |= inner_written
        imports_relatively |= inner_relative
    return frozenset(read), frozenset(written), imports_relatively


def _class_body_reads(code: CodeType) -> set[str]:
    names: set[str] = set()
    for inner in _inner_codes(code):
        names |= {i.argval for i in dis.get_instructions(inner) if i.opname in _NAMESPACE_LOADS}
        names |= _class_body_reads(inner)
    return names


def _inner_codes(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


@lru_cache(maxsize=256)
def _rebound(code: CodeType) -> frozenset[str]:
    """The names that module-level code binds at two or more places, or at one inside a loop."""
    instructions = list(dis.get_instructions(code))
    loops = _loops(instructions)
    places: Counter[str] = Counter()
    in_loop: set[str] = set()
    defined: set[str] = set()  # functions and classes made since, whose own store is still to come
    importing = False
    for instruction in instructions:
        name = instruction.argval
        if isinstance(name, CodeType):
            defined.add(_defined_name(name))
            in_loop |= _bound_by_comprehension(name)
        elif instruction.opname in _IMPORTS:
            importing = True
        elif instruction.opname in _STAR_IMPORTS:
            importing = False
        elif instruction.opname in _STORES:
            if importing:
                importing = False
            elif name in defined:
                defined.discard(name)
            else:
                places[name] += 1
                if any(start <= instruction.offset <= end for start, end in loops):
                    in_loop.add(name)
        elif instruction.opname in _DELETES:
            places[name] += 1
    return frozenset(in_loop | {name for name, count in places.items() if count > 1})


def _bound_by_comprehension(code: CodeType) -> set[str]:
    """The globals that ``:=`` binds inside a comprehension which has code of its own (all of them before 3.12)."""
    if code.co_name not in _COMPREHENSIONS:
        return set()
    bound = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL"}
    return bound.union(*map(_bound_by_comprehension, _inner_codes(code)))


def _defined_name(code: CodeType) -> str:
    """The name a def, class or type statement with this code binds; lambdas and comprehensions bind none."""
    name = code.co_name
    return name[len(_GENERIC) : -1] if name.startswith(_GENERIC) else name


def _loops(instructions: list[dis.Instruction]) -> list[tuple[int, int]]:
    """The offsets between the target of a backward jump and the jump itself.

    Compilers move exception handlers behind everything else, so that a range may also cover code after its loop: a
    name bound once there is then captured by value, which gives the same value.
    """
    return [
        (jump.argval, jump.offset)
        for jump in instructions
        if jump.opcode in _JUMPS and isinstance(jump.argval, int) and jump.argval < jump.offset
    ]


class CapturedGlobals(dict[str, Any]):
    """The globals of one task's body: some names by value, every other one looked up in the module.

    CPython asks `__missing__` of a namespace that is a subclass of dict, for a function's reads of globals.
    """

    __slots__ = ("module_globals",)

    module_globals: dict[str, Any]
    """The namespace of the module that the body was written in."""

    @classmethod
    def make(cls, names: tuple[str, ...], module_globals: dict[str, Any]) -> CapturedGlobals:
        """Copy the current values of `names`; those not yet bound stay by reference."""
        captured = cls()
        captured.module_globals = module_globals
        for name in names:
            value = module_globals.get(name, _ABSENT)
            if value is not _ABSENT:
                captured[name] = value
        # Functions take their `__module__` and their builtins from here, and don't ask `__missing__`.
        captured["__name__"] = module_globals.get("__name__")
        captured["__builtins__"] = module_globals.get("__builtins__", __builtins__)
        return captured

    def __missing__(self, name: str) -> Any:
        value = self.module_globals.get(name, _ABSENT)
        if value is not _ABSENT:
            return value
        builtins = self["__builtins__"]
        return (builtins if isinstance(builtins, dict) else vars(builtins))[name]
