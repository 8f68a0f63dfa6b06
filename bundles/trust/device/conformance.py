"""The command that lets the public TUF conformance suite drive the very trust store that devices use.

::

    wavegate-tuf-client --metadata-dir D init ROOT
    wavegate-tuf-client --metadata-dir D --metadata-url U refresh
    wavegate-tuf-client --metadata-dir D --metadata-url U --target-dir T --target-base-url B
                        --target-name P [--target-name P2 ...] download

Plain TUF: between calls it keeps what TUF's workflow keeps (``D/root.json``, ``D/timestamp.json``, ...), so every
call starts with empty floors of our own, and by no clock but the system's. Exit status 0, or 1 with the refusal on
standard error. For tests only: no agent calls it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile

from bundles.errors import TrustRefused, TryAgain, WavegateError
from bundles.trust.device.client import TrustStore
from bundles.trust.device.floors import Floors, save_floors
from bundles.trust.durable import read_if_there, write_durably
from bundles.trust.fetch import NotServed

TIMEOUT_S = 20.0
_CHUNK = 65_536
_OPEN = build_opener(ProxyHandler({}))


class HttpFetch:
    """A ``MetadataFetch`` over plain HTTP, and the door to targets beside it.

    Args:
        base: the address that names are appended to.
    """

    def __init__(self, base: str) -> None:
        self._base = base if base.endswith("/") else f"{base}/"

    def __call__(self, name: str, max_length: int) -> Iterable[bytes]:
        """Fetch ``name`` as ``MetadataFetch`` says; one byte more than ``max_length`` is read, so that it shows."""
        try:
            answer = _OPEN.open(Request(self._base + name, headers={"Accept-Encoding": "identity"}), timeout=TIMEOUT_S)
        except OSError as error:
            status = getattr(error, "code", None)
            if isinstance(status, int):
                raise NotServed(name, status) from error
            raise TryAgain(f"{name} cannot be fetched: {error}.") from error
        return _pieces(answer, max_length + 1)


def initialise(metadata: Path, root: Path) -> None:
    """Trust ``root`` from now on. Makes no request and checks nothing.

    Raises:
        OSError: a file cannot be read or written.
    """
    metadata.mkdir(parents=True, exist_ok=True)
    write_durably(metadata / "root.json", root.read_bytes())


@contextlib.contextmanager
def open_store(metadata: Path, url: str) -> Iterator[TrustStore]:
    """Open a trust store over the metadata in ``metadata``, with floors that end with this call.

    Raises:
        OSError: there is no ``root.json``, or a file cannot be written.
        WavegateError: as ``TrustStore``.
    """
    root = (metadata / "root.json").read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        save_floors(Path(folder), Floors())  # a cache without floors would rightly be taken for their loss
        with TrustStore(
            Path(folder), root, device="", fetch=HttpFetch(url), built_ms=0, allow_demo=True, metadata=metadata
        ) as store:
            yield store


def download(store: TrustStore, names: Sequence[str], folder: Path, base: str) -> None:
    """Refresh, then bring each target into ``folder`` in order, unless it is there already.

    Raises:
        WavegateError: one is not listed, cannot be fetched, or is not what was listed; later ones are not asked for.
        OSError: a file cannot be written.
    """
    store.refresh(now_ms())
    fetch = HttpFetch(base)
    for name in names:
        target, _ = store.look_up(name, now_ms())
        if target is None:
            raise TrustRefused(f"No trusted role lists {name!r}.", code="TRUST_NOT_LISTED", remedy="Check the name.")
        place = folder / quote(name, safe="")
        if not is_match(target, read_if_there(place)):
            data = b"".join(fetch(served_path(target, store.serves_by_hash), target.length))
            if not is_match(target, data):
                raise TrustRefused(
                    f"What is served as {name!r} is not what was signed.",
                    code="TRUST_DIGEST",
                    remedy="The repository is damaged or hostile.",
                )
            write_durably(place, data)


def served_path(target: TargetFile, by_hash: bool) -> str:
    """Return the path a repository serves ``target`` under; with consistent snapshots its name begins with a hash."""
    folder, slash, name = target.path.rpartition("/")
    return f"{folder}{slash}{next(iter(target.hashes.values()))}.{name}" if by_hash else target.path


def is_match(target: TargetFile, data: bytes | None) -> bool:
    """Whether ``data`` is the target that was signed."""
    with contextlib.suppress(LengthOrHashMismatchError):
        if data is not None:
            target.verify_length_and_hashes(data)
            return True
    return False


def now_ms() -> int:
    """Return the system's clock, UTC epoch ms."""
    return int(time.time() * 1000)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="wavegate-tuf-client", description="A TUF client for the conformance suite.")
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("--target-base-url")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    given = parser.parse_args(arguments)
    wanted = {"init": (), "refresh": ("metadata_url",)}.get(
        given.command, ("metadata_url", "target_name", "target_dir", "target_base_url")
    )
    for name in wanted:
        if not getattr(given, name):
            parser.error(f"{given.command} needs --{name.replace('_', '-')}")
    try:
        if given.command == "init":
            initialise(given.metadata_dir, given.root)
            return 0
        with open_store(given.metadata_dir, given.metadata_url) as store:
            if given.command == "refresh":
                store.refresh(now_ms())
            else:
                download(store, given.target_name, given.target_dir, given.target_base_url)
    except (WavegateError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _pieces(answer: BinaryIO, limit: int) -> Iterator[bytes]:
    with answer:
        while limit > 0 and (piece := answer.read(min(_CHUNK, limit))):
            limit -= len(piece)
            yield piece
