"""Keeps one device in touch with the control plane: connects, polls, empties the spool, hands over what comes down.

Over MQTT where there is a broker, on the best way that works (``agent.core.route`` decides); over HTTPS where there is
none, or where it has not been reached for a while. Everything that must arrive waits in the spool until the application
ack, whichever way it went, so a change of ways loses nothing, and what is sent twice is counted once. Runs on the
schedule's line; what waits for the network runs in the background. Leaves the meaning of messages to ``device``.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from agent.core import route as routes
from agent.core.retry import Backoff
from agent.core.route import Route, Way
from agent.https import DesiredAnswer
from agent.mqtt import Transport
from agent.runner.edges import ServerDoor
from agent.runner.schedule import Schedule
from agent.spool import Spool, SpoolRow
from bundles.errors import Refused, TryAgain, WavegateError
from bundles.wire import codec, topics
from bundles.wire.messages import Ack, UpEnvelope

_log = logging.getLogger(__name__)

POLL_AGAIN = Backoff(base_s=2.0, cap_s=300.0)
"""Between tries over HTTPS that nobody answered, polls and reports alike."""
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
DOWN_COMMAND = "down/cmd/"


@dataclass(frozen=True)
class Hooks:
    """Whom a link tells, on the schedule's line.

    Attributes:
        on_desired: bytes of a desired document, by whichever door.
        on_contact: the control plane answered.
        on_conflict: somebody else uses this identity.
        heartbeat: returns the payload of a heartbeat, made now.
        on_trouble: why there is no connection to the broker, for the status; None = it stands.
        on_command: payload of a command that came down ``down/cmd/{id}``; None = this agent takes none.
    """

    on_desired: Callable[[bytes], None]
    on_contact: Callable[[], None]
    on_conflict: Callable[[], None]
    heartbeat: Callable[[], bytes]
    on_command: Callable[[bytes], None] | None = None
    on_trouble: Callable[[WavegateError | None], None] = lambda _error: None


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
        ways: to the broker, in order of preference.
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
        ways: tuple[Way, ...] = ("mqtt",),
    ) -> None:
        self._schedule, self._key, self._door, self._transport = schedule, key, door, transport
        self._spool, self._hooks, self._rng, self._wall_ms = spool, hooks, rng, wall_ms
        self._poll_s = poll_s
        self._etag = ""
        self._path = Route(ways)
        self._poll_tries = self._post_tries = self._post_at_ms = 0
        self._down_since_ms = schedule.now_ms()
        self._up_since_ms = self._short_ups = 0
        self._held: list[UpEnvelope] = []
        self._is_posting = self._wants_flush = self._is_closed = self._wants_heartbeat = False

    @property
    def route(self) -> str:
        """How reports travel: ``mqtt``, ``websocket``, ``https``, or ``offline`` while a lost broker may come back."""
        if self._is_closed:
            return "offline"
        if self._transport is None:
            return "https"
        if self._transport.connected:
            return self._path.way
        is_long = self._path.slow_tries or self._schedule.now_ms() - self._down_since_ms >= FALLBACK_AFTER_MS
        return "https" if is_long else "offline"

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
        if self._transport is not None and self._transport.connected:
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
        if route != "https" and self._transport is not None:
            self._held = []
            rows = self._next_rows()
            for row in rows:
                if not self._transport.takes(row.leaf, row.payload):
                    self._held.append(UpEnvelope(row.leaf, row.payload))
                    continue
                # What is not taken is marked as sent all the same, and comes again when its ack stays out.
                self._transport.publish(row.leaf, row.payload)
            if self._held:
                self._post(list(self._held))
            elif rows:  # a batch may be cut short by its bytes
                self._after("flush", 0.05, self._flush_again)
            return
        if self._schedule.now_ms() < self._post_at_ms:
            return
        if not self._held:
            self._held = [UpEnvelope(row.leaf, row.payload) for row in self._next_rows()]
        batch = list(self._held)
        if self._wants_heartbeat:
            batch.insert(0, UpEnvelope(topics.UP_REPORTED, self._hooks.heartbeat()))
            self._wants_heartbeat = False
        if batch:
            self._post(batch)

    def _post(self, batch: list[UpEnvelope]) -> None:
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

    def publish(self, leaf: str, payload: bytes) -> bool:
        """Send what is not kept over the broker; False where it stands not now. From any thread."""
        return self._transport is not None and self._transport.publish(leaf, payload)

    def close(self, farewell: bytes) -> None:
        """Send what can still be sent, say goodbye, and leave."""
        if self._transport is not None and self._transport.connected:
            self.flush()
        self._is_closed = True
        if self._transport is not None:
            self._transport.close(farewell)
        for name in ("connect", "poll", "flush", "look", "post"):
            self._schedule.cancel((self._key, name))

    def reconnect(self) -> None:
        """Make the connection to the broker anew, where one stands: this device shows another certificate now."""
        if self._transport is not None and self._transport.connected:
            self._change()

    def _connect(self) -> None:
        transport = self._transport
        if transport is None or self._is_closed or transport.connected:
            return
        way = self._path.way

        def done(result: BaseException | None) -> None:
            if isinstance(result, BaseException) and not self._is_closed:
                _log.info("no connection to the broker by %s: %s", way, result)
                if isinstance(result, WavegateError):
                    self._hooks.on_trouble(result)
                self._path = routes.told(routes.failed(self._path), "retry")
                self._connect_later()

        self._schedule.background(lambda: transport.connect(way), done)

    def _connect_later(self) -> None:
        self._after("connect", routes.wait_s(self._path, self._rng.random()), self._connect)

    def _state(self, is_up: bool, reason: str) -> None:
        now = self._schedule.now_ms()
        if is_up:
            self._up_since_ms = now
            self._schedule.cancel((self._key, "connect"))
            self._hooks.on_trouble(None)
            self._look_later()
            self.heartbeat()
            self.flush()
            return
        _log.info("the connection to the broker is lost: %s", reason)
        trouble = routes.TROUBLES.get(reason)
        if self._up_since_ms and now - self._up_since_ms >= STABLE_MS:
            # A broker that takes connections and ends them at once was never there: reports must not wait for it.
            self._down_since_ms = now
            self._path = routes.stood(self._path)
            self._short_ups = 0
        else:
            self._short_ups += 1 if self._up_since_ms else 0
            self._path = routes.failed(self._path)
        self._up_since_ms = 0
        if trouble is not None:
            self._path = routes.told(self._path, trouble.action)
            self._hooks.on_trouble(TryAgain(trouble.sentence, code=trouble.code, remedy=trouble.remedy))
        if reason == "taken_over" or self._short_ups == CLONE_LOSSES:  # once for each row of short ones
            self._hooks.on_conflict()
        if not self._is_closed:
            self._connect_later()

    def _look_later(self) -> None:
        if self._path.better:
            self._after("look", routes.look_s(self._path, self._rng.random()), self._look)

    def _look(self) -> None:
        """See whether a better way than the one in use has opened; nothing is given up before one has."""
        transport, better = self._transport, self._path.better
        if transport is None or self._is_closed or not transport.connected or not better:
            return

        def look() -> Way | None:
            for way in better:
                try:
                    transport.look(way)
                    return way
                except TryAgain:
                    continue
            return None

        def done(found: Way | BaseException | None) -> None:
            if self._is_closed or not transport.connected:
                return
            was = self._path.way
            self._path = routes.looked(self._path, None if isinstance(found, BaseException) else found)
            if self._path.way != was:
                _log.info("the broker can be reached by %s again", self._path.way)
                self._change()
            else:
                self._look_later()

        self._schedule.background(look, done)

    def _change(self) -> None:
        """Leave the connection that stands and make the next one: two of one identity cannot be at once."""
        transport, self._up_since_ms = self._transport, 0
        assert transport is not None
        self._down_since_ms = self._schedule.now_ms()

        def done(result: BaseException | None) -> None:
            if isinstance(result, BaseException):
                _log.info("the connection to the broker cannot be left in order: %s", result)
            self._connect()

        self._schedule.background(transport.close, done)

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
        elif leaf.startswith(DOWN_COMMAND) and self._hooks.on_command is not None:
            self._hooks.on_command(payload)
        else:
            _log.info("a message on %s is of no kind this agent knows", leaf)

    def _take_ack(self, ack: Ack) -> None:
        gone = 0
        try:
            gone = self._spool.acked(ack)
        except WavegateError as error:  # the rows come again, and the control plane knows them
            _log.warning("the spool cannot let go of what is stored: %s", error)
        self._hooks.on_contact()
        if ack.commands and self._hooks.on_command is not None:
            self._schedule.background(self._door.commands, self._fetched)
        if ack.missing or gone:
            self.flush()

    def _fetched(self, commands: list[bytes] | BaseException) -> None:
        if isinstance(commands, BaseException):
            _log.info("commands cannot be asked for: %s", commands)
        elif not self._is_closed and (take := self._hooks.on_command) is not None:
            for command in commands:
                take(command)

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
            else:
                # A fleet whose server is gone must not meet it in step, every few seconds, when it comes back.
                self._post_tries += 1
                wait = POLL_AGAIN.delay_s(self._post_tries, self._rng.random())
                self._post_at_ms = self._schedule.now_ms() + round(wait * 1000)
                self._after("post", wait, self.flush)
            return
        self._held = []
        self._post_tries = self._post_at_ms = 0
        self._take_ack(ack)
        if self._wants_flush:
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
        self._poll_tries = self._post_tries = self._post_at_ms = 0
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
