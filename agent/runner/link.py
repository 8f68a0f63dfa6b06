"""Keeps one device in touch with the control plane: connects, polls, empties the spool, hands over what comes down.

Over MQTT where there is a broker; over HTTPS where there is none, or where it has not been reached for a while (many
networks block its port). Everything that must arrive waits in the spool until the application ack, whichever way it
went. Runs on the schedule's line; what waits for the network runs in the background. Leaves the meaning of messages
to ``device``.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agent.core.retry import Backoff
from agent.https import DesiredAnswer
from agent.mqtt import Transport
from agent.runner.schedule import Schedule
from agent.spool import Spool, SpoolRow
from bundles.errors import Refused, WavegateError
from bundles.wire import codec, topics
from bundles.wire.messages import Ack, UpEnvelope

_log = logging.getLogger(__name__)

RECONNECT = Backoff(base_s=1.0, cap_s=120.0, floor_s=0.1)
POLL_AGAIN = Backoff(base_s=2.0, cap_s=300.0)
FIRST_CONNECT_S = 0.5
"""A fleet switched on at one moment spreads its first connections over this time."""
STABLE_MS = 10_000
"""A shorter connection counts as a failed try: two clones of one identity must not take turns in a hot loop."""
CLONE_LOSSES = 4
"""So many accepted connections in a row that ended as short as that look like a clone: mosquitto 2.0.11 just closes
the older of two connections of one name, and gives no reason."""
FALLBACK_AFTER_MS = 30_000
"""So long without a broker, and reports go over HTTPS."""
FLUSH_S = 5.0
BATCH = 64


class ServerDoor(Protocol):
    """What is asked of the server; ``agent.https.DeviceDoor`` is one."""

    def desired(self, etag: str = "") -> DesiredAnswer | None:
        """Ask for the desired document."""
        ...

    def reports(self, batch: list[UpEnvelope]) -> Ack:
        """Hand over reports."""
        ...


@dataclass(frozen=True)
class Hooks:
    """Whom a link tells, on the schedule's line.

    Attributes:
        on_desired: bytes of a desired document, by whichever door.
        on_contact: the control plane answered.
        on_conflict: somebody else uses this identity.
        heartbeat: returns the payload of a heartbeat, made now.
    """

    on_desired: Callable[[bytes], None]
    on_contact: Callable[[], None]
    on_conflict: Callable[[], None]
    heartbeat: Callable[[], bytes]


class Link:
    """One device's way to the control plane.

    Args:
        schedule: the line.
        key: of this device's timers.
        door: HTTPS.
        transport: the broker, None where there is none.
        spool: what must arrive.
        hooks: whom to tell.
        rng: for jitter.
        wall_ms: UTC epoch ms, for the spool.
        poll_s: time between polls, until ``set_poll``.
    """

    def __init__(
        self,
        schedule: Schedule,
        key: str,
        door: ServerDoor,
        transport: Transport | None,
        spool: Spool,
        hooks: Hooks,
        rng: random.Random,
        wall_ms: Callable[[], int],
        poll_s: float,
    ) -> None:
        self._schedule, self._key, self._door, self._transport = schedule, key, door, transport
        self._spool, self._hooks, self._rng, self._wall_ms = spool, hooks, rng, wall_ms
        self._poll_s = poll_s
        self._etag = ""
        self._connect_tries = self._poll_tries = 0
        self._down_since_ms = schedule.now_ms()
        self._up_since_ms = self._short_ups = 0
        self._held: list[UpEnvelope] = []
        self._is_posting = self._wants_flush = self._is_closed = self._wants_heartbeat = False

    @property
    def route(self) -> str:
        """How reports travel now: ``mqtt``, ``https``, or ``offline`` while a lost broker may still come back."""
        if self._is_closed:
            return "offline"
        if self._transport is None:
            return "https"
        if self._transport.connected:
            return "mqtt"
        return "https" if self._schedule.now_ms() - self._down_since_ms >= FALLBACK_AFTER_MS else "offline"

    def start(self) -> None:
        """Begin: connect, poll, flush."""
        if self._transport is not None:
            self._after("connect", self._rng.random() * FIRST_CONNECT_S, self._connect)
        self._after("poll", 0, self._poll)
        self._after("flush", FLUSH_S, self._flush_again)

    def set_poll(self, poll_s: float) -> None:
        """Poll every ``poll_s`` from now on."""
        if poll_s != self._poll_s:
            self._poll_s = poll_s
            self._after("poll", self._jittered(poll_s), self._poll)

    def forget_etag(self) -> None:
        """Have the next poll bring the document again: the one it brought was refused."""
        self._etag = ""

    def heartbeat(self) -> None:
        """Send a heartbeat now, if there is a way; it is never kept."""
        if self.route == "mqtt" and self._transport is not None:
            self._transport.publish(topics.UP_REPORTED, self._hooks.heartbeat())
        elif self.route == "https":
            self._wants_heartbeat = True
            self.flush()

    def flush(self) -> None:
        """Send what waits in the spool, as far as there is a way."""
        route = self.route
        if self._is_closed or route == "offline":
            return
        if self._is_posting:
            self._wants_flush = True
            return
        if route == "mqtt" and self._transport is not None:
            self._held = []
            rows = self._next_rows()
            for row in rows:
                # What is not taken is marked as sent all the same, and comes again when its ack stays out.
                self._transport.publish(row.leaf, row.payload)
            if len(rows) == BATCH:
                self._after("flush", 0.05, self._flush_again)
            return
        if not self._held:
            self._held = [UpEnvelope(row.leaf, row.payload) for row in self._next_rows()]
        batch = list(self._held)
        if self._wants_heartbeat:
            batch.insert(0, UpEnvelope(topics.UP_REPORTED, self._hooks.heartbeat()))
            self._wants_heartbeat = False
        if batch:
            self._is_posting = True
            self._schedule.background(lambda: self._door.reports(batch), self._posted)

    def _next_rows(self) -> list[SpoolRow]:
        try:
            return self._spool.next_batch(self._wall_ms(), BATCH)
        except WavegateError as error:
            _log.warning("the spool cannot be read: %s", error)
            return []

    def on_down(self, leaf: str, payload: bytes) -> None:
        """Take a message from the broker. From any thread."""
        self._schedule.soon(lambda: self._down(leaf, payload))

    def on_state(self, is_up: bool, reason: str) -> None:
        """Take news of the connection. From any thread."""
        self._schedule.soon(lambda: self._state(is_up, reason))

    def close(self, farewell: bytes) -> None:
        """Send what can still be sent, say goodbye, and leave."""
        if self.route == "mqtt":
            self.flush()
        self._is_closed = True
        if self._transport is not None:
            self._transport.close(farewell)
        for name in ("connect", "poll", "flush"):
            self._schedule.cancel((self._key, name))

    def _connect(self) -> None:
        transport = self._transport
        if transport is None or self._is_closed or transport.connected:
            return

        def done(result: BaseException | None) -> None:
            if isinstance(result, BaseException):
                _log.info("no connection to the broker: %s", result)
                self._connect_later()

        self._schedule.background(transport.connect, done)

    def _connect_later(self) -> None:
        self._connect_tries += 1
        self._after("connect", RECONNECT.delay_s(self._connect_tries, self._rng.random()), self._connect)

    def _state(self, is_up: bool, reason: str) -> None:
        now = self._schedule.now_ms()
        if is_up:
            self._up_since_ms = now
            self._schedule.cancel((self._key, "connect"))
            self.heartbeat()
            self.flush()
            return
        _log.info("the connection to the broker is lost: %s", reason)
        self._down_since_ms = now
        if self._up_since_ms and now - self._up_since_ms >= STABLE_MS:
            self._connect_tries = self._short_ups = 0
        elif self._up_since_ms:
            self._short_ups += 1
        self._up_since_ms = 0
        if reason == "taken_over" or self._short_ups == CLONE_LOSSES:  # once for each row of short ones
            self._hooks.on_conflict()
        if not self._is_closed:
            self._connect_later()

    def _down(self, leaf: str, payload: bytes) -> None:
        if self._is_closed:
            return
        if leaf == topics.DOWN_DESIRED:
            self._hooks.on_desired(payload)
        elif leaf == topics.DOWN_ACK:
            try:
                self._take_ack(codec.decode_ack(payload))
            except WavegateError as error:
                _log.warning("an ack cannot be taken: %s", error)
        else:
            _log.info("a message on %s is of no kind this agent knows", leaf)

    def _take_ack(self, ack: Ack) -> None:
        self._spool.acked(ack)
        self._hooks.on_contact()
        if ack.missing:
            self.flush()

    def _posted(self, ack: Ack | BaseException) -> None:
        self._is_posting = False
        if self._is_closed:
            return
        if isinstance(ack, BaseException):
            # The rows are kept at hand and go first at the next flush: in the spool they count as sent and would
            # wait for an ack that cannot come.
            _log.info("reports were not taken: %s", ack)
            if isinstance(ack, Refused):
                self._held = []  # so that one batch the server will never take does not hold up the others
            return
        was_full, self._held = len(self._held) == BATCH, []
        self._take_ack(ack)
        if was_full or self._wants_flush:
            self._wants_flush = False
            self.flush()

    def _poll(self) -> None:
        if self._is_closed:
            return
        etag = self._etag
        self._schedule.background(lambda: self._door.desired(etag), self._polled)

    def _polled(self, answer: DesiredAnswer | BaseException | None) -> None:
        if self._is_closed:
            return
        if isinstance(answer, BaseException):
            _log.info("the desired state cannot be asked for: %s", answer)
            self._poll_tries += 1
            wait = POLL_AGAIN.delay_s(self._poll_tries, self._rng.random())
            self._after("poll", min(wait, self._poll_s), self._poll)
            return
        self._poll_tries = 0
        self._after("poll", self._jittered(self._poll_s), self._poll)
        self._hooks.on_contact()
        if answer is not None:
            self._etag = answer.etag
            self._hooks.on_desired(answer.data)

    def _flush_again(self) -> None:
        if not self._is_closed:
            self._after("flush", FLUSH_S, self._flush_again)
            self.flush()

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.8 + 0.4 * self._rng.random())

    def _after(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        self._schedule.at((self._key, name), self._schedule.now_ms() + round(seconds * 1000), call)
