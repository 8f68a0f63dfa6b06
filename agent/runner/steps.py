"""Carries out the updater's slow effects on this device's edges, and answers with events.

Each step may be carried out twice and ends the same way; what it raises is turned into an event by ``failed``.
Runs in the background, one step a model at a time. Leaves every decision to the core, and time to ``Updates``.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from agent.core import effects as fx
from agent.core import events as ev
from agent.core.health import HealthLimits, Judgement, judge
from agent.core.plan import bytes_to_fetch, choose_variant, files_for
from agent.core.state import Release
from agent.delta import Base, Brought, DeltaTry, Tools, Traffic, fetch_either_way
from agent.download import Answer
from agent.https import DeviceDoor
from agent.runner.assurance import Assurance
from agent.runner.edges import Models, StagedBundle
from agent.runner.updates import Slow
from agent.store import Store
from agent.store.slots import MANIFEST
from bundles.delta.base import base_for
from bundles.errors import BundleRefused, TrustRefused, TryAgain, WavegateError
from bundles.manifest import MAX_MANIFEST_BYTES, BundleFile, Manifest, Variant
from bundles.trust.device.authorize import check_manifest

HASHED_FIRST_BYTES = 64 * 1024 * 1024
"""A larger bundle answers at the start before it is hashed again: a slow card reads about 20 MB a second."""
WITHHELD = ("constant", "stop")
"""Safe modes in which a model does not answer."""
_KINDS: Mapping[type[fx.Effect], ev.EffectKind] = {
    fx.Authorize: "authorize",
    fx.Download: "download",
    fx.Verify: "verify",
    fx.Stage: "stage",
    fx.Activate: "activate",
    fx.Revert: "revert",
    fx.Serve: "serve",
}


class BlobFetch(Protocol):
    """Brings one blob into the store, unless it is there."""

    def __call__(
        self, store: Store, sha256: str, length: int, is_cancelled: Callable[[], bool], wish: DeltaTry | None = None
    ) -> Brought:
        """Return once the blob is whole, checked and durable; as a delta where ``wish`` says so and it can be had.

        Raises:
            TryAgain: as ``agent.download.fetch_blob``.
        """
        ...


class ServerBlobs:
    """Blobs from the server, over the device's signed door."""

    def __init__(self, door: DeviceDoor, rng: random.Random) -> None:
        self._door, self._rng = door, rng

    def __call__(
        self, store: Store, sha256: str, length: int, is_cancelled: Callable[[], bool], wish: DeltaTry | None = None
    ) -> Brought:
        """Fetch the blob, resuming what is there."""
        tools = Tools(time.sleep, self._rng.random, is_cancelled)
        part, path = store.blob(sha256, length), f"/v1/blobs/sha256/{sha256}"
        return fetch_either_way(self, path, lambda old, new: f"/v1/deltas/{old}/{new}", part, wish, tools)

    @contextlib.contextmanager
    def open(self, url: str, offset: int, etag: str) -> Iterator[Answer]:
        """Ask the door; see ``agent.download.Source``."""
        with self._door.blob(url, offset, etag) as answer:
            yield Answer(answer.status, answer.chunks, answer.length, answer.offset, answer.retry_after_s)


