"""When the device looks for new trust metadata, and what it does with a refusal that fresh metadata may lift.

Leaves every check to ``bundles.trust.device.client``. Calls wait for the network: never on the schedule's line, except
``age_s``, ``level`` and ``floor``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

from agent.core.state import Release
from bundles.errors import TrustRefused, TryAgain
from bundles.trust.device.authorize import Authorized
from bundles.trust.device.client import TrustStore
from bundles.trust.device.summary import Level, age_level
from bundles.trust.revocation import Standing
from bundles.wire.messages import Desired, DesiredModel

T = TypeVar("T")
REFRESH_AGAIN_MS = 5_000
"""Least time between refreshes made only because something was refused, against a server that refuses everything."""
_REMEMBERED = 16
_LIFTED_BY_REFRESH = ("TRUST_EXPIRED", "TRUST_NOT_LISTED", "TRUST_UNSIGNED_DIRECTOR", "TRUST_DIRECTOR_MISMATCH")


class Assurance:
    """One device's trust, refreshed when there is reason to.

    Args:
        store: the trust store; closed with this.
        wall_ms: the system's clock.
        now_ms: a clock that only rises.
    """

    def __init__(self, store: TrustStore, wall_ms: Callable[[], int], now_ms: Callable[[], int]) -> None:
        self._store, self._wall_ms, self._now_ms = store, wall_ms, now_ms
        self._refreshed_ms: int | None = None
        known = store.summary(wall_ms())  # of an earlier start, so that age is told without a network
        self._version = known.timestamp_version if known else 0
        self._signed_ms = now_ms() - known.age_s * 1000 if known else 0
        self._life_s = known.life_s if known else 0
        self._allowed: dict[str, Authorized] = {}

    def refresh(self) -> None:
        """Fetch and verify what is new.

        Raises:
            TrustRefused: the repository's metadata is refused.
            TryAgain: it cannot be reached.
        """
        self._refreshed_ms = self._now_ms()
        summary = self._store.refresh(self._wall_ms())
        self._version = summary.timestamp_version
        self._signed_ms = self._now_ms() - summary.age_s * 1000
        self._life_s = summary.life_s

    def accept(self, data: bytes) -> Desired:
        """Verify a desired document and remember its generation; see ``TrustStore.accept_desired`` for refusals."""
        desired = self._with_fresh(lambda: self._store.accept_desired(data, self._wall_ms()))
        if desired.trust_version > self._version:
            self.refresh()
        return desired

    def authorize(self, release: Release, hardware: str) -> Authorized:
        """Decide whether this device may run a release; see ``TrustStore.authorize`` for refusals."""
        team, model, *_ = release.target.split("/")
        wanted = DesiredModel(release.target, release.sha256, release.length, release.counter)
        allowed = self._with_fresh(
            lambda: self._store.authorize(f"{team}/{model}", wanted, hardware=hardware, now_ms=self._wall_ms())
        )
        self._allowed[release.sha256] = allowed
        while len(self._allowed) > _REMEMBERED:
            del self._allowed[next(iter(self._allowed))]
        return allowed

    def allowed(self, release: Release, hardware: str) -> Authorized:
        """Return what ``authorize`` said of a release, asking again after a restart of the agent."""
        return self._allowed.get(release.sha256) or self.authorize(release, hardware)

    def raise_floor(self, model: str, counter: int) -> None:
        """Make ``counter`` the model's floor, durably; a higher one stays."""
        # The core has done the arithmetic of step 16; the store takes the pair it is the lower of.
        self._store.raise_floor(model, counter + 1, counter)

    def floor(self, model: str) -> int:
        """Return the release-counter floor in force for a model."""
        return self._store.floors.release_floor(model)

    def age_s(self) -> int:
        """Return the age of the newest verified timestamp, 0 before the first."""
        return max(0, self._now_ms() - self._signed_ms) // 1000 if self._signed_ms else 0

    def level(self) -> Level:
        """Return how serious that age is; ``fresh`` before the first timestamp. Nothing is stopped by it."""
        return age_level(self.age_s(), self._life_s) if self._signed_ms else "fresh"

    @property
    def version(self) -> int:
        """The newest verified timestamp's version; 0 before the first. Rises with whatever may have news."""
        return self._version

    def standing(self, sha256: str, *, is_running: bool) -> Standing:
        """Return how trust stands to a bundle; see ``TrustStore.standing``. Needs no network, but may wait for one."""
        return self._store.standing(sha256, running=is_running)

    def close(self) -> None:
        """Release the trust folder."""
        self._store.close()

    def _with_fresh(self, judge: Callable[[], T]) -> T:
        """Return what ``judge`` says, after a refresh where that may change a refusal."""
        if self._refreshed_ms is None:
            with contextlib.suppress(TryAgain):  # no network: what is cached may still do
                self.refresh()
        try:
            return judge()
        except TryAgain as error:
            if error.code != "METADATA_NOT_REFRESHED":
                raise
        except TrustRefused as error:
            is_recent = self._refreshed_ms is not None and self._now_ms() - self._refreshed_ms < REFRESH_AGAIN_MS
            if is_recent or not error.code.startswith(_LIFTED_BY_REFRESH):
                raise
        self.refresh()
        return judge()
