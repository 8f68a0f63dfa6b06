"""TUF's client over a cache that survives power cuts.

The client works in a scratch folder rebuilt from the durable cache before every load; whatever it stored is copied
back, flushed, after every load *and* look-up, failed or not (what a failed one learned still guards against a roll
back). Its exceptions leave here as ours. Floors and clocks are judged by ``client``: the cache may be lost, they may
not.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import Updater

from bundles.errors import TrustRefused, TryAgain
from bundles.trust.durable import Write, read_if_there, write_durably, write_quickly
from bundles.trust.fetch import BASE, MetadataFetch, TufFetcher, folder_fetch
from bundles.trust.refusals import explain
from bundles.trust.revocation import count_signatures
from bundles.trust.roles import key_fingerprint, split_file

_OLD_ROOTS = "root_history"
"""Where TUF's client keeps every root by version."""


@dataclass(frozen=True)
class Repository:
    """One verified state of a repository, with the TUF client that holds it (a client refreshes only once).

    ``is_cached``: it was loaded from the cache alone, and nothing behind it can be asked.
    """

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    updater: Updater
    fetcher: TufFetcher
    is_cached: bool = False

    def top(self) -> dict[str, Signed]:
        """Return the four top-level roles by name."""
        return {"root": self.root, "timestamp": self.timestamp, "snapshot": self.snapshot, "targets": self.targets}


@dataclass(frozen=True)
class Holder:
    """A delegated role that was verified.

    Attributes:
        role: its name.
        signed: what it says.
        keys: digest of the keys it was verified with.
        signatures: how many different keys have signed it.
        of: how many keys it has.
    """

    role: str
    signed: Targets
    keys: str
    signatures: int
    of: int


def hold(delegator: Targets, role: str, metadata: Metadata[Targets]) -> Holder:
    """Return verified ``metadata`` of a role of ``delegator``, with what is worth knowing of its signatures."""
    return Holder(
        role,
        metadata.signed,
        key_fingerprint(delegator, role),
        count_signatures(delegator, role, metadata),
        len(delegator.get_delegated_role(role).keyids),
    )


