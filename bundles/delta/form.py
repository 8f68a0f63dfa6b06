"""The form of a delta: how a device that holds one file may build another out of it.

::

    "WGD1"  uint32 (big endian) length of the header  header  residual

The header is canonical JSON: ``{"base": {"length", "sha256"}, "codec", "new": {"length", "sha256"}, "ops"}``. ``ops``
is a list of ``[new_off, len, old_off | null]`` that covers the new file from its first byte to its last, in order,
without a gap or an overlap. The residual, compressed as ``codec`` says, has exactly as many bytes as the new file:
where an op names an ``old_off`` it is the byte-wise difference (new - old) modulo 256, otherwise it is the new bytes.

A delta is signed by nobody: what it makes is compared with the length and sha256 that *were* signed. So everything
here is judged as coming from an enemy: sizes are bounded before anything is allocated, offsets before anything is read.
A field that is not known is ignored; another magic or codec is refused, and the caller fetches the whole file.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import NoReturn

import msgspec

from bundles.digest import canonical_json, is_sha256
from bundles.errors import BundleRefused

MAGIC = b"WGD1"
PREFIX = struct.Struct(">4sI")
SUB_BZ2 = "sub+bz2"
"""Byte-wise difference, one bzip2 stream. For int8 weights that moved by one, 1.8 to 5.3 times smaller than
``zstd --patch-from`` (design page 02, Deltas), and 4 MiB to take apart."""
CODECS = frozenset({SUB_BZ2})
MAX_OPS = 4096
MAX_HEADER_BYTES = 256 * 1024
MAX_FILE_BYTES = 4 * 1024**3
MIN_FILE_BYTES = 64 * 1024
"""A smaller new file is fetched whole: a second request would cost more than it saves."""
OFFERED_RATIO = 0.6
"""A delta is worth its trouble below this share of the new file; nobody offers or takes a larger one."""
_REMEDY = "Nothing needs to be done: the whole file is fetched instead."


class Side(msgspec.Struct, frozen=True):
    """One of the two files.

    Attributes:
        sha256: digest of its content.
        length: bytes.
    """

    sha256: str
    length: int


class Op(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of the new file.

    Attributes:
        new_off: its first byte in the new file.
        length: bytes, at least 1.
        old_off: first byte in the base that the residual is added to; None = the residual is the new bytes.
    """

    new_off: int
    length: int
    old_off: int | None

    @property
    def new_end(self) -> int:
        """The byte after its last in the new file."""
        return self.new_off + self.length


class Header(msgspec.Struct, frozen=True):
    """What a delta says before its residual."""

    codec: str
    base: Side
    new: Side
    ops: list[Op]


def max_delta_bytes(new_length: int) -> int:
    """Return how large a delta for a file of ``new_length`` bytes may be: reading further is never worth it."""
    return int(new_length * OFFERED_RATIO)


def encode_header(header: Header) -> bytes:
    """Return magic, length and header, ready to be followed by the residual.

    Raises:
        BundleRefused: ``DELTA_FORM``; such as more than ``MAX_OPS`` ops.
    """
    check_header(header)
    data = canonical_json(header)
    if len(data) > MAX_HEADER_BYTES:
        refuse_form(f"its header has {len(data)} bytes; {MAX_HEADER_BYTES} is the limit")
    return PREFIX.pack(MAGIC, len(data)) + data


def header_length(prefix: bytes) -> int:
    """Return how many bytes of header follow the first ``PREFIX.size`` bytes of a delta.

    Raises:
        BundleRefused: ``DELTA_FORM``.
    """
    if len(prefix) != PREFIX.size:
        refuse_form("it ends before its header")
    magic, length = PREFIX.unpack(prefix)
    if magic != MAGIC:
        refuse_form("it does not begin like one")
    if not 0 < length <= MAX_HEADER_BYTES:
        refuse_form(f"its header claims {length} bytes; {MAX_HEADER_BYTES} is the limit")
    return int(length)


def parse_header(data: bytes) -> Header:
    """Parse and check a header.

    Raises:
        BundleRefused: ``DELTA_FORM``.
    """
    try:
        header = msgspec.json.decode(data, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        refuse_form(f"its header cannot be read: {error}")
    check_header(header)
    return header


def check_header(header: Header) -> None:
    """Check every bound of a header: sides, codec, and ops that cover the new file and stay inside the base.

    Raises:
        BundleRefused: ``DELTA_FORM``.
    """
    if header.codec not in CODECS:
        refuse_form(f"this program does not know the codec {header.codec!r}")
    for side in (header.base, header.new):
        if not is_sha256(side.sha256) or not 0 <= side.length <= MAX_FILE_BYTES:
            refuse_form("digest or length of a file is not valid")
    ops = header.ops
    if len(ops) > MAX_OPS:
        refuse_form(f"it has {len(ops)} ops; {MAX_OPS} is the limit")
    for op in ops:
        if op.new_off < 0 or op.length < 1 or op.new_end > header.new.length:
            refuse_form(f"an op writes outside the new file: {op.new_off}+{op.length} of {header.new.length}")
        if op.old_off is not None and not 0 <= op.old_off <= header.base.length - op.length:
            refuse_form(f"an op reads outside the base: {op.old_off}+{op.length} of {header.base.length}")
    # Each bound is checked before this line, so no op can reach its place by an overflow of another.
    if any(before.new_end != after.new_off for before, after in pairwise(ops)):
        refuse_form("its ops overlap, leave a gap or are out of order")
    if (ops[0].new_off if ops else 0) != 0 or (ops[-1].new_end if ops else 0) != header.new.length:
        refuse_form("its ops do not cover the new file")


def refuse_form(what: str) -> NoReturn:
    """Refuse a delta that breaks the form.

    Raises:
        BundleRefused: ``DELTA_FORM``.
    """
    raise BundleRefused(f"The delta cannot be used: {what}.", code="DELTA_FORM", remedy=_REMEDY)


def refuse(code: str, sentence: str, **details: object) -> NoReturn:
    """Refuse a delta for another reason than its form.

    Raises:
        BundleRefused: ``code``.
    """
    raise BundleRefused(sentence, code=code, remedy=_REMEDY, details=details)
