"""The device's side of trust: refresh metadata, accept what the director signs, authorise a bundle, keep the floors.

TUF's own client does the metadata workflow (``cache``). Around it stands what TUF lacks on a device: floors outside
its cache, a signed clock, the director's assignment, the pins. The numbers in comments are the steps of the trust
design's list of device checks. Everything fails closed; nothing here touches the model that runs.

Leaves fetching to the ``MetadataFetch`` handed in, blobs to the agent's download, and revocation lists and offline
kits to come. One store per folder, one process at a time; calls may come from several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from tuf.api.metadata import Signed

from bundles.errors import TrustRefused, TryAgain
from bundles.manifest import Channel
from bundles.trust.authorize import Authorized, check_listing, check_pins, check_target_path
from bundles.trust.cache import MetadataCache, Repository, store_trouble
from bundles.trust.director import verify_desired
from bundles.trust.durable import FolderLock, Write, write_durably
from bundles.trust.fetch import MetadataFetch
from bundles.trust.floors import Floors, RoleFloor, load_floors, save_floors
from bundles.trust.refusals import expired, rolled_back
from bundles.trust.roles import DIRECTOR, epoch_ms, key_fingerprint, read_floors, timestamp_life_s, utc
from bundles.wire.messages import Desired, DesiredModel

BUILT_MS = 1_792_000_000_000
"""A moment before this release was made (October 2026): no honest clock is earlier. Raised with every release."""


@dataclass(frozen=True)
class TrustSummary:
    """How current the device's trust metadata is.

    Attributes:
        timestamp_version: compare with desired's hint ``trust_version`` to know when to refresh.
        root_version: of the root in use.
        age_s: seconds since the newest verified timestamp was signed.
        life_s: seconds a timestamp lives; warn at 1x, alarm at 3x.
    """

    timestamp_version: int
    root_version: int
    age_s: int
    life_s: int


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

        Raises:
            TryAgain: ``TRUST_LOCKED``: another process uses the folder; ``TRUST_STORE_IO``.
            TrustRefused: ``TRUST_CACHE_CORRUPT``: the durable floors are lost.
        """
        self._folder, self._device = folder, device
        self._fetch, self._pin, self._built_ms, self._write = fetch, pin, built_ms, write
        folder.mkdir(parents=True, exist_ok=True)
        self._folder_lock = FolderLock(folder)  # step 2
        self._cache = MetadataCache(folder, bootstrap_root, write)
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

    def refresh(self, now_ms: int) -> TrustSummary:
        """Fetch and verify what is new: steps 1 to 4.

        Args:
            now_ms: the system's clock, UTC epoch ms, right or wrong.

        Raises:
            TryAgain: ``METADATA_UNREACHABLE``, ``TRUST_STORE_IO``.
            TrustRefused: ``TRUST_ROOT_SIG``, ``TRUST_THRESHOLD``, ``TRUST_UNSIGNED_*``, ``TRUST_EXPIRED_*``,
                ``TRUST_ROLLBACK_*``, ``TRUST_MIX``, ``TRUST_LENGTH``, ``TRUST_SLOW`` or ``TRUST_FLOOR``.
        """
        with self._mutex:
            self._repository = None
            self._repository = self._judge(self._cache.load(self._fetch, utc(now_ms)), now_ms)
            return self._summarise(self._repository, now_ms)

    def summary(self, now_ms: int) -> TrustSummary | None:
        """Say how current the metadata is, from memory or the cache; None before the first good refresh."""
        with self._mutex:
            try:
                return self._summarise(self._require(now_ms), now_ms)
            except (TryAgain, TrustRefused):
                return None

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
            if desired.device != self._device:
                raise TrustRefused(
                    f"The assignment is for {desired.device!r}, not for this device.",
                    code="TRUST_WRONG_DEVICE",
                    remedy="Check who can write to this device's topic.",
                )
            if desired.expires <= self._clock(now_ms):
                raise TrustRefused(
                    "The assignment has expired.",
                    code="TRUST_EXPIRED_DIRECTOR",
                    remedy="The server signs it again by itself; check that it runs and that the clock is right.",
                    details={"expires": desired.expires},
                )
            keys = key_fingerprint(targets, DIRECTOR)
            # A stolen director key could use up all generations; rotating it (offline) makes them start anew.
            known = self._floors.gen if self._floors.gen_keys == keys else 0
            if desired.gen < known or (desired.gen == known and known and digest != self._floors.gen_sha256):
                raise TrustRefused(
                    f"The assignment has generation {desired.gen}; this device has already accepted {known}.",
                    code="TRUST_ROLLBACK_DIRECTOR",
                    remedy="Change an assignment only together with a higher generation.",
                    details={"gen": desired.gen, "accepted": known},
                )
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
                ``TRUST_FLOOR``, or what ``refresh`` raises, for the team's role or for metadata expired meanwhile.
            TryAgain: as ``refresh``; ``METADATA_NOT_REFRESHED`` where it was never called.
        """
        with self._mutex:
            check_target_path(model, wanted)
            repository = self._require(now_ms)
            listed, holders = self._cache.look_up(repository, wanted.target, utc(now_ms))  # step 7
            consulted = {holder.role: (holder.signed, holder.keys) for holder in holders}
            self._save(roles=self._judge_roles(consulted, utc(self._clock(now_ms))))
            if listed is None:
                raise TrustRefused(
                    f"No trusted role lists {wanted.target}.",
                    code="TRUST_NOT_LISTED",
                    remedy="Publish the signed bundle first; refresh if it was published a moment ago.",
                )
            role = holders[-1].role if holders else "targets"
            bundle = check_listing(model, wanted, listed, role)  # step 8
            floor = self._floors.release_floor(model)
            check_pins(bundle, pin=self._pin, hardware=hardware, floor=floor)  # steps 9, 10
            return bundle

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

    def _clock(self, now_ms: int) -> int:
        return max(now_ms, self._built_ms, self._floors.clock_ms)  # step 1

    def _save(self, **changes: Any) -> None:
        raised = msgspec.structs.replace(self._floors, **changes)
        if raised == self._floors:
            return
        try:
            self._floors = save_floors(self._folder, raised, self._write)
        except OSError as error:
            raise store_trouble(self._folder, error) from error

    def _summarise(self, repository: Repository, now_ms: int) -> TrustSummary:
        age_ms = max(0, self._clock(now_ms) - _signed_ms(repository))
        life_s = timestamp_life_s(repository.root)
        return TrustSummary(repository.timestamp.version, repository.root.version, age_ms // 1000, life_s)

    def _require(self, now_ms: int) -> Repository:
        if self._repository is None:
            if not self._cache.exists:
                raise TryAgain(
                    "The trust metadata was not fetched yet.",
                    code="METADATA_NOT_REFRESHED",
                    remedy="Connect the device to its server once.",
                )
            self._repository = self._judge(self._load_cached(now_ms), now_ms)
        _check_expiry(self._repository.top(), utc(self._clock(now_ms)))
        return self._repository

    def _load_cached(self, now_ms: int) -> Repository:
        try:
            return self._cache.load_cached(utc(now_ms))
        except TrustRefused as error:
            if error.code != "TRUST_MIX":
                raise
            # A refresh that broke off between the timestamp and what it names left the newer timestamp behind: no
            # attack, and no state to judge anything by either. Only another refresh can tell.
            raise TryAgain(
                "The last refresh of the trust metadata broke off.",
                code="METADATA_NOT_REFRESHED",
                remedy="The agent refreshes again by itself once it is connected.",
            ) from error

    def _judge(self, repository: Repository, now_ms: int) -> Repository:
        """Hold what TUF accepted against the durable floors and the signed clock, then raise both."""
        # A root is never forgotten; the other floors bind as long as the keys they were learned under.
        roles = {
            role: (signed, "" if role == "root" else key_fingerprint(repository.root, role))
            for role, signed in repository.top().items()
        }
        keys = roles["timestamp"][1]
        before_ms = self._floors.clock_ms if self._floors.clock_keys == keys else 0
        self._save(
            roles=self._judge_roles(roles, utc(max(now_ms, self._built_ms, before_ms))),
            signed=read_floors(repository.targets),
            clock_ms=max(before_ms, _signed_ms(repository)),
            clock_keys=keys,
        )
        return repository

    def _judge_roles(self, roles: Mapping[str, tuple[Signed, str]], now: datetime) -> dict[str, RoleFloor]:
        """Refuse a role below its version floor or past its expiry; return the floors as these roles raise them."""
        for role, (signed, keys) in roles.items():
            if signed.version < (floor := self._floors.version_floor(role, keys)):
                raise rolled_back(role, floor, signed.version)
        _check_expiry({role: signed for role, (signed, _) in roles.items()}, now)
        seen = {role: RoleFloor(signed.version, keys) for role, (signed, keys) in roles.items()}
        return {**self._floors.roles, **seen}


def _signed_ms(repository: Repository) -> int:
    """Return when the timestamp was signed: its expiry minus its fixed life, never a raw clock."""
    return epoch_ms(repository.timestamp.expires) - timestamp_life_s(repository.root) * 1000


def _check_expiry(roles: Mapping[str, Signed], now: datetime) -> None:
    for role, signed in roles.items():
        if signed.is_expired(now):
            raise expired(role)
