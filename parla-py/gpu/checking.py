"""What a check is: a function that returns what it measured and raises what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# A gibibyte; less for trying the checks themselves.
BYTES = int(os.environ.get("GPU_CHECK_BYTES", 1 << 30))
CHECKS: list[tuple[Callable[[], dict[str, Any]], str, dict[str, str]]] = []
#: What the running check had to reach, and whether it did.
TARGETS: list[dict[str, Any]] = []


class Missed(AssertionError):
    """A number that is worse than it has to be; the rest is in `measured`."""

    def __init__(self, what: str, measured: dict[str, Any]) -> None:
        """Remember what was measured."""
        super().__init__(what)
        self.measured = measured


def check(needs: str = "", **environment: str) -> Callable[[Any], Any]:
    """Register a check that needs a `gpu`, `cupy` or nothing, and runs with these environment variables."""

    def register(function: Any) -> Any:
        CHECKS.append((function, needs, environment))
        return function

    return register


def reach(measured: dict[str, Any], **limits: tuple[str, float]) -> dict[str, Any]:
    """`measured`, if all its numbers keep their limits (``("<=", 12)``)."""
    missed = []
    for name, (relation, limit) in limits.items():
        value = measured[name]
        met = bool(value <= limit if relation == "<=" else value >= limit)
        TARGETS.append({"measure": name, "target": f"{relation} {limit}", "measured": value, "met": met})
        if not met:
            missed.append(f"{name} is {value:.4g}, must be {relation} {limit}")
    if missed:
        raise Missed("; ".join(missed), measured)
    return measured
