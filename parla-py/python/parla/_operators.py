"""Python's operators in terms of NumPy's universal functions, for classes that define ``__array_ufunc__``.

NumPy has such a mixin itself; this one doesn't import NumPy before an operator is used.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ArrayOperators"]

_BINARY = {
    "add": "add", "sub": "subtract", "mul": "multiply", "matmul": "matmul", "truediv": "true_divide",
    "floordiv": "floor_divide", "mod": "remainder", "divmod": "divmod", "pow": "power", "lshift": "left_shift",
    "rshift": "right_shift", "and": "bitwise_and", "xor": "bitwise_xor", "or": "bitwise_or",
}  # fmt: skip
_COMPARISONS = {
    "lt": "less", "le": "less_equal", "eq": "equal", "ne": "not_equal", "gt": "greater", "ge": "greater_equal",
}  # fmt: skip
_UNARY = {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}


class ArrayOperators:
    """Arithmetic, comparison, reflected and in-place operators that call NumPy's universal functions."""

    __slots__ = ()

    # Elementwise equality and hashing don't go together, as for NumPy's arrays.
    __hash__ = None  # type: ignore[assignment]


def _declines(other: object) -> bool:
    """Whether an operand wants its own operator to be used, by NumPy's convention."""
    return getattr(other, "__array_ufunc__", _declines) is None


def _forward(name: str) -> Any:
    def operator(self: Any, other: Any) -> Any:
        if _declines(other):
            return NotImplemented
        import numpy

        return getattr(numpy, name)(self, other)

    return operator


def _reflected(name: str) -> Any:
    def operator(self: Any, other: Any) -> Any:
        if _declines(other):
            return NotImplemented
        import numpy

        return getattr(numpy, name)(other, self)

    return operator


def _in_place(name: str) -> Any:
    def operator(self: Any, other: Any) -> Any:
        import numpy

        return getattr(numpy, name)(self, other, out=(self,))

    return operator


def _unary(name: str) -> Any:
    def operator(self: Any) -> Any:
        import numpy

        return getattr(numpy, name)(self)

    return operator


def _define(method: str, function: Any) -> None:
    function.__name__ = method
    function.__qualname__ = f"ArrayOperators.{method}"
    setattr(ArrayOperators, method, function)


for _short, _ufunc in _BINARY.items():
    _define(f"__{_short}__", _forward(_ufunc))
    _define(f"__r{_short}__", _reflected(_ufunc))
    if _short != "divmod":
        _define(f"__i{_short}__", _in_place(_ufunc))
for _short, _ufunc in _COMPARISONS.items():
    _define(f"__{_short}__", _forward(_ufunc))
for _short, _ufunc in _UNARY.items():
    _define(f"__{_short}__", _unary(_ufunc))
