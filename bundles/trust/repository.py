"""The online side: publish what people have signed, and keep saying what is current.

Holds the snapshot and timestamp keys only; root, targets and team keys never come near it, so it can put nothing into
a role. It works on a folder of consistent-snapshot metadata that can be served as it stands: versioned files are
written first and never change, ``timestamp.json`` is replaced last, so a crash at any moment leaves a whole state.

Every new state is first walked through by TUF's own client, as a new device and as one that has the state before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp

from bundles.errors import AskPerson, TrustRefused, TryAgain
from bundles.trust.cache import passing_cache
from bundles.trust.durable import write_durably
from bundles.trust.event import State, apply_file, check_complete, not_listed, publishing_order
from bundles.trust.fetch import folder_fetch, table_fetch
from bundles.trust.roles import DAY_S, Lifetimes, epoch_ms, file_name, split_file, timestamp_life_s, utc

MAX_EVENT_FILES = 64


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
        snapshot_signer: Signer,
        timestamp_signer: Signer,
        clock: Callable[[], int],
        lifetimes: Lifetimes | None = None,
    ) -> None:
        """Open the repository in ``folder``.

        Args:
            folder: holds the metadata a ceremony made.
            snapshot_signer: the online snapshot key.
            timestamp_signer: the online timestamp key.
            clock: returns UTC epoch milliseconds.
            lifetimes: life of the snapshot; a timestamp's is in the root.

        Raises:
            AskPerson: ``TRUST_REPOSITORY``: there is no repository, or these are not its keys.
        """
        self._folder, self._clock, self._lifetimes = folder, clock, lifetimes or Lifetimes()
        self._snapshot_signer, self._timestamp_signer = snapshot_signer, timestamp_signer
        self._lock = threading.Lock()
        self._state = self._read()
        self._check_online_keys(self._state.root)

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

    def expiries(self) -> dict[str, int]:
        """Return when each role expires, UTC epoch ms: for metrics, alerts and ``trust status``."""
        state = self._state
        top: dict[str, Signed] = {
            "root": state.root,
            "targets": state.targets,
            "snapshot": state.snapshot,
            "timestamp": state.timestamp,
            **state.roles,
        }
        return {role: epoch_ms(signed.expires) for role, signed in top.items()}

    def listed(self) -> dict[str, str]:
        """Return target path -> bundle digest of every bundle listed now."""
        return {
            path: target.hashes.get("sha256", "")
            for role in self._state.roles.values()
            for path, target in role.targets.items()
        }

    def publish(self, files: Mapping[str, bytes]) -> Published:
        """Publish new versions of root, targets or team roles, signed elsewhere. All or nothing; twice is once.

        Args:
            files: file name (such as ``4.team-vision.json``) -> bytes.

        Raises:
            TrustRefused: a file is not signed as it must be (``TRUST_THRESHOLD``, ``TRUST_UNSIGNED_*``,
                ``TRUST_ROOT_SIG``), expired, or lists what it may not (``TRUST_NOT_LISTED``, ``TRUST_ROLLBACK_TEAM``).
            AskPerson: ``TRUST_CONFLICT``: it was signed on a state that is no longer current.
            OSError: the disk is full; the state before is still served.
        """
        if len(files) > MAX_EVENT_FILES:
            raise TrustRefused(
                f"An event has at most {MAX_EVENT_FILES} files.",
                code="TRUST_LENGTH",
                remedy="Publish it in several parts.",
            )
        with self._lock:
            before = self._state
            new = {name: data for name, data in files.items() if not self._holds(name, data)}
            state = State(before.root, before.timestamp, before.snapshot, before.targets, dict(before.roles))
            listed: dict[str, str] = {}
            for name in sorted(new, key=publishing_order):
                listed |= apply_file(state, name, new[name], utc(self._clock()), self._check_online_keys)
            if not new:
                return Published([], {}, before.timestamp.version)
            probes = check_complete(state)
            written = self._new_state(state, new, renew_snapshot=True)
            self._check_as_devices(written, list(listed), probes)
            self._write(written)
            self._state = state
            return Published(sorted(new), listed, state.timestamp.version)

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
            now, state = self._clock(), self._state
            signed_ms = epoch_ms(state.timestamp.expires) - timestamp_life_s(state.root) * 1000
            half_left = epoch_ms(state.snapshot.expires) - now < self._lifetimes.snapshot_s * 500
            if not (force or half_left or now - signed_ms >= DAY_S * 1000):
                return False
            fresh = State(state.root, state.timestamp, state.snapshot, state.targets, state.roles)
            self._write(self._new_state(fresh, {}, renew_snapshot=half_left))
            self._state = fresh
            return True

    def _new_state(self, state: State, new: Mapping[str, bytes], *, renew_snapshot: bool) -> dict[str, bytes]:
        """Sign snapshot and timestamp for ``state``; return the files to write, ``timestamp.json`` last."""
        now, written = self._clock(), dict(new)
        if renew_snapshot:
            meta = dict(state.snapshot.meta)  # an entry is never removed: clients refuse a snapshot that lacks one
            meta["targets.json"] = MetaFile(state.targets.version)
            meta |= {f"{role}.json": MetaFile(signed.version) for role, signed in state.roles.items()}
            state.snapshot = Snapshot(
                state.snapshot.version + 1, expires=utc(now + self._lifetimes.snapshot_s * 1000), meta=meta
            )
            snapshot = Metadata(state.snapshot)
            snapshot.sign(self._snapshot_signer)
            written[file_name("snapshot", state.snapshot.version)] = snapshot.to_bytes()
        state.timestamp = Timestamp(
            state.timestamp.version + 1,
            expires=utc(now + timestamp_life_s(state.root) * 1000),
            snapshot_meta=MetaFile(state.snapshot.version),
        )
        timestamp = Metadata(state.timestamp)
        timestamp.sign(self._timestamp_signer)
        written[file_name("timestamp", 0)] = timestamp.to_bytes()
        return written

    def _check_as_devices(self, written: Mapping[str, bytes], paths: list[str], probes: list[str]) -> None:
        """Walk the new state as TUF's client would on a new device, and on one that holds the state before."""
        now = utc(self._clock())
        served = {path.name: path.read_bytes() for path in self._folder.glob("*.json")} | dict(written)
        for has_state in (False, True):
            with passing_cache(self.root_bytes) as cache:
                if has_state:
                    # After a long rest the state before has expired; devices then have nothing newer than it either.
                    with suppress(TrustRefused, TryAgain):
                        cache.load(folder_fetch(self._folder), now)
                repository = cache.load(table_fetch(served), now)
                for path in (*paths, *probes):
                    if cache.look_up(repository, path, now)[0] is None and path in paths:
                        raise not_listed(path)

    def _check_online_keys(self, root: Root) -> None:
        for role, signer in (("snapshot", self._snapshot_signer), ("timestamp", self._timestamp_signer)):
            if signer.public_key.keyid not in root.roles[role].keyids:
                raise AskPerson(
                    f"This server's {role} key is not the one that root names.",
                    code="TRUST_REPOSITORY",
                    remedy=f"Put the {role} key of this repository into the server's keys folder.",
                )

    def _holds(self, name: str, data: bytes) -> bool:
        """Whether this very file is part of the state being served (one left over from a crash is not)."""
        role, version = split_file(name)
        if Path(name).name != name or role in ("", "snapshot", "timestamp") or not version:
            raise TrustRefused(
                f"{name!r} is not a file that people sign.",
                code="TRUST_MIX",
                remedy="Publish root, targets and team roles only; the server signs snapshot and timestamp itself.",
            )
        top: dict[str, Signed] = {"root": self._state.root, "targets": self._state.targets}
        current = (top | self._state.roles).get(role)
        path = self._folder / name
        return current is not None and version <= current.version and path.exists() and path.read_bytes() == data

    def _write(self, files: Mapping[str, bytes]) -> None:
        for name in sorted(files, key=lambda name: name == "timestamp.json"):
            write_durably(self._folder / name, files[name])

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
