"""Memory of devices that a program sets aside for what it allocates itself."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

from parla import _native
from parla.device import Device, format_bytes, parse_memory
from parla.errors import PlacementError

__all__ = ["Reservation", "reserve_persistent_memory"]


class Reservation:
    """Memory that tasks and their arrays cannot have, from `reserve_persistent_memory`.

    It is given back by `release`, at the end of a ``with`` block, when nobody has the object any more, or when the runtime ends.
    """

    __slots__ = ("__weakref__", "_amounts", "_parts")

    def __init__(self, amounts: dict[Device, int]) -> None:
        """Set so many bytes of each device aside, of all or of none."""
        from parla import _reach

        self._amounts = dict(amounts)
        # Those that were reserved before one fails are given back with this object.
        self._parts = [_native.reserve(_reach.number_of(device), n) for device, n in amounts.items()]

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices whose memory is reserved."""
        return tuple(self._amounts)

    @property
    def amount(self) -> int:
        """Bytes, on all devices together."""
        return sum(self._amounts.values())

    @property
    def released(self) -> bool:
        """Whether the memory was given back."""
        return all(part.released for part in self._parts)

    def release(self) -> None:
        """Give the memory back; does nothing the second time."""
        for part in self._parts:
            part.release()

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        amounts = ", ".join(f"{format_bytes(n)} of {device!r}" for device, n in self._amounts.items())
        return f"<Reservation of {amounts}{', released' if self.released else ''}>"


def reserve_persistent_memory(amount: Any, device: Device | Iterable[Device] | None = None) -> Reservation:
    """Set memory of a device aside for what a program allocates there itself and keeps over tasks.

    Nothing is allocated: the runtime leaves so much less to arrays and to what tasks claim (``spawn(memory=...)``). Copies of arrays that
    nobody uses are given up for it, those that are the newest after they were written back. Tasks that could run only with
    what is reserved are refused, or fail, with the numbers.

    Args:
        amount: bytes; or, as in version 0.2, an array or several: as many bytes as they have.
        device: where; several: so much on each. None: where the array is; for a number of bytes all devices of the current task.

    Returns:
        A `Reservation`. Keep it: the memory is given back when nobody has it any more, by its ``release()``, at the end of a ``with``
        block, and when the runtime ends.

    Raises:
        TypeError, ValueError: `amount` is no number of bytes and no array, or `device` no device.
        PlacementError: the device doesn't exist or is smaller.
        DeviceOutOfMemory: less is free, and what is used is in use; attributes `requested`, `free`, `held` (reserved before) and
            `total`, all in bytes.
        InvalidSchedulerAccessException: without `device` outside a task.
        SchedulerException: no runtime is open.
    """
    amounts: dict[Device, int] = {}
    for n, where in _parts(amount, device):
        amounts[where] = amounts.get(where, 0) + n
    for where, n in amounts.items():
        if not where.exists:
            raise PlacementError(f"{where!r} does not exist: {where.architecture.describe_devices()}")
        capacity = where.resources["memory"]
        if n > capacity:
            raise PlacementError(f"it needs {format_bytes(n)}, {where!r} has {format_bytes(capacity)}")
    return Reservation(amounts)


def _parts(amount: Any, device: Any) -> Iterable[tuple[int, Device]]:
    """Bytes and devices that are asked for."""
    from parla.array import get_memory, is_array

    if is_array(amount):
        devices = [get_memory(amount).device] if device is None else _devices(device)
        return [(int(amount.nbytes), where) for where in devices]
    if isinstance(amount, list | tuple):
        return [part for one in amount for part in _parts(one, device)]
    n = parse_memory(amount, "amount")
    return [(n, where) for where in _devices(device)]


def _devices(device: Any) -> list[Device]:
    if device is None:
        from parla.context import get_current_devices

        return get_current_devices()
    several = list(device) if isinstance(device, list | tuple | set) else [device]
    for one in several:
        if not isinstance(one, Device):
            raise TypeError(f"device must be a Device such as gpu(0), not {type(one).__name__}")
    return several
