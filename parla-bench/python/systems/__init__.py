"""The systems that are measured: every module here that defines ``SYSTEMS`` adds to the list."""

from __future__ import annotations

import importlib
import pkgutil

from systems.base import Body, Dependencies, System

__all__ = ["Body", "Dependencies", "System", "find", "taking_part"]


def _discover() -> dict[str, type[System]]:
    found: dict[str, type[System]] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name != "base":
            for system in importlib.import_module(f"{__name__}.{module.name}").SYSTEMS:
                found[system.key] = system
    # Parla first: it is what the others are compared with.
    return dict(sorted(found.items(), key=lambda item: (not item[0].startswith("parla"), item[0])))


def find(key: str) -> type[System]:
    """The system with this key.

    Raises ``KeyError`` naming the known keys if there is none.
    """
    known = _discover()
    if key not in known:
        raise KeyError(f"unknown system {key!r}; known: {', '.join(known)}")
    return known[key]


def taking_part(experiment: str, only: list[str] | None = None) -> list[type[System]]:
    """The systems of one experiment, Parla first; ``only`` keeps those with these keys."""
    wanted = None if only is None else {find(key).key for key in only}
    return [
        system
        for system in _discover().values()
        if experiment in system.experiments and (wanted is None or system.key in wanted)
    ]
