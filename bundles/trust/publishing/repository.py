"""The online side: publish what people have signed, and keep saying what is current.

Holds the snapshot and timestamp keys only; root, targets and team keys never come near it, so it can put nothing into
a role. It works on a folder of consistent-snapshot metadata that can be served as it stands: versioned files are
written first and never change, ``timestamp.json`` is replaced last, so a crash at any moment leaves a whole state
(``journal`` sees to it where roots are exchanged).

Every new state is first checked as an event (``event``) and walked through by TUF's own client (``walk``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from bundles.errors import AskPerson, TrustRefused
from bundles.trust.durable import write_durably
from bundles.trust.publishing.event import apply_event, check_complete
from bundles.trust.publishing.history import read_history
from bundles.trust.publishing.journal import complete_journal, write_with_journal
from bundles.trust.publishing.keyring import KeyRing
from bundles.trust.publishing.online import sign_snapshot, sign_timestamp
from bundles.trust.publishing.state import State, delegated_names, state_expiries
from bundles.trust.publishing.walk import check_as_devices
from bundles.trust.revocation import REVOCATION, Revoked, read_revoked
from bundles.trust.roles import DAY_S, Lifetimes, epoch_ms, file_name, split_file, timestamp_life_s, utc

MAX_EVENT_FILES = 64
MAX_VERSION = 2**53 - 1
"""The highest version this side ever signs: whole numbers stay exact in every JSON reader."""


@dataclass(frozen=True)
class Published:
    """What a publication changed.

    Attributes:
        names: metadata files added; empty where all of them were there before.
        releases: target path -> bundle digest of the bundles that became listed.
        timestamp_version: of the state now served; devices are told it as ``trust_version``.
    """

    names: list[str]
    releases: dict[str, str]
    timestamp_version: int


class OnlineRepository:
    """The one writer of a metadata folder. Safe to call from several threads; one process per folder."""

    def __init__(
        self,
        folder: Path,
        snapshot_signer: Signer | Sequence[Signer],
        timestamp_signer: Signer | Sequence[Signer],
        clock: Callable[[], int],
        lifetimes: Lifetimes | None = None,
    ) -> None:
        """Open the repository in ``folder``; a publication that broke off while roots were exchanged is completed.

        Args:
            folder: holds the metadata a ceremony made.
            snapshot_signer: the online snapshot key; or several, of which the newest root names one.
            timestamp_signer: the online timestamp key; or several.
            clock: returns UTC epoch milliseconds.
            lifetimes: life of the snapshot; a timestamp's is in the root.

        Raises:
            AskPerson: ``TRUST_REPOSITORY``: there is no repository, or these are not its keys.
            OSError: the folder cannot be written.
        """
        self._folder, self._clock, self._lifetimes = folder, clock, lifetimes or Lifetimes()
        self._snapshot_keys = KeyRing("snapshot", snapshot_signer)
        self._timestamp_keys = KeyRing("timestamp", timestamp_signer)
        self._lock = threading.Lock()
        complete_journal(folder)
        self._state = self._read()
        self._history = read_history(folder, self._state)
        self._check_online_keys(self._state.root)

    @property
    def state(self) -> State:
        """The current state, to draft changes on; a copy."""
        return self._state.copy()

    @property
    def targets(self) -> Targets:
        """The current top-level targets role: what the director's key is checked against."""
        return self._state.targets

    @property
    def root_bytes(self) -> bytes:
        """The oldest root in the folder: what a new device may be given to trust from the start."""
        return (self._folder / f"{self._root_versions()[0]}.root.json").read_bytes()

    @property
    def timestamp_version(self) -> int:
        """Version of the state being served."""
        return self._state.timestamp.version

    @property
    def snapshot_version(self) -> int:
        """Version of the snapshot being served."""
        return self._state.snapshot.version

    @property
    def signing_keys(self) -> dict[str, str]:
        """The ids of the online keys that sign now, by role."""
        root = self._state.root
        return {
            "snapshot": self._snapshot_keys.signer(root).public_key.keyid,
            "timestamp": self._timestamp_keys.signer(root).public_key.keyid,
        }

    def expiries(self) -> dict[str, int]:
        """Return when each role expires, UTC epoch ms: for metrics, alerts and ``trust status``."""
        return state_expiries(self._state)

    def listed(self) -> dict[str, str]:
        """Return target path -> bundle digest of every bundle listed now."""
        state = self._state
        return {
            path: target.hashes.get("sha256", "")
            for role in delegated_names(state.targets)
            if role in state.roles
            for path, target in state.roles[role].targets.items()
        }

    def revoked(self) -> dict[str, Revoked]:
        """Return every digest that the revocation role or the targets role forbids now."""
        state = self._state
        delegated = REVOCATION in delegated_names(state.targets) and REVOCATION in state.roles
        by_role = read_revoked(state.roles[REVOCATION]) if delegated else {}
        return {**by_role, **read_revoked(state.targets)}

    def publish(self, files: Mapping[str, bytes]) -> Published:
        """Publish new versions of what people sign. All or nothing; twice is once.

        A root that names other online keys (which this server must hold) is followed at once.

        Args:
            files: file name (such as ``4.team-vision.json``) -> bytes.

        Raises:
            TrustRefused: a file is not signed as it must be (``TRUST_THRESHOLD``, ``TRUST_UNSIGNED_*``,
                ``TRUST_ROOT_SIG``), expired, lists what it may not (``TRUST_NOT_LISTED``, ``TRUST_ROLLBACK_TEAM``,
                ``TRUST_REVOKED``), or takes back what restricts (``TRUST_FLOOR``, ``TRUST_ROLLBACK_REVOCATION``).
            AskPerson: ``TRUST_CONFLICT``: it was signed on a state that is no longer current; ``TRUST_REPOSITORY``:
                the new root names online keys that this server does not hold; ``TRUST_ROOT_CHAIN``: after 256 roots.
            OSError: the disk is full; the state before is still served.
        """
        if len(files) > MAX_EVENT_FILES:
            raise TrustRefused(
                f"An event has at most {MAX_EVENT_FILES} files.",
                code="TRUST_LENGTH",
                remedy="Publish it in several parts.",
            )
        with self._lock:
            self._recover()
            new = {name: data for name, data in files.items() if not self._holds(name, data)}
            if not new:
                return Published([], {}, self._state.timestamp.version)
            applied = apply_event(self._state, new, utc(self._clock()), self._history)
            state = applied.state
            self._check_online_keys(state.root)
            written = self._sign_online(state, new, state.timestamp.version + 1, state.snapshot.version + 1)
            self._check_as_devices(written, list(applied.listed), applied.probes)
            self._write(written)
            self._state, self._history = state, applied.history
            return Published(sorted(new), applied.listed, state.timestamp.version)

    def resign(self, *, force: bool = False) -> bool:
        """Sign the timestamp again when it is a day old, and the snapshot past half its life.

        Args:
            force: sign now, due or not.

        Returns:
            Whether anything was signed.

        Raises:
            OSError: the disk is full; the state before is still served.
        """
        with self._lock:
            self._recover()
            now, state = self._clock(), self._state.copy()
            signed_ms = epoch_ms(state.timestamp.expires) - timestamp_life_s(state.root) * 1000
            half_left = epoch_ms(state.snapshot.expires) - now < self._lifetimes.snapshot_s * 500
            if not (force or half_left or now - signed_ms >= DAY_S * 1000):
                return False
            snapshot = state.snapshot.version + 1 if half_left else None
            self._write(self._sign_online(state, {}, state.timestamp.version + 1, snapshot))
            self._state = state
            return True

    def advance(self, *, to_timestamp: int | None = None, to_snapshot: int | None = None) -> int:
        """Sign the online roles under much higher versions: for devices that have seen higher ones than this server.

        They have after the server was restored from a backup, or after somebody held its online keys for a while.
        Where the keys were *stolen* this ends nothing: have root name new ones, and devices start counting anew.

        Args:
            to_timestamp: the version the timestamp gets; None = just the next.
            to_snapshot: the version the snapshot gets; None = it stays.

        Returns:
            The timestamp's new version.

        Raises:
            AskPerson: ``TRUST_ADVANCE``: not above the version now, or so high that nothing could follow it.
            OSError: the disk is full; the state before is still served.
        """
        with self._lock:
            self._recover()
            state = self._state.copy()
            for role, to, now in (
                ("timestamp", to_timestamp, state.timestamp.version),
                ("snapshot", to_snapshot, state.snapshot.version),
            ):
                if to is not None and not now < to <= MAX_VERSION:
                    raise AskPerson(
                        f"The {role} cannot advance from version {now} to {to}.",
                        code="TRUST_ADVANCE",
                        remedy=f"Choose a version above {now} and up to {MAX_VERSION}; where devices have seen higher "
                        "ones, rotate the online keys instead: `wavegate trust rotate online`.",
                    )
            written = self._sign_online(state, {}, to_timestamp or state.timestamp.version + 1, to_snapshot)
            self._check_as_devices(written, [], check_complete(state))
            self._write(written)
            self._state = state
            return state.timestamp.version

    def _sign_online(
        self, state: State, new: Mapping[str, bytes], timestamp_version: int, snapshot_version: int | None
    ) -> dict[str, bytes]:
        """Sign timestamp and (given a version) snapshot for ``state``; return all files to write."""
        now, written = self._clock(), dict(new)
        if snapshot_version is not None:
            expires_ms = now + self._lifetimes.snapshot_s * 1000
            written |= sign_snapshot(state, snapshot_version, self._snapshot_keys.signer(state.root), expires_ms)
        return written | sign_timestamp(state, timestamp_version, self._timestamp_keys.signer(state.root), now)

    def _check_as_devices(self, written: Mapping[str, bytes], paths: list[str], probes: list[str]) -> None:
        before = {path.name: path.read_bytes() for path in self._folder.glob("*.json")}
        check_as_devices(before, written, paths, probes, utc(self._clock()))

    def _check_online_keys(self, root: Root) -> None:
        for ring in (self._snapshot_keys, self._timestamp_keys):
            ring.signer(root)

    def _holds(self, name: str, data: bytes) -> bool:
        """Whether this very file is part of the state being served (one left over from a crash is not)."""
        role, version = split_file(name)
        if Path(name).name != name or role in ("", "snapshot", "timestamp") or not version:
            raise TrustRefused(
                f"{name!r} is not a file that people sign.",
                code="TRUST_MIX",
                remedy="Publish root, targets and team roles only; the server signs snapshot and timestamp itself.",
            )
        path = self._folder / name
        return version <= self._state.version(role) and path.exists() and path.read_bytes() == data

    def _write(self, files: Mapping[str, bytes]) -> None:
        if any(split_file(name)[0] == "root" for name in files):
            write_with_journal(self._folder, files)
            return
        for name in sorted(files, key=lambda name: name == "timestamp.json"):
            write_durably(self._folder / name, files[name])

    def _recover(self) -> None:
        """Complete a publication with roots that a full disk broke off in this very process."""
        if complete_journal(self._folder):
            self._state = self._read()
            self._history = read_history(self._folder, self._state)

    def _root_versions(self) -> list[int]:
        found = (split_file(path.name) for path in self._folder.glob("*.root.json"))
        return sorted(version for role, version in found if role == "root")

    def _read(self) -> State:
        try:
            root = Metadata[Root].from_file(str(self._folder / f"{self._root_versions()[-1]}.root.json")).signed
            timestamp = Metadata[Timestamp].from_file(str(self._folder / "timestamp.json")).signed
            version = timestamp.snapshot_meta.version
            snapshot = Metadata[Snapshot].from_file(str(self._folder / file_name("snapshot", version))).signed
            current = {
                name.removesuffix(".json"): Metadata[Targets]
                .from_file(str(self._folder / f"{meta.version}.{name}"))
                .signed
                for name, meta in snapshot.meta.items()
            }
        except (OSError, IndexError, RepositoryError) as error:
            raise AskPerson(
                f"There is no whole trust repository in {self._folder}: {error}.",
                code="TRUST_REPOSITORY",
                remedy="Hold the ceremony with `wavegate trust init`, or restore the folder from a backup.",
            ) from error
        return State(root, timestamp, snapshot, current.pop("targets"), current)
