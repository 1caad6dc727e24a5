"""Awaiting tasks from coroutines of the user's own asyncio loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from parla._native import Awaiter, Task


def bridge(awaiter: Awaiter) -> Any:
    """An iterator for ``await`` that asyncio understands: a thread waits, the loop goes on meanwhile."""
    return _wait(awaiter).__await__()


async def _wait(awaiter: Awaiter) -> Any:
    if not awaiter._ended():
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def tell(error: BaseException | None) -> None:
            if not ended.done():
                if error is None:
                    ended.set_result(None)
                else:
                    ended.set_exception(error)

        def wait() -> None:
            error: BaseException | None = None
            try:
                for target in awaiter.targets:
                    task = target if isinstance(target, Task) else target.task
                    if task is None:
                        raise LookupError(f"{target} is not spawned: asyncio can await only tasks that are")
                    task.wait()
            except BaseException as raised:
                error = raised
            try:
                loop.call_soon_threadsafe(tell, error)
            except RuntimeError:
                pass  # the loop was closed meanwhile: nobody awaits

        threading.Thread(target=wait, name="parla-asyncio", daemon=True).start()
        await ended
    return awaiter._value()
