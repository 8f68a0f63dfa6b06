"""Damage to zip archives: their bytes, or one entry forged and the archive written again."""

from __future__ import annotations

import io
import random
import stat
import warnings
import zipfile

from fuzzing.mutation import INTERESTING, mutate_bytes, mutate_json

_NAMES = [
    *(name for name in INTERESTING if isinstance(name, str)),
    "metadata/2.team-vision.json",
    "Bundle.json",
    "a\\b",
]


def mutate_zip(data: bytes, rng: random.Random, *, first: str) -> bytes:
    """Return the archive damaged or forged.

    Args:
        data: the archive, or what is left of one.
        rng: of all choices.
        first: the entry that is a JSON document and names the others: the one most often forged.
    """
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(info, archive.read(info)) for info in archive.infolist()]
        return _rewritten(entries, rng, first) if entries else mutate_bytes(data, rng)
    except Exception:  # not a zip any more, in one of zipfile's many ways of saying so
        return mutate_bytes(data, rng)


def _rewritten(entries: list[tuple[zipfile.ZipInfo, bytes]], rng: random.Random, first: str) -> bytes:
    at = rng.randrange(len(entries))
    info, content = entries[at]
    match rng.randrange(9):
        case 0:
            info.filename = rng.choice(_NAMES)
        case 1:
            entries.append((zipfile.ZipInfo(rng.choice((*_NAMES, info.filename))), rng.randbytes(8)))
        case 2:
            del entries[at]
        case 3:
            info.compress_type = zipfile.ZIP_DEFLATED
        case 4:
            info.external_attr = rng.choice((stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755, stat.S_IFIFO)) << 16
        case 5:
            entries[at] = (info, mutate_bytes(content, rng))
        case 6:
            entries[at] = (info, rng.choice(entries)[1])
        case _:
            named = next((n for n, (entry, _) in enumerate(entries) if entry.filename == first), 0)
            entries[named] = (entries[named][0], mutate_json(entries[named][1], rng))
    return write_zip(entries)


def write_zip(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> bytes:
    """Return the entries as an archive, names that stand twice included."""
    sink = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(sink, "w") as written:
        warnings.simplefilter("ignore")
        for entry, data in entries:
            written.writestr(entry, data)
    return sink.getvalue()
