"""Where a command reads trust metadata from: a folder, or a server's ``/metadata``. All of it is verified later."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bundles.errors import AskPerson, Refused, TryAgain
from bundles.trust.fetch import MetadataFetch, NotServed, folder_fetch
from control_plane.errors import Conflict

TIMEOUT_S = 30.0
_CONFLICTS = frozenset({"TRUST_CONFLICT", "RELEASE_EXISTS", "RELEASE_COUNTER", "KEY_EXISTS"})


def open_metadata(place: str, root: Path | None) -> tuple[MetadataFetch, bytes]:
    """Return how to fetch the metadata at ``place``, and the root to trust.

    Args:
        place: a folder (of metadata, of a server, or of a ceremony), or the address of a server.
        root: the root file to trust; needed with an address, which could serve any root.

    Raises:
        AskPerson: ``TRUST_ROOT_NEEDED`` or ``TRUST_REPOSITORY``.
    """
    if place.startswith(("http://", "https://")):
        if root is None:
            raise AskPerson(
                "A server's metadata is only as good as the root it is checked with.",
                code="TRUST_ROOT_NEEDED",
                remedy="Give the root.json of your key ceremony with --root.",
            )
        return _http_fetch(place), read_root(root)
    home = metadata_home(Path(place))
    return folder_fetch(home), read_root(root or home / "1.root.json")


def metadata_home(folder: Path) -> Path:
    """Return the folder of metadata that ``folder`` (of metadata, of a server, or of a ceremony) means.

    Raises:
        AskPerson: ``TRUST_REPOSITORY``: there is none.
    """
    for home in (folder, folder / "metadata", folder / "server" / "metadata"):
        if (home / "timestamp.json").exists():
            return home
    raise AskPerson(
        f"There is no trust metadata in {folder}.",
        code="TRUST_REPOSITORY",
        remedy="Give a server's data folder or address, or the folder that `wavegate trust init` made.",
    )


@contextmanager
def conflicts() -> Iterator[None]:
    """Let refusals that mean "somebody or something was there first" leave with the exit code for conflicts."""
    try:
        yield
    except (AskPerson, Refused) as error:
        if error.code in _CONFLICTS:
            raise Conflict(error.sentence, code=error.code, remedy=error.remedy, details=error.details) from error
        raise


@contextmanager
def root_file(root: bytes) -> Iterator[Path]:
    """Lend ``root`` as a file, for what takes the option ``--root``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "root.json"
        path.write_bytes(root)
        yield path


def read_root(path: Path) -> bytes:
    """Return the root metadata in ``path``.

    Raises:
        AskPerson: ``TRUST_ROOT_NEEDED``.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise AskPerson(
            f"The root file {path} cannot be read: {error.strerror}.",
            code="TRUST_ROOT_NEEDED",
            remedy="Give the root.json of your key ceremony with --root.",
        ) from error


def _http_fetch(url: str) -> MetadataFetch:
    import httpx

    base = url.rstrip("/").removesuffix("/metadata") + "/metadata/"
    certificates = httpx.create_ssl_context()  # reading the system's takes longer than a request

    def fetch(name: str, max_length: int) -> Iterable[bytes]:
        received: list[bytes] = []
        try:
            # Nobody tells when the last file was read, so no connection outlives its file.
            with httpx.stream("GET", base + name, timeout=TIMEOUT_S, verify=certificates) as answer:
                if answer.status_code != 200:
                    raise NotServed(name, answer.status_code)
                for piece in answer.iter_bytes():
                    received.append(piece)
                    if sum(map(len, received)) > max_length:
                        break
        except httpx.HTTPError as error:
            raise TryAgain(f"{base} cannot be reached: {error}.", code="METADATA_UNREACHABLE") from error
        return received

    return fetch
