"""NumPy's universal functions and other functions, called with PArrays among their arguments."""

from __future__ import annotations

from typing import Any

__all__ = ["call_function", "call_ufunc", "is_parray", "localize"]

# Functions that write into their first argument: those that replace some elements, and those that replace all.
_CHANGING = frozenset({"fill_diagonal", "place", "put", "put_along_axis", "putmask"})
_REPLACING = frozenset({"copyto"})


def is_parray(value: object) -> bool:
    """Whether it is a `parla.parray.PArray`."""
    return hasattr(type(value), "__parla_operand__")


def localize(value: Any) -> Any:
    """The value with every PArray in it replaced by its local contents."""
    if is_parray(value):
        return value._read()
    if type(value) in (list, tuple):
        return type(value)(map(localize, value))
    if type(value) is dict:
        return {key: localize(item) for key, item in value.items()}
    return value


def call_ufunc(ufunc: Any, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What ``__array_ufunc__`` does: call the function on local contents; write to PArrays given as ``out``."""
    outputs = options.get("out", ())
    if any(getattr(type(value), "__array_ufunc__", call_ufunc) is None for value in (*inputs, *outputs)):
        return NotImplemented
    if method == "at" and is_parray(inputs[0]):
        ufunc.at(inputs[0]._reach("update"), *map(localize, inputs[1:]))
        return None
    values = [localize(value) for value in inputs]
    if "where" in options:
        options["where"] = localize(options["where"])
    if outputs:
        access = "write" if options.get("where", True) is True else "update"
        options["out"] = tuple(_target(output, access) for output in outputs)
    result = getattr(ufunc, method)(*values, **options)
    if not outputs:
        if method != "__call__":
            return result
        from parla._computed import computed

        return computed(result)
    for output, written in zip(outputs, options["out"]):
        if is_parray(output) and output._picked is not None:
            output[...] = written
    several = isinstance(result, tuple)
    given = tuple(o if is_parray(o) else r for o, r in zip(outputs, result if several else (result,)))
    return given if several else given[0]


def _target(output: Any, access: str) -> Any:
    """What a function is to write to for `output`: selected elements are written to a copy and then assigned."""
    if not is_parray(output):
        return output
    return output._reach(access) if output._picked is None else output._read().copy()


def call_function(function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What ``__array_function__`` does: call the function on local contents; write to PArrays that it is to change."""
    out = options.get("out")
    local = {key: localize(value) for key, value in options.items() if key != "out"}
    if out is not None:
        local["out"] = out._reach("update") if is_parray(out) else out
    name = getattr(function, "__name__", "")
    if (name in _CHANGING or name in _REPLACING) and arguments and is_parray(arguments[0]):
        replaces = name in _REPLACING and options.get("where", True) is True
        arguments = (arguments[0]._writable("write" if replaces else "update"), *arguments[1:])
    result = function(*map(localize, arguments), **local)
    return out if out is not None else result
