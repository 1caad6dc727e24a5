"""The arguments of `Parla` and the environment variables that stand in for them, checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from parla import _native
from parla.device import Architecture, Device
from parla.errors import PlacementError, PolicyError

__all__ = ["check", "count", "depth", "devices", "file", "policy", "trace"]

_MAX_WORKERS = 4096
_MAX_DEPTH = 1024
_DEFAULT_POLICY = "locality"


def depth(value: Any) -> int:
    """How many tasks a device prepares beside the one that runs."""
    return _whole(value, "depth", _MAX_DEPTH)


def count(workers: Any) -> int | None:
    """The number of workers that the program asks for."""
    return None if workers is None else _whole(workers, "workers", _MAX_WORKERS)


def _whole(value: Any, name: str, most: int) -> int:
    """A whole number from 1 to `most`."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name}: expected an integer, not {type(value).__name__}")
    number = value.__index__()
    if not 1 <= number <= most:
        raise ValueError(f"{name}: expected 1 to {most}, got {number}")
    return int(number)


def policy(value: Any) -> str:
    """The policy's name and options; the list of policies is printed if the environment asks for it."""
    if value is None:
        named: str = os.environ.get("PARLA_POLICY", "").strip() or _DEFAULT_POLICY
        if named == "help":
            print(_native.policies(), flush=True)
            raise SystemExit(0)
        try:
            _native.check_policy(named)
        except PolicyError as error:
            raise PolicyError(f"PARLA_POLICY={named}: {str(error).removeprefix('policy: ')}") from None
        return named
    if not isinstance(value, str):
        raise TypeError(f"policy: expected a name, not {type(value).__name__}")
    _native.check_policy(value)
    return value


def file(file: Any) -> Path | None:
    """The file that describes the machine."""
    if file is None:
        return None
    if not isinstance(file, str | os.PathLike):
        raise TypeError(f"dev_config_file: expected a file name, not {type(file).__name__}")
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"dev_config_file: there is no file {str(path)!r}")
    return path


def devices(value: Any, may_come: bool) -> tuple[Architecture | Device, ...] | None:
    """The devices that tasks may run on; `may_come`: those that are not there yet are allowed."""
    if value is None:
        return None
    found = tuple(value) if isinstance(value, list | tuple | set) else (value,)
    for one in found:
        if not isinstance(one, Architecture | Device):
            raise TypeError(f"devices: expected devices or architectures, not {type(one).__name__}")
        if isinstance(one, Device) and not may_come and not one.exists:
            raise PlacementError(f"devices: {one!r} does not exist: {one.architecture.describe_devices()}")
    if not found:
        raise ValueError("devices: expected at least one device or architecture")
    return found


def trace(trace: Any) -> tuple[Path | None, bool]:
    """Where to write the trace, and whether there is one."""
    if trace is None:
        variable = os.environ.get("PARLA_TRACE")
        if variable is None:
            return None, False
        if not variable:
            raise ValueError("PARLA_TRACE is set but empty: expected a file name")
        return Path(variable), True
    if isinstance(trace, bool):
        return None, trace
    if isinstance(trace, str | os.PathLike):
        return Path(trace), True
    raise TypeError(f"trace: expected True, False or a file name, not {type(trace).__name__}")


def check(check: Any) -> bool:
    """Whether mistakes are looked for."""
    if check is not None:
        if not isinstance(check, int):
            raise TypeError(f"check: expected True or False, not {type(check).__name__}")
        return bool(check)
    variable = os.environ.get("PARLA_CHECK", "0")
    if variable not in ("0", "1"):
        raise ValueError(f"PARLA_CHECK={variable!r}: expected 0 or 1")
    return variable == "1"
