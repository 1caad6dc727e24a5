"""What programs of versions 0.2 and 0.3 ask devices for besides what they have here."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["EarlierDevice"]


class EarlierDevice:
    """``with device:`` of 0.3, inside a task that has the device; and 0.2's name for the size of its memory."""

    __slots__ = ()

    resources: Any

    @property
    def available_memory(self) -> int:
        """Bytes that tasks and arrays may use on it: ``resources["memory"]``."""
        return int(self.resources["memory"])

    def __enter__(self) -> Self:
        """Make it the current device, as ``with ctx[i]:`` does.

        Raises:
            InvalidSchedulerAccessException: no task runs on this thread.
            ValueError: the running task does not have this device.
        """
        from parla import context

        context.part_on(self).__enter__()  # type: ignore[arg-type]
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from parla import context

        context.get_current_context().__exit__(exc_type, exc, traceback)
