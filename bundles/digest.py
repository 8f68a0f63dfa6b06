"""The only place where hashing and canonical form are spelled.

A digest in this project is a lower-case sha256 in hex; a field holding one is called ``sha256``.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

CHUNK_BYTES = 1 << 20
_HEX = re.compile(r"[0-9a-f]{64}\Z")


def sha256_hex(data: bytes) -> str:
    """Return the sha256 of ``data`` in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_stream(stream: BinaryIO) -> tuple[str, int]:
    """Hash ``stream`` to its end; return (sha256 hex, length in bytes)."""
    digest, length = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
        length += len(chunk)
    return digest.hexdigest(), length


def sha256_file(path: Path) -> tuple[str, int]:
    """Hash the file at ``path``; return (sha256 hex, length in bytes).

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        return sha256_stream(stream)


def is_sha256(text: str) -> bool:
    """Whether ``text`` is a sha256 in the one spelling this project uses."""
    return _HEX.match(text) is not None


def canonical_json(value: Any) -> bytes:
    """Return the one JSON form of ``value`` that digests are taken over: sorted keys, no white space.

    Structs and plain values alike. Signatures are made over bytes produced by this and checked over the bytes
    *received*, so a reader never has to reproduce the form.
    """
    return msgspec.json.encode(value, order="sorted")


def order_hash(seed: str, device: str) -> str:
    """Return the key devices are ordered by within a rollout: sha256(seed + NUL + device id) in hex."""
    return sha256_hex(seed.encode() + b"\0" + device.encode())
