"""What one device says, gathered from its parts: events and windows into the spool, heartbeats, its status file.

Leaves wording to ``reporting``, sending to ``link`` and the question when to ``device``. Nothing here waits for
anything but the disk; without room there, something is left unsaid and the heartbeat still tells the state.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from agent.core.state import UpdaterState
from agent.runner import reporting
from agent.runner.assurance import Assurance
from agent.runner.edges import Models
from agent.runner.reporting import Backlog, Self
from agent.runner.stream import Accuracy
from agent.spool import Spool
from bundles.errors import WavegateError
from bundles.trust.revocation import Standing
from bundles.wire import codec
from bundles.wire.messages import Reported

_log = logging.getLogger(__name__)


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
    ) -> None:
        self._me, self._spool, self._models, self._assurance, self._accuracy = me, spool, models, assurance, accuracy
        self._states, self._wall_ms, self._now_ms, self._status_path = states, wall_ms, now_ms, status_path
        self._beat = 0
        self.gen = 0
        self.troubles: dict[str, str] = {}
        self.standings: Mapping[str, Standing] = {}

    def tell(self, kind: str, **fields: Any) -> None:
        """Queue an event; fields as in ``Spool.add_event``."""
        try:
            self._spool.add_event(kind, at_ms=self._wall_ms(), **{"gen": self.gen, **fields})
        except WavegateError as error:
            _log.warning("an event of kind %s cannot be kept: %s", kind, error)

    def tell_windows(self) -> None:
        """End the windows of every model and queue them."""
        for window in self._models.cut(self._wall_ms()):
            labelled = self._accuracy.cut(window.bundle_sha256)
            window = msgspec.structs.replace(window, labels_ok=labelled.right, labels_n=labelled.n)
            try:
                self._spool.add_window(window)
            except WavegateError as error:
                _log.warning("a window cannot be kept: %s", error)

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
        return {"models": models, "pending": self._spool.status().pending}

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

    def _reported(self) -> Reported:
        status = self._spool.status()
        return reporting.reported(
            self._me,
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
            backlog=Backlog(status.pending, status.dropped),
            trust_age_s=self._assurance.age_s(),
            trust_level=self._assurance.level(),
        )