class MetadataCache:
    """A folder of verified metadata. One owner at a time (the caller's lock)."""

    def __init__(
        self, folder: Path, bootstrap_root: bytes, write: Write = write_durably, metadata: Path | None = None
    ) -> None:
        """Use ``folder``; trust starts at ``bootstrap_root``.

        Args:
            folder: the client works in ``scratch`` below it.
            bootstrap_root: root metadata.
            write: how files are replaced.
            metadata: where verified metadata is kept, each role under its plain name (``root.json``, ...), old roots
                in ``root_history``; default ``metadata`` below ``folder``.
        """
        self._folder, self._bootstrap, self._write = folder, bootstrap_root, write
        self._kept, self._scratch = metadata or folder / "metadata", folder / "scratch"

    @property
    def exists(self) -> bool:
        """Whether anything was ever stored."""
        return self._kept.exists()

    def load(self, fetch: MetadataFetch, now: datetime) -> Repository:
        """Run the client workflow: root chain, timestamp, snapshot, targets.

        Args:
            fetch: the door to the repository.
            now: only to tell which role an expiry is about; TUF's client reads the system's clock.

        Raises:
            TryAgain: network or disk.
            TrustRefused: as ``refusals`` says.
        """
        fetcher = TufFetcher(fetch)
        with self._guard(fetcher, now):
            self._rebuild_scratch()
            updater = Updater(str(self._scratch), BASE, fetcher=fetcher, bootstrap=self._bootstrap)
            updater.refresh()
        return Repository(
            Metadata[Root].from_file(str(self._scratch / "root.json")).signed,
            Metadata[Timestamp].from_file(str(self._scratch / "timestamp.json")).signed,
            Metadata[Snapshot].from_file(str(self._scratch / "snapshot.json")).signed,
            Metadata[Targets].from_file(str(self._scratch / "targets.json")).signed,
            updater,
            fetcher,
        )

    def load_cached(self, now: datetime) -> Repository:
        """Run the whole workflow over the cache, as if a repository served it.

        Raises:
            TryAgain: ``METADATA_NOT_REFRESHED`` where the last refresh broke off and left parts of two states.
            TrustRefused: as ``load``; the cache may have expired.
        """
        served = folder_fetch(self._kept)

        def fetch(name: str, max_length: int) -> Iterable[bytes]:
            role, _ = split_file(name)
            return served("no-newer-root" if role == "root" else f"{role}.json", max_length)

        with _broken_off():
            return replace(self.load(fetch, now), is_cached=True)

    def look_up(self, repository: Repository, path: str, now: datetime) -> tuple[TargetFile | None, list[Holder]]:
        """Find ``path`` among the delegations.

        Returns:
            The target, or None; and the delegated roles consulted, in order: the last one lists the target
            (or the top-level targets role does, where there is none).

        Raises:
            TryAgain: as ``load``; of a cached repository, as ``load_cached``.
            TrustRefused: as ``load``.
        """
        with _broken_off() if repository.is_cached else nullcontext(), self._guard(repository.fetcher, now):
            target = repository.updater.get_targetinfo(path)
        return target, list(self._walk(repository.targets, path))

    def _walk(self, targets: Targets, path: str) -> Iterator[Holder]:
        # The same pre-order walk as TUF's client made, over the files it has just verified.
        visit: list[tuple[Targets, str]] = []
        seen: set[str] = set()
        current = targets
        while path not in current.targets:
            children: list[tuple[Targets, str]] = []
            for name, terminating in current.delegations.get_roles_for_target(path) if current.delegations else ():
                children.append((current, name))
                if terminating:
                    visit.clear()
                    break
            visit.extend(reversed(children))
            while visit and visit[-1][1] in seen:
                visit.pop()
            if not visit:
                return
            parent, role = visit.pop()
            seen.add(role)
            file = self._scratch / f"{quote(role, '')}.json"
            if not file.exists():
                return  # TUF's client gave up before it: more delegations than it follows
            metadata = Metadata[Targets].from_file(str(file))
            current = metadata.signed
            yield hold(parent, role, metadata)

    @contextmanager
    def _guard(self, fetcher: TufFetcher, now: datetime) -> Iterator[None]:
        try:
            try:
                yield
            finally:
                fetcher.close()
                self._keep_scratch()
        except (RepositoryError, DownloadError) as error:
            data = fetcher.last_data if fetcher.last_name else self._bootstrap
            raise explain(error, fetcher.last_name or "root.json", data, self._accepted(), now) from error
        except OSError as error:
            raise store_trouble(self._folder, error) from error

    def _rebuild_scratch(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        for pattern in ("*.json", f"{_OLD_ROOTS}/*.json"):
            for kept in self._kept.glob(pattern):
                if kept.name != "root.json":  # TUF's client makes its own of the roots it has verified
                    copy = self._scratch / kept.relative_to(self._kept)
                    copy.parent.mkdir(exist_ok=True)
                    copy.write_bytes(kept.read_bytes())

    def _keep_scratch(self) -> None:
        for source in sorted(self._scratch.rglob("*.json")):
            kept, data = self._kept / source.relative_to(self._scratch), source.read_bytes()
            if read_if_there(kept) != data:
                kept.parent.mkdir(parents=True, exist_ok=True)
                self._write(kept, data)

    def _accepted(self) -> dict[str, Signed]:
        accepted: dict[str, Signed] = {}
        for role in ("root", "timestamp", "snapshot", "targets"):
            # A damaged file in the cache explains nothing, and must not hide the cause.
            with suppress(Exception):
                accepted[role] = Metadata[Root].from_file(str(self._scratch / f"{role}.json")).signed
        return accepted


@contextmanager
def _broken_off() -> Iterator[None]:
    """Say that only a refresh can tell, where the cache holds parts of two states or lacks a part.

    A refresh that broke off (power, the network) between a role and what it names leaves that behind: no attack, and
    no state to judge anything by either.
    """
    try:
        yield
    except (TrustRefused, TryAgain) as error:
        if error.code not in ("TRUST_MIX", "METADATA_UNREACHABLE"):
            raise
        raise TryAgain(
            "The last refresh of the trust metadata broke off.",
            code="METADATA_NOT_REFRESHED",
            remedy="The agent refreshes again by itself once it is connected.",
        ) from error


@contextmanager
def passing_cache(bootstrap_root: bytes) -> Iterator[MetadataCache]:
    """Lend a cache that is gone afterwards: for one look at a repository, as a new device sees it."""
    with tempfile.TemporaryDirectory() as folder:
        yield MetadataCache(Path(folder), bootstrap_root, write_quickly)


def store_trouble(folder: Path, error: OSError) -> TryAgain:
    """Return what to raise when the trust folder cannot be read or written: ``DISK_FULL`` or ``TRUST_STORE_IO``."""
    return TryAgain(
        f"The trust folder {folder} cannot be used: {error.strerror or error}.",
        code="DISK_FULL" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "TRUST_STORE_IO",
        remedy="Free some space or mend the permissions; it is tried again.",
    )
