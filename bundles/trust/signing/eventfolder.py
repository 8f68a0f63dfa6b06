"""An event: a change to the trust metadata on its way between the people who sign it, as a folder or a zip of it.

::

    event.json        what it is: {"v": 1, "kind", "note", "created_ms", "base": {role: version}}
    base/             the repository's metadata it was made on, as served (public; every signer verifies it anew)
    3.targets.json    the new metadata, unsigned or signed by some

Two copies that travelled apart are merged: signatures add up, and nothing else may differ. Publishing reads the new
files only. A folder of bare metadata files, as 0.1.0 wrote them, is read as an event without a base.

Nothing here is believed: shape and size are checked, what the files say is for ``signing`` and ``changes``.
"""

from __future__ import annotations

import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

from bundles.errors import AskPerson, TrustRefused
from bundles.trust.durable import write_durably
from bundles.trust.roles import split_file

EVENT = "event.json"
BASE = "base/"
MAX_FILES = 64
"""New files in one event: what a server publishes at once."""
MAX_BASE_FILES = 2048
MAX_BYTES = 64 * 1024**2
"""Of all files together, unpacked."""
_NEW = re.compile(r"[1-9][0-9]{0,8}\.[a-z0-9][a-z0-9._-]{0,80}\.json\Z")
_BASE = re.compile(r"base/(timestamp|[1-9][0-9]{0,8}\.[a-z0-9][a-z0-9._-]{0,80})\.json\Z")
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OSError,
)
"""What reading a hostile zip raises."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


class EventInfo(msgspec.Struct, frozen=True):
    """What an event says of itself. For people: nothing is decided by it.

    Attributes:
        kind: what made it, such as ``delegate add``.
        note: one line from whoever made it.
        created_ms: UTC epoch ms.
        base: versions it was made on, by role.
        v: of this form.
    """

    kind: str
    note: str = ""
    created_ms: int = 0
    base: dict[str, int] = {}
    v: int = 1


@dataclass(frozen=True)
class Event:
    """An event in memory.

    Attributes:
        info: what it says of itself.
        files: the new metadata: file name -> bytes.
        base: the metadata it was made on, by file name; empty in one of 0.1.0's.
    """

    info: EventInfo
    files: Mapping[str, bytes]
    base: Mapping[str, bytes] = field(default_factory=dict)

    def with_files(self, files: Mapping[str, bytes]) -> Event:
        """Return this event with other new files: the same, signed by one more."""
        return replace(self, files=dict(files))


def new_event(kind: str, note: str, created_ms: int, base: Mapping[str, bytes], files: Mapping[str, bytes]) -> Event:
    """Return the event of kind ``kind`` that changes ``base`` by ``files``."""
    versions: dict[str, int] = {}
    for role, version in map(split_file, base):
        versions[role] = max(version, versions.get(role, 0))
    info = EventInfo(kind, note, created_ms, {role: version for role, version in sorted(versions.items()) if version})
    return Event(info, dict(files), dict(base))


def read_event(place: Path) -> Event:
    """Read the event in the folder or zip ``place``.

    Raises:
        AskPerson: ``TRUST_EVENT``: there is none.
        TrustRefused: ``TRUST_EVENT`` or ``TRUST_LENGTH``: it is not well formed.
    """
    try:
        if place.is_dir():
            found = {
                path.relative_to(place).as_posix(): path.read_bytes()
                for path in sorted([*place.glob("*.json"), *(place / "base").glob("*.json")])
            }
            return _event(found)
        return unzip_event(place.read_bytes())
    except OSError as error:
        raise AskPerson(
            f"The event {place} cannot be read: {error.strerror or error}.",
            code="TRUST_EVENT",
            remedy="Give the folder or .zip that a `wavegate trust` command wrote.",
        ) from error


def write_event(event: Event, place: Path) -> None:
    """Write ``event`` as a folder, or as a zip where ``place`` ends in ``.zip``. What is there of it is replaced.

    Raises:
        OSError: the place cannot be written.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix == ".zip":
        write_durably(place, zip_event(event))
        return
    for name, data in _entries(event).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        write_durably(place / name, data)


