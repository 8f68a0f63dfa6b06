"""What changed, told to every SSE stream of this process by one task.

The task looks at the database (level-triggered: what is there is what is told, so no event can be missed between
processes or across a restart), in a thread, and only while somebody listens. A slow listener loses the oldest events
of its own queue, never anybody else's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import structlog
from starlette.concurrency import run_in_threadpool

from control_plane.services.changes import Change, Look

QUEUE_EVENTS = 256
log = structlog.get_logger()


class Fanout:
    """Distributes changes to any number of asynchronous listeners.

    Args:
        look: finds changes (``services.changes.look``); runs in a thread.
        every_s: how often it looks while somebody listens.
    """

    def __init__(self, look: Look, *, every_s: float = 0.5) -> None:
        self._look = look
        self._every_s = every_s
        self._queues: set[asyncio.Queue[Change]] = set()
        self._task: asyncio.Task[None] | None = None

    async def listen(self, *, idle_s: float = 15.0) -> AsyncIterator[Change | None]:
        """Yield changes from now on, and None after every ``idle_s`` seconds without one, until the caller stops."""
        queue: asyncio.Queue[Change] = asyncio.Queue(QUEUE_EVENTS)
        self._queues.add(queue)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            while True:
                try:
                    change = await asyncio.wait_for(queue.get(), idle_s)
                except TimeoutError:
                    yield None
                else:
                    yield change
        finally:
            self._queues.discard(queue)
            if not self._queues and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _run(self) -> None:
        marks: dict[str, Any] = {}
        while True:
            try:
                changes = await run_in_threadpool(lambda: list(self._look(marks)))
            except Exception:
                # A busy database now is no reason never to look again; what changed meanwhile is found next time.
                log.warning("fanout_look_failed", exc_info=True)
                changes = []
            for change in changes:
                for queue in tuple(self._queues):
                    if queue.full():
                        with suppress(asyncio.QueueEmpty):
                            queue.get_nowait()
                    queue.put_nowait(change)
            await asyncio.sleep(self._every_s)
