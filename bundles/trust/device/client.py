"""The device's side of trust: refresh metadata, accept what the director signs, authorise a bundle, keep the floors.

TUF's own client does the metadata workflow (``cache``). Around it stands what TUF lacks on a device (``checks``):
floors outside its cache, a signed clock, what is forbidden, the director's assignment, the pins. The numbers in
comments are the steps of the trust design's list of device checks. Everything fails closed; nothing here touches the
model that runs.

Leaves fetching to the ``MetadataFetch`` handed in and blobs to the agent's download. One store per folder, one
process at a time; calls may come from several threads.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from tuf.api.metadata import TargetFile

from bundles.errors import TrustRefused, TryAgain
from bundles.manifest import Channel
from bundles.trust import revocation
from bundles.trust.device import checks
from bundles.trust.device.authorize import Authorized, check_listing, check_pins, check_target_path
from bundles.trust.device.cache import MetadataCache, Repository, store_trouble
from bundles.trust.device.floors import Floors, RoleFloor, forbidden_by, load_floors, said_by_targets, save_floors
from bundles.trust.device.kit import Kit, check_kit_expiry, check_kit_newer, open_kit
from bundles.trust.device.summary import TrustSummary as TrustSummary
from bundles.trust.device.summary import summarise
from bundles.trust.director import verify_desired
from bundles.trust.durable import FolderLock, Write, write_durably
from bundles.trust.fetch import MetadataFetch
from bundles.trust.publishing.state import delegated_names
from bundles.trust.revocation import REVOCATION, REVOCATION_PATH, Revoked, Standing
from bundles.trust.roles import (
    DIRECTOR,
    check_distinct_keys,
    key_fingerprint,
    parse_root,
    timestamp_life_s,
    utc,
)
from bundles.wire.messages import Desired, DesiredModel

BUILT_MS = 1_792_000_000_000
"""A moment before this release was made (October 2026): no honest clock is earlier. Raised with every release."""


class TrustStore:
    """The trust state of one device in one folder. Use as a context manager, or ``close`` it."""

    def __init__(
        self,
        folder: Path,
        bootstrap_root: bytes,
        *,
        device: str,
        fetch: MetadataFetch,
        pin: Channel = "prod",
        built_ms: int = BUILT_MS,
        write: Write = write_durably,
        factory: frozenset[str] = frozenset(),
        allow_demo: bool = False,
        metadata: Path | None = None,
    ) -> None:
        """Open the store, making the folder on first use. Nothing is fetched yet.

        Args:
            folder: the device's trust folder; the store owns all of it.
            bootstrap_root: the root metadata this installation trusts from the start (step 3).
            device: the device's id: only its own assignment is accepted.
            fetch: the door to the repository's metadata.
            pin: lowest channel accepted.
            built_ms: a time that has certainly passed.
            write: how files are replaced; anything but the default is for devices that are only simulated.
            factory: digests of the bundles this device was made with: only top-level targets may revoke them.
            allow_demo: whether a repository with a demo's keys is taken.
            metadata: where verified metadata is kept; default below ``folder``.

        Raises:
            AskPerson: ``TRUST_DEMO_KEYS``.
            TryAgain: ``TRUST_LOCKED``: another process uses the folder; ``TRUST_STORE_IO``, ``DISK_FULL``.
            TrustRefused: ``TRUST_CACHE_CORRUPT``: the durable floors are lost.
        """
        self._folder, self._device = folder, device
        self._fetch, self._pin, self._built_ms, self._write = fetch, pin, built_ms, write
        self._bootstrap, self._factory, self._allow_demo = bootstrap_root, factory, allow_demo
        checks.check_demo(parse_root("root.json", bootstrap_root).signed, allowed=allow_demo)
        folder.mkdir(parents=True, exist_ok=True)
        self._folder_lock = FolderLock(folder)  # step 2
        self._cache = MetadataCache(folder, bootstrap_root, write, metadata)
        try:
            self._floors = load_floors(folder, cache_exists=self._cache.exists)
            if not self._floors.written:
                # Before the first cache file: a cache without floors must always mean that they were lost.
                self._floors = save_floors(folder, self._floors, write)
        except OSError as error:
            self._folder_lock.release()
            raise store_trouble(folder, error) from error
        except BaseException:
            self._folder_lock.release()
            raise
        self._mutex = threading.RLock()
        self._repository: Repository | None = None

    def close(self) -> None:
        """Release the folder."""
        self._folder_lock.release()

    def __enter__(self) -> TrustStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def floors(self) -> Floors:
        """The durable floors as they stand: generation, release counters, versions, clock."""
        return self._floors

    @property
    def server_cas(self) -> list[bytes]:
        """CA certificates (DER) that may sign the server's, as last signed: in use first; empty where none are."""
        return list(self._floors.server_cas)

    @property
    def serves_by_hash(self) -> bool:
        """Whether the repository refreshed from serves targets under names that begin with their hash."""
        return self._repository is not None and bool(self._repository.root.consistent_snapshot)

    def clock_ms(self, now_ms: int) -> int:
        """Return the time as far as it is known, UTC epoch ms: step 1.

        The latest of the system's clock, what the newest timestamp proves, and when this program was built.
        """
        return max(now_ms, self._built_ms, self._floors.clock_ms)

    def refresh(self, now_ms: int) -> TrustSummary:
        """Fetch and verify what is new: steps 1 to 5.

        Args:
            now_ms: the system's clock, UTC epoch ms, right or wrong.

        Raises:
            AskPerson: ``TRUST_DEMO_KEYS``.
            TryAgain: ``METADATA_UNREACHABLE``, ``TRUST_STORE_IO``, ``DISK_FULL``.
            TrustRefused: ``TRUST_ROOT_SIG``, ``TRUST_THRESHOLD``, ``TRUST_UNSIGNED_*``, ``TRUST_EXPIRED_*``,
                ``TRUST_ROLLBACK_*``, ``TRUST_MIX``, ``TRUST_LENGTH``, ``TRUST_SLOW``, ``TRUST_CLOCK``, or
                ``TRUST_FLOOR``, ``TRUST_REVOKED``, ``TRUST_UNSIGNED_TARGETS`` for a list that cannot be read.
        """
        with self._mutex:
            self._repository = None
            self._repository = self._judge(self._cache.load(self._fetch, utc(now_ms)), now_ms)
            return summarise(self._floors, self.clock_ms(now_ms))

    def summary(self, now_ms: int) -> TrustSummary | None:
        """Say how current the metadata is, also when it has expired; None before the first good refresh."""
        with self._mutex:
            known = "timestamp" in self._floors.roles
            return summarise(self._floors, self.clock_ms(now_ms)) if known else None

    def standing(self, sha256: str, *, running: bool) -> Standing:
        """Say whether the bundle ``sha256`` may be installed or, where it is ``running``, go on.

        Needs neither a network nor unexpired metadata. ``warned`` is said of what runs only: too few have signed its
        revocation to stop it, and it must not be installed anew.
        """
        with self._mutex:
            floors = self._floors
            return revocation.standing(
                sha256,
                running=running,
                by_targets=floors.forbidden,
                by_role=floors.denied,
                factory=self._factory,
            )

    def why_revoked(self, sha256: str) -> Revoked | None:
        """Return why and when the bundle ``sha256`` was forbidden; None where nobody did."""
        with self._mutex:
            denied = self._floors.denied.get(sha256)
            listed = Revoked(denied.reason, denied.at_ms) if denied is not None else None
            return self._floors.forbidden.get(sha256, listed)

    def accept_desired(self, data: bytes, now_ms: int) -> Desired:
        """Verify a desired document and remember its generation, durably, before returning it: step 6.

        The same generation is accepted again only if it says the same (its expiry may move).

        Raises:
            TrustRefused: ``TRUST_UNSIGNED_DIRECTOR``, ``TRUST_WRONG_DEVICE``, ``TRUST_EXPIRED_DIRECTOR`` or
                ``TRUST_ROLLBACK_DIRECTOR``; also what ``refresh`` raises of metadata in the cache.
            MessageRefused: properly signed, but in a version this program does not read.
            TryAgain: ``METADATA_NOT_REFRESHED``: refresh first.
        """
        with self._mutex:
            targets = self._require(now_ms).targets
            desired, digest = verify_desired(data, targets)
            checks.check_device(desired, self._device)
            checks.check_assignment_expiry(desired, self.clock_ms(now_ms))
            keys = key_fingerprint(targets, DIRECTOR)
            # A stolen director key could use up all generations; rotating it (offline) makes them start anew.
            known = self._floors.gen if self._floors.gen_keys == keys else 0
            checks.check_generation(desired.gen, digest, known, self._floors.gen_sha256)
            if desired.gen != known or not self._floors.gen_sha256:
                self._save(gen=desired.gen, gen_sha256=digest, gen_keys=keys)
            return desired

    def authorize(self, model: str, wanted: DesiredModel, *, hardware: str, now_ms: int) -> Authorized:
        """Decide whether an accepted assignment may run here: steps 7 to 10.

        Args:
            model: ``team/model``, the key in desired.
            wanted: what the director chose.
            hardware: the device's hardware class.
            now_ms: the system's clock, UTC epoch ms.

        Raises:
            TrustRefused: ``TRUST_NOT_LISTED``, ``TRUST_DIRECTOR_MISMATCH``, ``TRUST_CHANNEL``, ``TRUST_HW``,
                ``TRUST_FLOOR``, ``TRUST_REVOKED``, or what ``refresh`` raises, for the team's role or for metadata
                expired meanwhile.
            TryAgain: as ``refresh``; ``METADATA_NOT_REFRESHED`` where it was never called.
        """
        with self._mutex:
            check_target_path(model, wanted)
            listed, role = self.look_up(wanted.target, now_ms)
            return self._allow(model, wanted, listed, role, hardware)

    def look_up(self, path: str, now_ms: int) -> tuple[TargetFile | None, str]:
        """Find what the trusted roles say of a target path: step 7.

        Returns:
            The target (None where nobody lists it), and the role consulted last: the one that lists it.

        Raises:
            TrustRefused: as ``authorize``, of metadata.
            TryAgain: as ``authorize``.
        """
        with self._mutex:
            repository = self._require(now_ms)
            listed, holders = self._cache.look_up(repository, path, utc(now_ms))
            consulted: checks.Judged = {holder.role: (holder.signed, holder.keys) for holder in holders}
            self._save(roles=self._judge_roles(consulted, self.clock_ms(now_ms)))
            return listed, holders[-1].role if holders else "targets"

    def open_kit(self, path: Path, now_ms: int) -> Kit:
        """Verify an offline kit and remember it, durably, before returning it: steps 1 to 6 without a network.

        The kit stands in for timestamp, snapshot and director (see ``kit``). The same kit may be opened again.

        Raises:
            TrustRefused: ``TRUST_UNSIGNED_KIT``, ``TRUST_THRESHOLD``, ``TRUST_EXPIRED_KIT``,
                ``TRUST_ROLLBACK_KIT``, ``TRUST_DIGEST``, ``TRUST_LENGTH``, ``TRUST_MIX``, or what ``refresh`` raises
                of root, targets, team and revocation metadata.
            AskPerson: ``TRUST_DEMO_KEYS``.
            OSError: there is no such file.
        """
        with self._mutex:
            kit = open_kit(path, self._bootstrap)
            checks.check_demo(kit.root, allowed=self._allow_demo)
            roles = self._judge_roles(kit.judged, self.clock_ms(now_ms))
            check_kit_expiry(kit.document, self.clock_ms(now_ms))
            known = self._floors.kit if self._floors.kit_keys == kit.keys else 0
            check_kit_newer(kit, known, self._floors.kit_sha256)
            self._save(
                roles=roles,
                **said_by_targets(kit.targets),
                **forbidden_by(self._floors, kit.revocation),
                kit=kit.document.version,
                kit_sha256=kit.sha256,
                kit_keys=kit.keys,
            )
            return kit

    def authorize_from_kit(self, kit: Kit, model: str, *, hardware: str) -> Authorized:
        """Decide whether a bundle of an opened kit may run here: steps 7 to 10.

        Raises:
            TrustRefused: as ``authorize``; ``TRUST_NOT_LISTED`` also where the kit holds nothing for ``model``.
        """
        with self._mutex:
            wanted = kit.wanted(model)
            check_target_path(model, wanted)
            listed, role = kit.look_up(wanted.target)
            return self._allow(model, wanted, listed, role, hardware)

    def raise_floor(self, model: str, committed: int, previous: int) -> int:
        """Raise the release floor after a commit: step 16. Doing so twice changes nothing.

        The floor becomes the counter of the release committed *before* on this device, so that it and the new one
        stay permitted, never one reached by arithmetic: a halted release may lie in between.

        Args:
            model: ``team/model``.
            committed: release counter just committed.
            previous: release counter of the other release kept on this device; 0 = there was none.

        Returns:
            The floor now in force for this model.
        """
        with self._mutex:
            # After a roll back the committed one is the lower: both must stay permitted, so the lower of the two.
            floor = min(committed, previous) if committed != previous else 0
            if floor > self._floors.releases.get(model, 0):
                self._save(releases={**self._floors.releases, model: floor})
            return self._floors.release_floor(model)

    def _allow(
        self, model: str, wanted: DesiredModel, listed: TargetFile | None, role: str, hardware: str
    ) -> Authorized:
        if listed is None:
            raise TrustRefused(
                f"No trusted role lists {wanted.target}.",
                code="TRUST_NOT_LISTED",
                remedy="Publish the signed bundle first; refresh if it was published a moment ago.",
            )
        bundle = check_listing(model, wanted, listed, role)  # step 8
        floor = self._floors.release_floor(model)
        check_pins(bundle, pin=self._pin, hardware=hardware, floor=floor)  # steps 9, 10
        standing = self.standing(bundle.sha256, running=False)
        checks.check_not_revoked(bundle.target, standing, self.why_revoked(bundle.sha256))  # step 10
        return bundle

    def _save(self, **changes: Any) -> None:
        raised = msgspec.structs.replace(self._floors, **changes)
        if raised == self._floors:
            return
        try:
            self._floors = save_floors(self._folder, raised, self._write)
        except OSError as error:
            raise store_trouble(self._folder, error) from error

    def _require(self, now_ms: int) -> Repository:
        if self._repository is None:
            if not self._cache.exists:
                raise TryAgain(
                    "The trust metadata was not fetched yet.",
                    code="METADATA_NOT_REFRESHED",
                    remedy="Connect the device to its server once.",
                )
            self._repository = self._judge(self._cache.load_cached(utc(now_ms)), now_ms)
        checks.check_expiry(self._repository.top(), utc(self.clock_ms(now_ms)))
        return self._repository

    def _judge(self, repository: Repository, now_ms: int) -> Repository:
        """Hold what TUF accepted against the durable floors and the signed clock, then raise both."""
        root, timestamp, targets = repository.root, repository.timestamp, repository.targets
        checks.check_demo(root, allowed=self._allow_demo)
        for holder in (root, targets.delegations):
            check_distinct_keys(holder)
        # A root is never forgotten; the other floors bind as long as the keys they were learned under.
        top: checks.Judged = {
            role: (signed, "" if role == "root" else key_fingerprint(root, role))
            for role, signed in repository.top().items()
        }
        keys = top["timestamp"][1]
        before_ms = self._floors.clock_ms if self._floors.clock_keys == keys else 0
        roles = self._judge_roles(top, max(now_ms, self._built_ms, before_ms))
        checks.check_signed_time(root, timestamp, targets)
        self._save(
            roles=roles,
            clock_ms=max(before_ms, checks.signed_ms(root, timestamp)),
            clock_keys=keys,
            life_s=timestamp_life_s(root),
            **said_by_targets(targets),
        )
        self._judge_revocations(repository, now_ms)  # step 5
        return repository

    def _judge_revocations(self, repository: Repository, now_ms: int) -> None:
        """Load the revocation role, where there is one, and remember what it forbids."""
        holder, roles = None, self._floors.roles
        if REVOCATION in delegated_names(repository.targets):
            _, holders = self._cache.look_up(repository, REVOCATION_PATH, utc(now_ms))
            holder = checks.check_revocation_holder(holders)
            roles = self._judge_roles({REVOCATION: (holder.signed, holder.keys)}, self.clock_ms(now_ms))
        self._save(roles=roles, **forbidden_by(self._floors, holder))

    def _judge_roles(self, roles: checks.Judged, now_ms: int) -> dict[str, RoleFloor]:
        """Refuse a role below its version floor or past its expiry; return the floors as these roles raise them."""
        checks.check_versions(roles, self._floors)
        checks.check_expiry({role: signed for role, (signed, _) in roles.items()}, utc(now_ms))
        seen = {role: RoleFloor(signed.version, keys) for role, (signed, keys) in roles.items()}
        return {**self._floors.roles, **seen}
