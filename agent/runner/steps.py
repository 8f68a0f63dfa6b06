"""Carries out the updater's slow effects on this device's edges, and answers with events.

Each step may be carried out twice and ends the same way; what it raises is turned into an event by ``failed``.
Runs in the background, one step a model at a time. Leaves every decision to the core, and time to ``Updates``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from agent.conditions import WAIT_MS, Admission
from agent.core import effects as fx
from agent.core import events as ev
from agent.core.health import HealthLimits, Judgement, judge
from agent.core.plan import bytes_to_fetch, choose_variant, files_for
from agent.core.reasons import DISK_HELD, STORE_DAMAGE
from agent.core.state import Release
from agent.delta import Base, Brought, DeltaTry, Traffic
from agent.runner.assurance import Assurance
from agent.runner.edges import Models, StagedBundle
from agent.runner.rehash import Rehash
from agent.runner.updates import Slow
from agent.store import Store
from agent.store.slots import MANIFEST
from bundles.delta.base import base_for
from bundles.errors import BundleRefused, TrustRefused, TryAgain, WavegateError
from bundles.manifest import MAX_MANIFEST_BYTES, BundleFile, Manifest, Variant
from bundles.trust.device.authorize import check_manifest

_log = logging.getLogger(__name__)
HASHED_FIRST_BYTES = 64 * 1024 * 1024
"""A larger bundle answers at the start before it is hashed again: a slow card reads about 20 MB a second."""
WITHHELD = ("constant", "stop")
"""Safe modes in which a model does not answer."""
_KINDS: Mapping[type[fx.Effect], ev.EffectKind] = {
    fx.Authorize: "authorize",
    fx.Admit: "admit",
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
        spare: returns the digest of what a model keeps to return to and could do without; empty = nothing.
        delta_failed: told (model, digest of the file, what went wrong) where a file is fetched whole instead.
        conditions: say what speaks against a download or an activation.
        rehash: hashes large slots behind their answers.
        damaged: told (model, release, what was found) on the line where one of them is not sound.

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
        spare: Callable[[str], str],
        delta_failed: Callable[[str, str, WavegateError], None],
        conditions: Admission,
        rehash: Rehash,
        damaged: Callable[[str, Release, Exception], None],
    ) -> None:
        self._assurance, self._store, self._fetch, self._models = assurance, store, fetch, models
        self._hardware, self._draw, self._retained = hardware, draw, retained
        self._spare, self._delta_failed, self._conditions = spare, delta_failed, conditions
        self._rehash, self._damaged = rehash, damaged
        self.traffic = Traffic()
        self._cancelled: set[str] = set()
        self._coming: dict[str, tuple[BundleFile, ...]] = {}
        self._max_latency_ms: dict[str, float] = {}
        self._staged: dict[str, str] = {}

    def handlers(self) -> dict[type[fx.Effect], Slow]:
        """Return the table from effect to handler."""
        return {
            fx.Authorize: self._authorize,
            fx.Admit: self._admit,
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

    def progress(self, model: str) -> tuple[int, int]:
        """Return how many bytes of the newest download of ``model`` are here, and of how many; (0, 0) before one."""
        files = self._coming.get(model, ())
        total = sum({entry.sha256: entry.length for entry in files}.values())
        return total - bytes_to_fetch(files, lambda file: self._store.held_bytes(file.sha256)), total

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
        wait_ms = error.details.get(WAIT_MS, 0) if isinstance(error, WavegateError) else 0
        wait_ms = wait_ms if isinstance(wait_ms, int) else 0
        return ev.EffectFailed(0, kind, sha256, code, retryable, detail, self._draw(), wait_ms)

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

    def _admit(self, model: str, effect: fx.Effect) -> ev.Event:
        assert isinstance(effect, fx.Admit)
        release = effect.release
        if effect.stage == "activate":
            self._conditions.check("activate", self._model_bytes(model, self._store.manifest(release.sha256), release))
            return ev.Admitted(0, release.sha256, "activate")
        missing = release.length
        if self._store.has_blob(release.sha256, release.length):
            files = self._files(release)
            missing = bytes_to_fetch(files, lambda file: self._store.held_bytes(file.sha256))
        if missing:  # whether there is room is asked by the download, which knows what may be given up for it
            self._conditions.check("download", missing)
        return ev.Admitted(0, release.sha256, "download")

    def _model_bytes(self, model: str, manifest: Manifest, release: Release) -> int:
        """Return the size of the model file to load; with ``swap: cold`` less that of the one that makes room."""
        path = self._variant(manifest, release).file
        size = next((entry.length for entry in manifest.files if entry.path == path), 0)
        running = self._models.running(model) if manifest.swap == "cold" else None
        if running is None:
            return size
        old = self._store.manifest(running.sha256)
        paths = [variant.file for variant in old.variants if variant.id == running.variant]
        return max(0, size - sum(entry.length for entry in old.files if entry.path in paths))

    def _download(self, model: str, effect: fx.Effect) -> ev.Event:
        assert isinstance(effect, fx.Download)
        self._cancelled.discard(effect.release.sha256)
        try:
            return self._bring_all(model, effect.release)
        except TryAgain as error:
            if error.code != "DISK_FULL":
                raise
        self._collect_garbage(model, effect)  # what nobody names any more is in nobody's way
        return self._bring_all(model, effect.release, is_last=True)

    def _bring_all(self, model: str, release: Release, is_last: bool = False) -> ev.Event:
        allowed = self._assurance.allowed(release, self._hardware)
        self._bring(release.sha256, release.length, release.sha256, None)
        manifest = check_manifest(allowed, self._store.read_blob(release.sha256, MAX_MANIFEST_BYTES))
        variant = self._variant(manifest, release)
        files = self._coming[model] = files_for(manifest, variant)
        with contextlib.ExitStack() as room:
            try:
                room.enter_context(self._store.coming(files))
            except TryAgain as error:
                raise (self._no_room(model, manifest, error) if is_last else error) from error
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
        files = files_for(manifest, self._variant(manifest, release))
        self._store.stage(release.sha256, files)
        try:
            self._store.check_slot(release.sha256, files)  # tried is this, and not what was verified before
        except TryAgain as error:
            if error.code in STORE_DAMAGE:
                self._store.discard(release.sha256)  # or the slot of an earlier try would be taken as it is, for ever
            raise
        # Put off rather than tried: an OOM kill would be held against the release.
        self._conditions.check_memory(self._model_bytes(model, manifest, release))
        result = self._models.try_out(self.bundle(release))
        if result.ok:
            self._staged[model] = release.sha256
            return ev.Staged(0, release.sha256)
        reason = {"timeout": "deadline"}.get(result.reason or "", result.reason or "load")
        return ev.TrialFailed(0, release.sha256, f"TRIAL_{reason.upper()}", result.detail, reason)

    def _activate(self, model: str, effect: fx.Effect) -> ev.Event:
        assert isinstance(effect, fx.Activate)
        if self._staged.get(model) != effect.release.sha256:  # staged before a start of the agent
            self._check_slot(effect.release, self._files(effect.release))  # however large: another answers meanwhile
        return self._answer_with(model, effect.release)

    def _serve(self, model: str, effect: fx.Effect) -> ev.Event:
        assert isinstance(effect, fx.Serve)
        if effect.safe_mode in WITHHELD:
            return self._withhold(model, effect.release, effect.safe_mode)
        return self._serve_checked(model, effect.release)

    def _serve_checked(self, model: str, release: Release) -> ev.Event:
        """Trust design, step 17: hash the slot again, before it answers, or behind that where it takes long."""
        files = self._files(release)
        if sum(entry.length for entry in files) <= HASHED_FIRST_BYTES:
            self._check_slot(release, files)
            return self._answer_with(model, release)
        answer = self._answer_with(model, release)

        def check(pause: Callable[[], None]) -> None:
            try:
                self._store.check_slot(release.sha256, files, pause)
            except TryAgain as error:
                running = self._models.running(model)
                if running is not None and running.sha256 == release.sha256 and error.code in STORE_DAMAGE:
                    self._models.deactivate(model)
                raise

        self._rehash.ask(check, lambda error: self._damaged(model, release, error))
        return answer

    def _check_slot(self, release: Release, files: Sequence[BundleFile]) -> None:
        """Hash a slot; where it is damaged and the factory holds the same bundle, that copy takes its place."""
        try:
            self._store.check_slot(release.sha256, files)
        except TryAgain as error:
            if error.code not in STORE_DAMAGE or not self._store.is_factory(release.sha256):
                raise
            _log.warning("a slot is damaged, and the factory's copy takes its place: %s", error)
            self._store.discard(release.sha256)
            self._store.check_slot(release.sha256, files)

    def _files(self, release: Release) -> tuple[BundleFile, ...]:
        manifest = self._store.manifest(release.sha256)
        return files_for(manifest, self._variant(manifest, release))

    def _revert(self, model: str, effect: fx.Effect) -> ev.Event:
        assert isinstance(effect, fx.Revert)
        if effect.to is not None:
            if effect.safe_mode in WITHHELD:
                return self._withhold(model, effect.to, effect.safe_mode)
            return self._serve_checked(model, effect.to)
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
        with self._store.still():  # what another model begins meanwhile is either retained, or not there yet
            self._store.collect_garbage(self._retained())

    def _discard(self, model: str, effect: fx.Effect) -> None:
        assert isinstance(effect, fx.Discard)
        self._store.discard(effect.release.sha256)

    def _bring(self, sha256: str, length: int, for_release: str, wish: DeltaTry | None) -> None:
        with self._store.bringing(sha256):
            if self._store.adopt(sha256, length):
                return  # also where it was lost, and lies in a slot or with the factory's: nothing to fetch
            brought = self._fetch(self._store, sha256, length, lambda: for_release in self._cancelled, wish)
        self.traffic.add(brought, length)

    def _no_room(self, model: str, manifest: Manifest, error: TryAgain) -> TryAgain:
        """Say so where the release could be had by giving up the one kept to return to, if its bundle allows it."""
        spare = self._spare(model) if manifest.swap == "cold" else ""
        missing = error.details.get("missing_bytes")
        if not spare or not isinstance(missing, int):
            return error
        kept = self._retained() - {spare}
        if self._store.only_in(spare, kept) < missing:
            return error
        return TryAgain(error.sentence, code=DISK_HELD, remedy=error.remedy, details=error.details)

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
