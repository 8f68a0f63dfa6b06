"""Reads one file out of a support bundle in memory. It comes from a device, and a device may be anybody's.

Nothing is unpacked to disk, no more is inflated than a bundle can honestly hold, and what is shown on a terminal has no
control characters.
"""

from __future__ import annotations

import io
import tarfile
import zlib

from bundles.errors import BundleRefused

README, INDEX = "README.txt", "index.json"
MAX_INFLATED = 64 * 1024 * 1024
MAX_FILE = 1024 * 1024


def read_file(bundle: bytes, name: str) -> bytes:
    """Return the file ``name`` of a support bundle.

    Raises:
        BundleRefused: ``DIAGNOSIS_INVALID``: it is no gzipped tar with such a file in it.
    """
    try:
        inflater = zlib.decompressobj(wbits=31)
        raw = inflater.decompress(bundle, MAX_INFLATED)
        if inflater.unconsumed_tail:
            raise ValueError(f"more than {MAX_INFLATED} bytes inflated")
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as archive:
            for entry in archive:
                if entry.isreg() and entry.size <= MAX_FILE and entry.name.split("/")[1:] == [name]:
                    file = archive.extractfile(entry)
                    assert file is not None
                    return file.read()
        raise ValueError(f"no {name} in it")
    except (ValueError, zlib.error, tarfile.TarError, EOFError) as error:
        raise BundleRefused(
            f"This support bundle cannot be read: {error}.",
            code="DIAGNOSIS_INVALID",
            remedy="Keep it with --out, and look at it with tar; an agent of an older release made it, or nobody did.",
        ) from error


def printable(data: bytes) -> str:
    """Return text that does nothing to a terminal but stand there."""
    text = data.decode("utf-8", "replace")
    return "".join(sign if sign in "\n\t" or sign.isprintable() else "\ufffd" for sign in text)