class Steps:
    """The slow effects of one device.

    Args:
        assurance: its trust.
        store: its disk.
        fetch: brings blobs.
        models: its models.
        hardware: its hardware class.
        draw: returns a random number in [0, 1).
        retained: digests that no model of the device can spare.
        delta_failed: told (model, digest of the file, what went wrong) where a file is fetched whole instead.

    Attributes:
        traffic: what downloads have cost.
    """

    def __init__(
        self,
        assurance: Assurance,
        store: Store,
        fetch: BlobFetch,
        models: Models,
        hardware: str,
        draw: Callable[[], float],
        retained: Callable[[], frozenset[str]],
        delta_failed: Callable[[str, str, WavegateError], None],
    ) -> None:
        self._assurance, self._store, self._fetch, self._models = assurance, store, fetch, models
        self._hardware, self._draw, self._retained = hardware, draw, retained
        self._delta_failed = delta_failed
        self.traffic = Traffic()
        self._cancelled: set[str] = set()
        self._max_latency_ms: dict[str, float] = {}

    def handlers(self) -> dict[type[fx.Effect], Slow]:
        """Return the table from effect to handler."""
        return {
            fx.Authorize: self._authorize,
            fx.Download: self._download,
            fx.Verify: self._verify,
            fx.Stage: self._stage,
            fx.Activate: self._activate,
            fx.Revert: self._revert,
            fx.Serve: self._serve,
            fx.Judge: self._judge,
            fx.Commit: self._commit,
            fx.RaiseFloor: self._raise_floor,
            fx.CollectGarbage: self._collect_garbage,
            fx.Discard: self._discard,
        }

    def cancel(self, sha256: str) -> None:
        """Let a download of ``sha256`` stop at the next piece. From any thread."""
        self._cancelled.add(sha256)

    def failed(self, effect: fx.Effect, error: Exception) -> ev.Event | None:
        """Turn what a step raised into its answer; None for steps that answer nothing."""
        kind = _KINDS.get(type(effect))
        if kind is None:
            return None
        sha256, detail = _sha256_of(effect), str(error) or type(error).__name__
        if isinstance(error, WavegateError):
            code, retryable, detail = error.code, isinstance(error, TryAgain), error.sentence
        else:
            # A disk that fails is worth another try; a fault in the agent itself ends this update and no other.
            code, retryable = ("STORE_IO", True) if isinstance(error, OSError) else ("AGENT_FAULT", False)
        if kind == "authorize" and isinstance(error, TrustRefused | BundleRefused):
            return ev.Refused(0, sha256, code, detail, self._draw())
        return ev.EffectFailed(0, kind, sha256, code, retryable, detail, self._draw())

    def bundle(self, release: Release) -> StagedBundle:
        """Return a staged bundle as it lies in its slot.

        Raises:
            TryAgain: ``STORE_MISSING`` or ``STORE_CORRUPT``.
        """
        slot = self._store.slot(release.sha256)
        manifest = self._store.manifest(release.sha256)
        if slot is None:
            raise TryAgain(
                f"The slot of {manifest.model_key} {manifest.version} is not on this device.",
                code="STORE_MISSING",
                remedy="It is fetched again by the next try.",
            )
        folder = Path(self._store.path(slot, MANIFEST)).parent
        return StagedBundle(release, folder, manifest, self._variant(manifest, release))

    def _authorize(self, model: str, effect: fx.Effect) -> ev.Event:
        assert isinstance(effect, fx.Authorize)
        self._assurance.authorize(effect.release, self._hardware)
        return ev.Authorized(0, effect.release.sha256)

    def _download(self, model: str, effect: fx.Effect) -> ev.Event:
        assert isinstance(effect, fx.Download)
        release = effect.release
        self._cancelled.discard(release.sha256)
        allowed = self._assurance.allowed(release, self._hardware)
        self._bring(release.sha256, release.length, release.sha256, None)
        manifest = check_manifest(allowed, self._store.read_blob(release.sha256, MAX_MANIFEST_BYTES))
        variant = self._variant(manifest, release)
        files = files_for(manifest, variant)
        self._store.check_space(bytes_to_fetch(files, lambda file: self._store.held_bytes(file.sha256)))
        for entry in files:
            self._bring(entry.sha256, entry.length, release.sha256, self._wish(model, entry, manifest))
        return ev.Downloaded(0, release.sha256, manifest.version, variant.id)

    def _verify(self, model: str, effect: fx.Effect) -> ev.Event:
        assert isinstance(effect, fx.Verify)
        release = effect.release
        allowed = self._assurance.allowed(release, self._hardware)
        manifest = check_manifest(allowed, self._store.read_blob(release.sha256, MAX_MANIFEST_BYTES))
        self._store.verify(release.sha256, files_for(manifest, self._variant(manifest, release)))
        return ev.Verified(0, release.sha256)

    def _stage(self, model: str, effect: fx.Effect) -> ev.Event:
        assert isinstance(effect, fx.Stage)
        release = effect.release
        manifest = self._store.manifest(release.sha256)
        self._store.stage(release.sha256, files_for(manifest, self._variant(manifest, release)))
        self._store.check_slot(release.sha256)  # what is tried and run is this, not what was verified a while ago
        result = self._models.try_out(self.bundle(release))
        if result.ok:
            return ev.Staged(0, release.sha256)
        reason = {"timeout": "deadline"}.get(result.reason or "", result.reason or "load")
        return ev.TrialFailed(0, release.sha256, f"TRIAL_{reason.upper()}", result.detail, reason)

    def _activate(self, model: str, effect: fx.Effect) -> ev.Event:
        assert isinstance(effect, fx.Activate)
        return self._answer_with(model, effect.release)

    def _serve(self, model: str, effect: fx.Effect) -> ev.Event:
        assert isinstance(effect, fx.Serve)
        if effect.safe_mode in WITHHELD:
            return self._withhold(model, effect.release, effect.safe_mode)
        return self._serve_checked(model, effect.release)

    def _serve_checked(self, model: str, release: Release) -> ev.Event:
        """Trust design, step 17: hash the slot again, before it answers, or behind that where it takes long."""
        if sum(entry.length for entry in self._store.manifest(release.sha256).files) <= HASHED_FIRST_BYTES:
            self._store.check_slot(release.sha256)
            return self._answer_with(model, release)
        answer = self._answer_with(model, release)
        try:
            self._store.check_slot(release.sha256)
        except BaseException:
            self._models.deactivate(model)
            raise
        return answer

    def _revert(self, model: str, effect: fx.Effect) -> ev.Event:
        assert isinstance(effect, fx.Revert)
        if effect.to is not None:
            if effect.safe_mode in WITHHELD:
                return self._withhold(model, effect.to, effect.safe_mode)
            return self._answer_with(model, effect.to)
        self._models.deactivate(model)
        self._store.deactivate(model)
        return ev.Activated(0, "")

    def _answer_with(self, model: str, release: Release) -> ev.Event:
        bundle = self.bundle(release)
        running = self._models.running(model)
        if running is None or running.sha256 != release.sha256:
            self._models.activate(bundle)
        self._store.activate(model, release.sha256)
        self._max_latency_ms[model] = bundle.manifest.health_check.max_latency_ms
        return ev.Activated(0, release.sha256)

    def _withhold(self, model: str, release: Release, mode: str) -> ev.Event:
        self._models.withhold(model, mode)
        self._store.activate(model, release.sha256)
        return ev.Activated(0, release.sha256)

    def _judge(self, model: str, effect: fx.Effect) -> ev.Event:
        assert isinstance(effect, fx.Judge)
        found = self._models.numbers(model)
        if found is None or found[0] != effect.sha256:
            return ev.HealthSeen(0, effect.sha256, Judgement("unknown", "no_data", "It does not answer at present."))
        limits = HealthLimits(max_latency_p95_ms=self._max_latency_ms.get(model, 0.0))
        return ev.HealthSeen(0, effect.sha256, judge(found[1], limits))

    def _commit(self, model: str, effect: fx.Effect) -> None:
        """Nothing is kept only for a quick return: the worker before was drained at the swap."""

    def _raise_floor(self, model: str, effect: fx.Effect) -> None:
        assert isinstance(effect, fx.RaiseFloor)
        self._assurance.raise_floor(effect.model, effect.counter)

    def _collect_garbage(self, model: str, effect: fx.Effect) -> None:
        self._store.collect_garbage(self._retained())

    def _discard(self, model: str, effect: fx.Effect) -> None:
        assert isinstance(effect, fx.Discard)
        self._store.discard(effect.release.sha256)

    def _bring(self, sha256: str, length: int, for_release: str, wish: DeltaTry | None) -> None:
        brought = self._fetch(self._store, sha256, length, lambda: for_release in self._cancelled, wish)
        self.traffic.add(brought, length)

    def _wish(self, model: str, entry: BundleFile, manifest: Manifest) -> DeltaTry | None:
        """Say what of the release that answers now ``entry`` may be built out of; None where nothing will do."""
        try:
            active = self._store.active(model)
            base = base_for(entry, manifest, self._store.manifest(active)) if active else None
        except (TryAgain, BundleRefused):
            return None  # what answers is damaged on disk: its own affair
        if base is None or not self._store.has_blob(base.sha256, base.length):
            return None

        def failed(error: WavegateError) -> None:
            self.traffic.add_failure()
            self._delta_failed(model, entry.sha256, error)

        return DeltaTry(Base(base.sha256, lambda: self._store.open_blob(base.sha256)), failed)

    def _variant(self, manifest: Manifest, release: Release) -> Variant:
        return choose_variant(
            manifest, hardware=self._hardware, runtimes=self._models.runtimes(), insisted=release.variant
        )


def _sha256_of(effect: fx.Effect) -> str:
    release = effect.to if isinstance(effect, fx.Revert) else getattr(effect, "release", None)
    return release.sha256 if release else ""
