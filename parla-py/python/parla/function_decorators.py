"""Functions with one implementation per architecture.

>>> @specialized
... def norm(a):
...     return sum(x * x for x in a) ** 0.5
>>> @norm.variant(gpu)
... def norm_gpu(a):
...     ...

Inside a task, ``norm(a)`` calls the variant for the devices of that task, and the decorated function itself where
there is none. Outside a task it always calls the decorated function.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Union, cast

from parla.device import Architecture, Device, DeviceRequirement
from parla.errors import VariantDefinitionError

__all__ = ["SpecializedFunction", "VariantDefinitionError", "specialize", "specialized"]

#: The devices a variant is for: one of an architecture, or one of each in order.
Target = Union[Architecture, "tuple[Architecture, ...]"]

_MAX_AMOUNT = 8


class SpecializedFunction(Protocol):
    """A function that chooses its implementation by the devices of the calling task."""

    __name__: str
    __wrapped__: Callable[..., Any]

    @property
    def variants(self) -> Mapping[tuple[Architecture, ...], Callable[..., Any]]:
        """The implementations by architecture (a tuple: one entry per device of the task); read-only."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the variant for the devices of the running task, or the default."""
        ...

    def variant(
        self,
        *targets: Target | list[Target],
        architecture: Architecture | None = None,
        max_amount: int | None = None,
        override: bool = False,
    ) -> Callable[[Callable[..., Any]], Any]:
        """Declare an implementation; a decorator.

        Args:
            targets: an architecture (``gpu``), a tuple for tasks of several devices (``(gpu, gpu)`` or ``gpu * 2``);
                several of them, also as a list, share the implementation.
            architecture: instead of `targets`: tasks of 1, 2, ... `max_amount` devices of that architecture.
            max_amount: with `architecture`; 8 if not given.
            override: replace an earlier variant instead of refusing.

        The decorated name stays the plain implementation, unless it is the name of the specialized function itself:
        then it stays the specialized function.

        Raises:
            VariantDefinitionError: there is such a variant already, or it is a coroutine function where the default
                is a plain one, or the other way round.
            TypeError: something is not an architecture.
        """
        ...


def specialized(function: Callable[..., Any]) -> SpecializedFunction:
    """Make `function` the default of a function that has variants for architectures.

    The result is a function (a coroutine function, if `function` is) with the name and signature of the default. Its
    `variant` method declares implementations. It can be the body of a task. Where no default is possible, let it
    raise NotImplementedError.

    Raises:
        TypeError: `function` is not callable.
    """
    if not callable(function):
        raise TypeError(f"specialized needs a function, not {type(function).__name__}")
    variants: dict[tuple[Architecture, ...], Callable[..., Any]] = {}
    is_async = inspect.iscoroutinefunction(function)
    choose = functools.partial(_choose, variants, function)

    # One line each, because they take the place of the default in messages: see below.
    # fmt: off
    async def dispatch_async(*args: Any, **kwargs: Any) -> Any: return await choose()(*args, **kwargs)
    def dispatch_plain(*args: Any, **kwargs: Any) -> Any: return choose()(*args, **kwargs)
    # fmt: on
    dispatch: Any = dispatch_async if is_async else dispatch_plain

    name: str = getattr(function, "__name__", type(function).__name__)
    functools.update_wrapper(dispatch, function)
    # Tasks, their traces and tracebacks show the name and the place in the code: let them be the user's.
    shown: dict[str, Any] = {"co_name": name}
    if (default_code := getattr(function, "__code__", None)) is not None:
        shown |= {"co_filename": default_code.co_filename, "co_firstlineno": default_code.co_firstlineno}
    dispatch.__code__ = dispatch.__code__.replace(**shown)

    def variant(
        *targets: Target | list[Target],
        architecture: Architecture | None = None,
        max_amount: int | None = None,
        override: bool = False,
    ) -> Callable[[Callable[..., Any]], Any]:
        keys = _keys(name, targets, architecture, max_amount)

        def check_free() -> None:
            taken = [key for key in keys if key in variants]
            if taken and not override:
                raise VariantDefinitionError(
                    f"{name} already has a variant for {_show(taken[0])}; override=True replaces it"
                )

        check_free()

        def declare(implementation: Callable[..., Any]) -> Any:
            if not callable(implementation):
                raise TypeError(f"{name}.variant needs a function, not {type(implementation).__name__}")
            if inspect.iscoroutinefunction(implementation) != is_async:
                raise VariantDefinitionError(
                    f"{name} is {_kind(is_async)}, so its variant for {_show(keys[0])} must be one too"
                )
            check_free()
            for key in keys:
                variants[key] = implementation
            return dispatch if getattr(implementation, "__name__", None) == name else implementation

        return declare

    dispatch.variant = variant
    dispatch.variants = _ReadOnly(variants)
    return cast(SpecializedFunction, dispatch)