def zip_event(event: Event) -> bytes:
    """Return ``event`` as a zip; the same event gives the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(_entries(event).items()):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def unzip_event(data: bytes) -> Event:
    """Read an event from the bytes of a zip.

    Raises:
        TrustRefused: ``TRUST_EVENT`` or ``TRUST_LENGTH``.
    """
    found: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            # Sizes are what the zip claims; zipfile reads no more than that and checks the sum of it.
            _check_size(len(entries), sum(entry.file_size for entry in entries))
            for entry in entries:
                if entry.is_dir():
                    continue
                if entry.filename in found:
                    _malformed(f"it holds {entry.filename!r} twice")
                found[entry.filename] = archive.read(entry)
    except _UNREADABLE as error:
        raise _refusal(f"it is no readable zip ({error})") from error
    # People zip the folder itself as often as what is in it.
    tops = {name.partition("/")[0] for name in found}
    if EVENT not in found and len(tops) == 1:
        found = {name.partition("/")[2]: content for name, content in found.items()}
    return _event(found)


def merge_events(first: Event, second: Event) -> Event:
    """Return the event with the signatures of both copies.

    Raises:
        AskPerson: ``TRUST_CONFLICT``: they are not copies of one event.
    """
    if set(first.files) != set(second.files):
        raise _other("they hold other files")
    merged: dict[str, bytes] = {}
    for name, data in first.files.items():
        one, two = _parse(name, data), _parse(name, second.files[name])
        if one.signed_bytes != two.signed_bytes:
            raise _other(f"{name} says something else in each")
        added = [keyid for keyid in two.signatures if keyid not in one.signatures]
        one.signatures.update({keyid: two.signatures[keyid] for keyid in added})
        merged[name] = one.to_bytes() if added else data
    return first.with_files(merged)


def _entries(event: Event) -> dict[str, bytes]:
    info = msgspec.json.format(msgspec.json.encode(event.info), indent=2) + b"\n"
    return {EVENT: info, **event.files, **{BASE + name: data for name, data in event.base.items()}}


def _event(found: Mapping[str, bytes]) -> Event:
    _check_size(len(found), sum(map(len, found.values())))
    info = EventInfo("metadata")
    if EVENT in found:
        try:
            info = msgspec.json.decode(found[EVENT], type=EventInfo)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _refusal(f"its {EVENT} cannot be read ({error})") from error
        if info.v != 1:
            _malformed(f"it has version {info.v}, of which this program knows nothing")
    files: dict[str, bytes] = {}
    base: dict[str, bytes] = {}
    for name, data in found.items():
        if _BASE.match(name):
            base[name.removeprefix(BASE)] = data
        elif name != EVENT:
            if EVENT in found and not _NEW.match(name):
                _malformed(f"{name!r} has no place in it")
            files[name] = data
    if not files:
        _malformed("it changes nothing")
    if len(files) > MAX_FILES and EVENT in found:
        raise _too_large(f"{len(files)} new files")
    return Event(info, files, base)


def _parse(name: str, data: bytes) -> Metadata[Any]:
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except RepositoryError as error:
        raise _refusal(f"{name} is no metadata ({error})") from error
    return metadata


def _check_size(entries: int, total: int) -> None:
    if entries > MAX_FILES + MAX_BASE_FILES + 1:
        raise _too_large(f"{entries} files")
    if total > MAX_BYTES:
        raise _too_large(f"{total} bytes")


def _too_large(what: str) -> TrustRefused:
    return TrustRefused(
        f"The event has {what}; that is too much.",
        code="TRUST_LENGTH",
        remedy=f"An event has at most {MAX_FILES} new files and {MAX_BYTES} bytes; publish it in several parts.",
    )


def _malformed(why: str) -> NoReturn:
    raise _refusal(why)


def _refusal(why: str) -> TrustRefused:
    return TrustRefused(
        f"This is not an event that can be used: {why}.",
        code="TRUST_EVENT",
        remedy="Have it made again with `wavegate trust`, or passed on again.",
    )


def _other(why: str) -> AskPerson:
    return AskPerson(
        f"The two are not copies of one event: {why}.",
        code="TRUST_CONFLICT",
        remedy="Merge copies of the same event only; otherwise have all holders sign one of them.",
    )
