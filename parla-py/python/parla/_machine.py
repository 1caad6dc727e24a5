"""The machine as the native library found it: a cache that notices when the machine was replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["DeviceInfo", "Machine", "current", "on_change"]


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One device as the native library describes it."""

    number: int
    """Its number among all devices of the machine."""
    architecture: str
    index: int
    name: str
    memory: int
    """The number of the memory its tasks work in; 0 is the host's."""
    capacity: int
    """Bytes that tasks and arrays may use there."""
    workers: int
    """How many bodies it runs at the same time."""
    host_access: bool
    """Whether the CPU can read and write its memory: CPUs and simulated GPUs."""
    ordinal: int | None
    """The number that the vendor's libraries know it by."""


@dataclass(frozen=True, slots=True)
class Machine:
    """All devices of the process."""

    devices: tuple[DeviceInfo, ...]
    memories: tuple[str, ...]
    """Names, by number."""
    unavailable: dict[str, str]
    """Why there is no device of an architecture, by its name."""

    def of(self, architecture: str) -> tuple[DeviceInfo, ...]:
        """The devices of an architecture, by index."""
        return tuple(device for device in self.devices if device.architecture == architecture)

    def find(self, architecture: str, index: int) -> DeviceInfo | None:
        """The device with that name; None if there is none."""
        for device in self.devices:
            if device.architecture == architecture and device.index == index:
                return device
        return None


_known: tuple[dict[str, Any], Machine] | None = None
_listeners: list[Callable[[], None]] = []


def current() -> Machine:
    """The machine; the first call looks for it, which takes a while where there are GPUs.

    Raises:
        ValueError: an environment variable or an option asks for what can't be had; the text names it.
    """
    global _known
    from parla import _native

    found = _native.machine()
    known = _known
    if known is not None and (known[0] is found or known[0] == found):
        return known[1]
    machine = _read(found)
    _known = found, machine
    for listener in _listeners:
        listener()
    return machine


def on_change(listener: Callable[[], None]) -> None:
    """Call `listener` whenever another machine than before was found."""
    _listeners.append(listener)


def _read(found: dict[str, Any]) -> Machine:
    devices = tuple(
        DeviceInfo(
            number,
            device["architecture"],
            device["index"],
            device["name"],
            device["memory"],
            device["capacity"],
            device["workers"],
            device["host_access"],
            device["ordinal"],
        )
        for number, device in enumerate(found["devices"])
    )
    memories = tuple(memory["name"] for memory in found["memories"])
    unavailable = {name: reason for name, reason in found["unavailable"].items() if reason}
    return Machine(devices, memories, unavailable)