#: The newer name of `specialized`.
specialize = specialized


class _ReadOnly(Mapping[Any, Any]):
    """A live view of the variants: ``f.variants[gpu]`` finds what ``f.variants[(gpu,)]`` does."""

    __slots__ = ("_variants",)

    def __init__(self, variants: dict[tuple[Architecture, ...], Callable[..., Any]]) -> None:
        self._variants = variants

    def __getitem__(self, key: Target) -> Callable[..., Any]:
        return self._variants[key if isinstance(key, tuple) else (key,)]

    def __iter__(self) -> Any:
        return iter(self._variants)

    def __len__(self) -> int:
        return len(self._variants)

    def __repr__(self) -> str:
        return repr(self._variants)


def _choose(variants: dict[tuple[Architecture, ...], Callable[..., Any]], default: Callable[..., Any]) -> Any:
    """The implementation for the devices of the running task."""
    from parla import context

    if not variants or not context.has_environment():
        return default
    key = tuple(device.architecture for device in context.get_current_context().devices)
    return variants.get(key, default)


def _keys(
    name: str, targets: tuple[Any, ...], architecture: Architecture | None, max_amount: int | None
) -> list[tuple[Architecture, ...]]:
    """The dispatch keys that the arguments of `variant` stand for."""
    if architecture is not None:
        if targets:
            raise TypeError(f"{name}.variant takes targets or architecture=, not both")
        _check_architecture(name, architecture)
        amount = _MAX_AMOUNT if max_amount is None else max_amount
        if isinstance(amount, bool) or not isinstance(amount, int):
            raise TypeError(f"max_amount must be an integer, not {type(amount).__name__}")
        if amount < 1:
            raise ValueError(f"max_amount must be at least 1, got {amount}")
        return [architecture * n for n in range(1, amount + 1)]
    if max_amount is not None:
        raise TypeError("max_amount= needs architecture=")
    flat = [target for entry in targets for target in (entry if isinstance(entry, list) else [entry])]
    if not flat:
        raise TypeError(f"{name}.variant needs an architecture, for example @{name}.variant(gpu)")
    keys = [target if isinstance(target, tuple) else (target,) for target in flat]
    for key in keys:
        if not key:
            raise TypeError(f"{name}.variant: () names no architecture")
        for part in key:
            _check_architecture(name, part)
    return keys


def _check_architecture(name: str, part: object) -> None:
    if isinstance(part, (Device, DeviceRequirement)):
        raise TypeError(f"{name}.variant is for architectures such as {part.architecture!r}, not for {part!r}")
    if not isinstance(part, Architecture):
        raise TypeError(f"{name}.variant needs architectures such as gpu, not {type(part).__name__}")


def _show(key: tuple[Architecture, ...]) -> str:
    return repr(key[0]) if len(key) == 1 else repr(key)


def _kind(is_async: bool) -> str:
    return "a coroutine function" if is_async else "a plain function"
