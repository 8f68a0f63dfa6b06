"""The server's side of trust: publish what people signed, sign with the keys they named, heed what they forbade.

The metadata folder is the truth. ``settle`` brings everything that follows from it into line (online keys, director's
signatures, the table of revoked bundles, rollouts of them), whatever stopped in between: it runs after every
publication, at start and at every round of upkeep, and doing it again changes nothing.

Root, targets, team and revocation keys are never here; nothing on this side can put anything into a role.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from securesystemslib.signer import Key
from sqlmodel import Session, select
from tuf.api.metadata import Metadata, Targets

from bundles.digest import canonical_json, sha256_hex
from bundles.errors import AskPerson
from bundles.trust.director import sign_desired
from bundles.trust.publishing.repository import OnlineRepository, Published
from bundles.trust.publishing.status import RepositoryStatus, describe
from bundles.trust.revocation import REVOCATION, RUNNING_THRESHOLD, count_signatures, read_revoked, strength_of
from bundles.trust.roles import DIRECTOR, file_name, parse_targets, split_file
from bundles.wire.messages import Desired
from control_plane.db.engine import Database
from control_plane.db.tables import Decision
from control_plane.errors import Conflict
from control_plane.online_keys import ROTATED_TOGETHER, OnlineKeys, director_keyids
from control_plane.services import audit, desired, revocations, rollouts
from control_plane.services.revocations import SYSTEM, Forbidden


class ServedTrust:
    """The trust repository of a running server. Safe to use from several threads.

    Args:
        repository: the metadata folder's one writer.
        folder: the metadata folder.
        keys: the server's own keys; ``repository`` signs with the same.
        db: the database.
        now_ms: server clock.
        changed: called after desired documents or rollouts changed, to have devices told.
        place: the repository as commands name it: this server's address.
    """

    def __init__(
        self,
        repository: OnlineRepository,
        folder: Path,
        keys: OnlineKeys,
        db: Database,
        now_ms: Callable[[], int],
        changed: Callable[[], None] = lambda: None,
        place: str = "SERVER",
    ) -> None:
        self.repository, self.place = repository, place
        self._folder, self._keys, self._db, self._now_ms, self._changed = folder, keys, db, now_ms, changed
        self._settling = threading.Lock()

    @property
    def timestamp_version(self) -> int:
        """Version of the state being served."""
        return self.repository.timestamp_version

    def listed(self) -> dict[str, str]:
        """Return target path -> bundle digest of every bundle listed now."""
        return self.repository.listed()

    def publish(self, files: Mapping[str, bytes]) -> Published:
        """Publish metadata signed elsewhere and do what follows from it. All or nothing; twice is once.

        Not to be called inside a transaction: it makes its own.

        Raises:
            TrustRefused: as ``OnlineRepository.publish``.
            Conflict: ``TRUST_CONFLICT``: it was signed on metadata that is no longer current; ``TRUST_REPOSITORY``: a
                new root or targets role names an online or director key that this server does not hold.
            OSError: the disk is full; the state before is still served.
        """
        try:
            for name, data in files.items():
                role, version = split_file(name)
                if role == "targets" and version > self.repository.targets.version:
                    self._keys.director(parse_targets(name, data).signed)
            published = self.repository.publish(files)
        except AskPerson as error:
            raise Conflict(error.sentence, code=error.code, remedy=error.remedy, details=error.details) from error
        self.settle()
        return published

    def settle(self) -> None:
        """Bring keys, documents, revoked bundles and rollouts into line with the metadata.

        Raises:
            DatabaseBusy: try again; what is left is done then.
            OSError: the keys folder cannot be written.
        """
        with self._settling:
            state = self.repository.state
            for role in ROTATED_TOGETHER["online"]:
                self._exchange(role, state.root.roles[role].keyids)
            self._exchange(DIRECTOR, director_keyids(state.targets))
            self._heed(self.forbidden())

    def sign(self, document: Desired) -> bytes:
        """Return ``document`` signed by the key that targets names as director.

        The hint lets a device refresh its trust metadata before it looks for a bundle published a moment ago.
        """
        hinted = msgspec.structs.replace(document, trust_version=self.timestamp_version)
        return sign_desired(hinted, self._keys.director(self.repository.targets))

    def prepare(self, rotation: str) -> dict[str, Key]:
        """Return the public halves of the next keys for ``rotation`` (``online`` or ``director``), by role.

        Asked again before they are in use it returns the same ones.

        Raises:
            KeyError: there is no such rotation.
            OSError: the keys folder cannot be written.
        """
        return {role: self._keys.prepare(role) for role in ROTATED_TOGETHER[rotation]}

    def advance(self, role: str, to: int) -> None:
        """Sign ``role`` (``timestamp`` or ``snapshot``) under version ``to``; see ``OnlineRepository.advance``.

        Raises:
            Conflict: ``TRUST_ADVANCE``: the version is not above the present one, or above what can be signed.
        """
        try:
            if role == "snapshot":
                self.repository.advance(to_snapshot=to)
            else:
                self.repository.advance(to_timestamp=to)
        except AskPerson as error:
            raise Conflict(error.sentence, code=error.code, remedy=error.remedy, details=error.details) from error

    def forbidden(self) -> dict[str, Forbidden]:
        """Return every bundle that the metadata being served forbids."""
        state = self.repository.state
        by_targets = read_revoked(state.targets)
        strength = 0
        if REVOCATION in state.roles and state.targets.delegations is not None:
            keyids = (state.targets.delegations.roles or {})[REVOCATION].keyids
            path = self._folder / file_name(REVOCATION, state.roles[REVOCATION].version)
            listed = Metadata[Targets].from_file(str(path))
            strength = strength_of(count_signatures(state.targets, REVOCATION, listed), len(keyids))
        return {
            sha256: Forbidden(entry.reason, RUNNING_THRESHOLD if sha256 in by_targets else strength, entry.at_ms)
            for sha256, entry in self.repository.revoked().items()
        }

    def status(self) -> RepositoryStatus:
        """Describe the metadata being served."""
        return describe(self._folder, self._now_ms())

    def _exchange(self, role: str, keyids: list[str]) -> None:
        if not self._keys.is_named(role, keyids):
            return
        with self._db.write() as session:
            if role == DIRECTOR:
                # Before the old key goes: a crash after this line does it again, and never leaves a document that only
                # the old key signed.
                desired.sign_again(session)
            audit.record(session, "audit", SYSTEM, "trust.key", f"trust:{role}", {"keyids": keyids}, self._now_ms())
        self._keys.settle(role, keyids)
        self._changed()

    def _heed(self, forbidden: Mapping[str, Forbidden]) -> None:
        now_ms = self._now_ms()
        with self._db.read() as session:
            is_done = revocations.is_noted(session, forbidden) and not rollouts.rollouts_of_revoked(session)
        if is_done:
            return
        with self._db.write() as session:
            revocations.note(session, forbidden, now_ms)
            rollouts.stop_revoked(session, now_ms)
        self._changed()


def record_publication(
    session: Session, files: Mapping[str, bytes], published: Published, actor: str, now_ms: int
) -> None:
    """Put a publication into the audit log, once however often the same files were sent."""
    digests = {name: sha256_hex(data) for name, data in files.items()}
    subject = f"trust:{sha256_hex(canonical_json(digests))[:16]}"
    if session.exec(select(Decision.id).where(Decision.subject == subject).limit(1)).first() is not None:
        return
    body = {
        "files": digests,
        "new": published.names,
        "releases": published.releases,
        "timestamp_version": published.timestamp_version,
    }
    audit.record(session, "audit", actor, "trust.publish", subject, body, now_ms)


def record_server_act(session: Session, action: str, body: Mapping[str, object], actor: str, now_ms: int) -> None:
    """Put into the audit log what ``actor`` had the server do with its own keys."""
    audit.record(session, "audit", actor, action, "trust:server", dict(body), now_ms)
