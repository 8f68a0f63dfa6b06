"""Files to a support bundle: a gzipped tar of plain files under one folder, never larger than it may be. Pure.

What does not fit is cut, the longest file first: a text at its beginning (the newest lines are the telling ones), any
other file goes whole, because half a document is none. The index is made last, is told what was cut, and is never cut
itself.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Mapping

MIN_CUT = 4096
"""A shorter file is not cut any more, but left out."""
TEXTS = (".log", ".txt")

Cuts = Mapping[str, str]
"""Name of a file -> what of it is not there, in words."""
Index = Callable[[Mapping[str, bytes], Cuts], Mapping[str, bytes]]
"""(files that are in the bundle, what was cut) -> the files that tell of them; a few kilobytes, however many."""


def pack(folder: str, files: Mapping[str, bytes], at_s: int, max_bytes: int, index: Index) -> bytes:
    """Return the bundle.

    Args:
        folder: name of the one folder in it.
        files: name -> content.
        at_s: time of every file in it, UTC epoch seconds.
        max_bytes: of the bundle; 64 KiB at least.
        index: makes the files that tell of the others.
    """
    kept, cuts = dict(files), dict[str, str]()
    while len(data := _archive(folder, {**kept, **index(kept, cuts)}, at_s)) > max_bytes:
        if not kept:
            raise ValueError("the index alone is larger than a support bundle may be")
        longest = max(kept, key=lambda name: len(kept[name]))
        content = kept[longest]
        if len(content) <= MIN_CUT or not longest.endswith(TEXTS):
            del kept[longest]
            cuts[longest] = f"left out: its {len(files[longest])} bytes did not fit"
        else:
            kept[longest] = _later_half(content)
            cuts[longest] = (
                f"the first {len(files[longest]) - len(kept[longest])} of {len(files[longest])} bytes did not fit"
            )
    return data


def _later_half(content: bytes) -> bytes:
    half = content[len(content) // 2 :]
    return half.partition(b"\n")[2] or half


def _archive(folder: str, files: Mapping[str, bytes], at_s: int) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(files[name]), at_s, 0o600
            archive.addfile(entry, io.BytesIO(files[name]))
    return gzip.compress(raw.getvalue(), 6, mtime=at_s)
