"""What trust has to say while nobody asks: new metadata, revocations of what is installed, and its own age.

Metadata is looked for every few hours whatever any document hints at. After each look, at the start, and when a model
settles on another release, trust is asked how it stands to every release the device holds; the answers go to the
updater's core, which decides. Ages and warnings are told once for each change. Everything here runs on the schedule's
line; what may wait runs in the background. Nothing ever stops answering because metadata is old.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from agent.core import events as ev
from agent.core.state import SafeMode, UpdaterState
from agent.runner.assurance import Assurance
from agent.runner.schedule import Schedule
from agent.runner.updates import Updates
from agent.store import Store
from bundles.errors import TryAgain, WavegateError
from bundles.trust.revocation import Standing

_log = logging.getLogger(__name__)

REFRESH_S = 6 * 3600.0
"""Between looks for new metadata that nothing asked for: a director that hints at none must not hide a revocation.
A quarter of the day in which an honest repository signs a new timestamp; about 700 bytes where nothing is new."""
_LEVEL_TOLD = {
    "fresh": "The trust metadata is current again.",
    "warn": "No new trust metadata has come for one life of a timestamp.",
    "alarm": "No new trust metadata has come for three lives of a timestamp.",
}

Found = dict[str, tuple[dict[str, Standing], SafeMode | None]]
"""model -> (bundle digest -> standing, the safe mode its committed bundle declares)."""


class TrustWatch:
    """One device's watch on its trust.

    Args:
        schedule: the line.
        key: of this device's timers.
        assurance: its trust.
        store: holds the manifests of what is installed.
        updates: told what is revoked; tells which releases there are.
        tell: queues an event: kind and fields as in ``Spool.add_event``.
        note: remembers the trouble of an area for the status, or that there is none any more.
        draw: returns a random number in [0, 1).

    Attributes:
        standings: model -> how trust stands to its committed bundle, as last asked.
    """

    def __init__(
        self,
        schedule: Schedule,
        key: str,
        assurance: Assurance,
        store: Store,
        updates: Updates,
        tell: Callable[..., None],
        note: Callable[[str, BaseException | None], None],
        draw: Callable[[], float],
    ) -> None:
        self._schedule, self._timer, self._assurance, self._store = schedule, (key, "refresh"), assurance, store
        self._updates, self._tell, self._note, self._draw = updates, tell, note, draw
        self._is_asking = self._asks_again = self._is_closed = False
        self._asked_for: dict[str, tuple[str, int]] = {}
        self._level = "fresh"
        self._refused = ""
        self.standings: dict[str, Standing] = {}

    def start(self) -> None:
        """Ask by what is known from before, and begin to look for more."""
        self.ask()
        self._refresh_in(REFRESH_S * self._draw())

    def close(self) -> None:
        """Ask nothing more."""
        self._is_closed = True
        self._schedule.cancel(self._timer)

    def refresh(self) -> None:
        """Look for new metadata now; what is refused is told."""
        if not self._is_closed:
            self._refresh_in(REFRESH_S * (0.75 + 0.5 * self._draw()))
            self._schedule.background(self._assurance.refresh, self._refreshed)

    def ask(self) -> None:
        """Ask how trust stands to every release the device holds, and tell the updater."""
        self._asks_again = self._is_asking
        if self._is_asking or self._is_closed:
            return
        self._is_asking = True
        states = dict(self._updates.states)
        self._schedule.background(lambda: {model: self._look(state) for model, state in states.items()}, self._asked)

    def state_changed(self, model: str) -> None:
        """Ask again where ``model`` has settled on another release, or its update has brought new metadata."""
        committed = self._updates.states[model].committed
        now = (committed.sha256 if committed else "", self._assurance.version)
        if self._asked_for.get(model) != now:
            self._asked_for[model] = now
            self.ask()

    def tell_level(self) -> None:
        """Tell how serious the age of the metadata is, where that has changed."""
        level = self._assurance.level()
        if level != self._level:
            self._level = level
            code = {"fresh": "", "warn": "TRUST_AGE_WARN", "alarm": "TRUST_AGE_ALARM"}[level]
            self._tell("trust_age", code=code, detail=_LEVEL_TOLD[level], data={"age_s": self._assurance.age_s()})

    def _refresh_in(self, seconds: float) -> None:
        self._schedule.at(self._timer, self._schedule.now_ms() + round(seconds * 1000), self.refresh)

    def _refreshed(self, found: BaseException | None) -> None:
        self._note("metadata", found)
        if self._is_closed:
            return
        self.ask()  # also after a refusal: what was verified before it counts
        self.tell_level()
        if not isinstance(found, WavegateError) or isinstance(found, TryAgain):
            self._refused = "" if found is None else self._refused
            if found is not None:
                _log.info("the trust metadata cannot be refreshed: %s", found)
            return
        if found.code != self._refused:  # told once: the same metadata is met every few hours
            self._refused = found.code
            self._tell("refused", code=found.code, detail=found.sentence)

    def _look(self, state: UpdaterState) -> tuple[dict[str, Standing], SafeMode | None]:
        committed = state.committed.sha256 if state.committed else ""
        found = {
            release.sha256: self._assurance.standing(release.sha256, is_running=release.sha256 == committed)
            for release in state.named
        }
        return found, self._declared(committed)

    def _declared(self, sha256: str) -> SafeMode | None:
        try:
            return self._store.manifest(sha256).safe_mode if sha256 else None
        except (WavegateError, OSError):
            return None  # the updater goes by what was read before, or keeps the model answering

    def _asked(self, found: Found | BaseException) -> None:
        self._is_asking = False
        if self._is_closed:
            return
        if isinstance(found, BaseException):
            _log.error("trust could not be asked about revocations: %s", found, exc_info=found)
        else:
            for model, (standings, safe_mode) in found.items():
                self._take(model, standings, safe_mode)
        if self._asks_again:
            self.ask()

    def _take(self, model: str, standings: dict[str, Standing], safe_mode: SafeMode | None) -> None:
        state = self._updates.states[model]
        committed = state.committed.sha256 if state.committed else ""
        if committed not in standings and committed:
            self.ask()  # it has changed meanwhile; what was asked about the other one would be said of the wrong one
            return
        standing: Standing = standings.get(committed, "clear")
        if standing != self.standings.get(model, "clear"):
            self._tell_standing(model, committed, standing)
        self.standings[model] = standing
        revoked = frozenset(sha256 for sha256, entry in standings.items() if entry == "revoked")
        self._updates.offer(model, ev.StandingSeen(0, revoked, safe_mode))

    def _tell_standing(self, model: str, sha256: str, standing: Standing) -> None:
        fields: dict[str, Any] = {"model": model, "sha256": sha256, "data": {"standing": standing}}
        if standing == "clear":
            self._tell("revocation", detail="The running release is not revoked (any more).", **fields)
            return
        what = "Too few have signed that to stop it." if standing == "warned" else "It is left, or in its safe mode."
        self._tell("revocation", code="TRUST_REVOKED", detail=f"The running release is revoked. {what}", **fields)
