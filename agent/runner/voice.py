"""What one device says, gathered from its parts: events and windows into the spool, heartbeats, its status file.

Leaves wording to ``reporting``, sending to ``link`` and the question when to ``device``. Nothing here waits for
anything but the disk; without room there, something is left unsaid and the heartbeat still tells the state.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from agent.core.state import UpdaterState
from agent.room import Room
from agent.runner import reporting
from agent.runner.assurance import Assurance
from agent.runner.edges import Models
from agent.runner.reporting import Backlog, Self
from agent.runner.stream import Accuracy
from agent.spool import Spool
from bundles.errors import WavegateError
from bundles.trust.revocation import Standing
from bundles.wire import codec
from bundles.wire.commands import Command
from bundles.wire.messages import Reported

_log = logging.getLogger(__name__)

_EVERYDAY = frozenset({"phase", "command", "spool_dropped"})
"""Kinds of events that are no warning by themselves."""


class Voice:
    """One device's voice.

    Args:
        me: who speaks.
        spool: takes what must arrive.
        models: tell what answers, and their windows.
        assurance: tells floors and the age of trust.
        accuracy: labelled predictions.
        states: of the updater, by model; read at each use.
        wall_ms: the system's clock.
        now_ms: a clock that only rises.
        status_path: where the status is written.
        room: tells what the device has left.

    Attributes:
        gen: generation of the newest desired document taken since the start.
        troubles: area (``metadata``, ``desired``, ``update``) -> code of what did not go on there, for the status.
        standings: model -> how trust stands to its committed bundle, where it was asked.
    """

    def __init__(
        self,
        me: Self,
        spool: Spool,
        models: Models,
        assurance: Assurance,
        accuracy: Accuracy,
        states: Mapping[str, UpdaterState],
        wall_ms: Callable[[], int],
        now_ms: Callable[[], int],
        status_path: Path,
        room: Callable[[], Room],
    ) -> None:
        self._me, self._spool, self._models, self._assurance, self._accuracy = me, spool, models, assurance, accuracy
        self._states, self._wall_ms, self._now_ms, self._status_path = states, wall_ms, now_ms, status_path
        self._room, self._beat = room, 0
        self._backlog = Backlog(0, 0)
        self.gen = 0
        self.troubles: dict[str, str] = {}
        self.standings: Mapping[str, Standing] = {}

    def tell(self, kind: str, **fields: Any) -> None:
        """Queue an event and write it into the log; fields as in ``Spool.add_event``."""
        _log_event(kind, fields)
        try:
            self._spool.add_event(kind, at_ms=self._wall_ms(), moment=self._moment(), **{"gen": self.gen, **fields})
        except WavegateError as error:
            _log.warning("an event of kind %s cannot be kept: %s", kind, error)

    def began(self, command: Command) -> None:
        """Tell that a command of the control plane is carried out."""
        self.tell("command", code=command.do.upper(), detail=f"The control plane asked: {command.do}.")

    def tell_windows(self) -> None:
        """End the windows of every model and queue them."""
        for window in self._models.cut(self._wall_ms()):
            labelled = self._accuracy.cut(window.bundle_sha256)
            # A clock set forward by years (no battery, then NTP) must not make the window that saw it years long.
            start_ms = max(window.start_ms, window.end_ms - self._moment()[1])
            window = msgspec.structs.replace(window, start_ms=start_ms, labels_ok=labelled.right, labels_n=labelled.n)
            try:
                self._spool.add_window(window, self._moment())
            except WavegateError as error:
                _log.warning("a window cannot be written now: %s", error)

    def heartbeat(self) -> bytes:
        """Return the payload of the next heartbeat."""
        self._beat += 1
        return codec.encode(self._reported())

    def presence(self, state: Literal["online", "going_offline", "lost"]) -> bytes:
        """Return the payload of birth, farewell or will. From any thread."""
        running = {model: self._models.running(model) for model in list(self._states)}
        return codec.encode(reporting.presence(self._me, state, self._wall_ms(), running))

    def summary(self) -> dict[str, Any]:
        """Return in a few words where the device stands."""
        models = {}
        for model, state in list(self._states.items()):
            running = self._models.running(model)
            version = running.version if running else ""
            models[model] = {"version": version, "phase": state.phase, "reason": state.reason}
        return {"models": models, "pending": self._waiting().pending}

    def write_status(self, more: Mapping[str, Any]) -> None:
        """Write what a heartbeat would say, with counts of requests and labels and what ``more`` says."""
        running = {model: r for model in self._states if (r := self._models.running(model))}
        said = self._reported()
        document = {
            **msgspec.structs.asdict(said),  # with its defaults, which the wire leaves out
            "models": {model: msgspec.structs.asdict(entry) for model, entry in said.models.items()},
            "labelled": {sha256: {"n": e.n, "right": e.right} for sha256, e in self._accuracy.total().items()},
            "requests": {model: r.requests for model, r in running.items()},
            "troubles": dict(self.troubles),
            **more,
        }
        scratch = self._status_path.with_suffix(".new")
        try:
            scratch.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2))
            scratch.replace(self._status_path)
        except OSError as error:
            _log.warning("the status cannot be written: %s", error)

    def _moment(self) -> tuple[int, int]:
        """Session and uptime (ms): what a time by the wall clock is worth where that clock jumped."""
        return self._me.session, self._now_ms() - self._me.started_ms

    def _waiting(self) -> Backlog:
        """Return what waits, as last known where the disk does not answer: a heartbeat is said all the same."""
        try:
            status = self._spool.status()
        except WavegateError as error:
            _log.warning("the spool does not answer: %s", error)
        else:
            self._backlog = Backlog(status.pending, status.dropped)
        return self._backlog

    def _reported(self) -> Reported:
        return reporting.reported(
            replace(self._me, boot_epoch=self._spool.boot_epoch),  # a damaged spool begins anew while the agent runs
            beat=self._beat,
            wall_ms=self._wall_ms(),
            now_ms=self._now_ms(),
            models={
                model: reporting.model_reported(
                    state,
                    self._models.running(model),
                    self._assurance.floor(model),
                    self.standings.get(model, "clear"),
                )
                for model, state in self._states.items()
            },
            gen=max([self.gen, *(state.gen for state in self._states.values())]),
            backlog=self._waiting(),
            trust_age_s=self._assurance.age_s(),
            trust_level=self._assurance.level(),
            room=self._room(),
        )


def _log_event(kind: str, fields: Mapping[str, Any]) -> None:
    """Write an event into the log, with the fields that the journal finds it by."""
    model, sha256, code = (str(fields.get(name, "")) for name in ("model", "sha256", "code"))
    reason = str(fields.get("data", {}).get("reason", ""))
    said = fields.get("detail") or fields.get("data", {}).get("phase") or reason
    more = {"kind": kind, "model": model, "bundle": sha256, "reason": reason, "code": code}
    level = logging.INFO if kind in _EVERYDAY and not reason else logging.WARNING
    words = [word for word in (kind, model, sha256[:12], code) if word]
    _log.log(level, "%s: %s", " ".join(words), said or "-", extra=more)
