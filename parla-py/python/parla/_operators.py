"""Python's operators in terms of NumPy's universal functions, for classes that define ``__array_ufunc__``.

NumPy has such a mixin itself; this one doesn't import NumPy before an operator is used.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ArrayOperators", "declines"]


def declines(other: object) -> bool:
    """Whether an operand wants its own operator to be used, by NumPy's convention."""
    return getattr(type(other), "__array_ufunc__", declines) is None


def _forward(name: str) -> Any:
    def operator(self: Any, other: Any) -> Any:
        if declines(other):
            return NotImplemented
        import numpy

        return getattr(numpy, name)(self, other)

    return operator


def _reflected(name: str) -> Any:
    def operator(self: Any, other: Any) -> Any:
        if declines(other):
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


class ArrayOperators:
    """Arithmetic, comparison, reflected and in-place operators that call NumPy's universal functions."""

    __slots__ = ()

    # Elementwise equality and hashing don't go together, as for NumPy's arrays.
    __hash__: Any = None

    __lt__: Any = _forward("less")
    __le__: Any = _forward("less_equal")
    __eq__: Any = _forward("equal")
    __ne__: Any = _forward("not_equal")
    __gt__: Any = _forward("greater")
    __ge__: Any = _forward("greater_equal")
    __add__: Any = _forward("add")
    __radd__: Any = _reflected("add")
    __iadd__: Any = _in_place("add")
    __sub__: Any = _forward("subtract")
    __rsub__: Any = _reflected("subtract")
    __isub__: Any = _in_place("subtract")
    __mul__: Any = _forward("multiply")
    __rmul__: Any = _reflected("multiply")
    __imul__: Any = _in_place("multiply")
    __matmul__: Any = _forward("matmul")
    __rmatmul__: Any = _reflected("matmul")
    __imatmul__: Any = _in_place("matmul")
    __truediv__: Any = _forward("true_divide")
    __rtruediv__: Any = _reflected("true_divide")
    __itruediv__: Any = _in_place("true_divide")
    __floordiv__: Any = _forward("floor_divide")
    __rfloordiv__: Any = _reflected("floor_divide")
    __ifloordiv__: Any = _in_place("floor_divide")
    __mod__: Any = _forward("remainder")
    __rmod__: Any = _reflected("remainder")
    __imod__: Any = _in_place("remainder")
    __divmod__: Any = _forward("divmod")
    __rdivmod__: Any = _reflected("divmod")
    __pow__: Any = _forward("power")
    __rpow__: Any = _reflected("power")
    __ipow__: Any = _in_place("power")
    __lshift__: Any = _forward("left_shift")
    __rlshift__: Any = _reflected("left_shift")
    __ilshift__: Any = _in_place("left_shift")
    __rshift__: Any = _forward("right_shift")
    __rrshift__: Any = _reflected("right_shift")
    __irshift__: Any = _in_place("right_shift")
    __and__: Any = _forward("bitwise_and")
    __rand__: Any = _reflected("bitwise_and")
    __iand__: Any = _in_place("bitwise_and")
    __xor__: Any = _forward("bitwise_xor")
    __rxor__: Any = _reflected("bitwise_xor")
    __ixor__: Any = _in_place("bitwise_xor")
    __or__: Any = _forward("bitwise_or")
    __ror__: Any = _reflected("bitwise_or")
    __ior__: Any = _in_place("bitwise_or")
    __neg__: Any = _unary("negative")
    __pos__: Any = _unary("positive")
    __abs__: Any = _unary("absolute")
    __invert__: Any = _unary("invert")
