"""Applying a delta: the base and a stream of pieces in, the new file out, piece by piece.

Trusts nothing but the length and sha256 it is given, which somebody signed. In this order: the header is bounded and
read; what it promises must be what was signed; the base is hashed before anything is made of it; then the residual is
taken apart a piece at a time, and never one byte more than the new file has. Needs about 5 MiB whatever the files'
size (bzip2's block and a header), no numpy, and no file of its own.

The caller throws away what was written whenever this raises: the last thing judged is the digest of the whole.
"""

from __future__ import annotations

import bz2
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from bundles.delta.form import (
    PREFIX,
    Header,
    Op,
    Side,
    header_length,
    max_delta_bytes,
    parse_header,
    refuse,
    refuse_form,
)
from bundles.delta.lanes import add
from bundles.digest import sha256_stream

PIECE_BYTES = 64 * 1024
_NOTHING_FURTHER = Op(0, 0, None)


def apply_delta(
    pieces: Iterable[bytes],
    base: BinaryIO,
    write: Callable[[bytes], object],
    *,
    sha256: str,
    length: int,
    max_bytes: int | None = None,
) -> Header:
    """Make the new file; return the delta's header once the whole is what was signed.

    Args:
        pieces: the delta, as it arrives.
        base: the file that the device holds, seekable.
        write: takes the new file's bytes in order; at most ``length`` of them in all.
        sha256: signed digest of the new file.
        length: signed length of the new file.
        max_bytes: of the delta, read no further; None = that of ``form.max_delta_bytes``.

    Raises:
        BundleRefused: ``DELTA_FORM`` (no delta, damaged, out of bounds, or too large to be one), ``DELTA_BASE`` (made
            for another base) or ``DELTA_RESULT`` (it makes, or promises, another file than the signed one).
        OSError: the base cannot be read, or whatever ``write`` raises.
    """
    source = _Source(pieces, max_delta_bytes(length) if max_bytes is None else max_bytes)
    header = parse_header(source.exactly(header_length(source.exactly(PREFIX.size))))
    if header.new != Side(sha256, length):
        _refuse_result("The delta promises another file than the signed one.", header.new)
    base.seek(0)
    held = Side(*sha256_stream(base))
    if held != header.base:
        refuse(
            "DELTA_BASE",
            "The delta is made for another base than the file on this device.",
            sha256=held.sha256,
            length=held.length,
        )
    maker = _Maker(header.ops, base, write)
    for residual in _decompressed(source, length):
        maker.take(residual)
    made = Side(maker.digest.hexdigest(), maker.made)
    if made != header.new:
        _refuse_result("The delta makes another file than the signed one.", made)
    return header


class _Source:
    """The delta's bytes: so many at a time for the header, piece by piece for the rest, and never beyond a bound."""

    def __init__(self, pieces: Iterable[bytes], max_bytes: int) -> None:
        self._pieces, self._left, self._held = iter(pieces), max_bytes, b""

    def exactly(self, size: int) -> bytes:
        """Return the next ``size`` bytes, or fewer where the delta ends; ``size`` is small."""
        while len(self._held) < size and (piece := self._next()):
            self._held += piece
        data, self._held = self._held[:size], self._held[size:]
        return data

    def rest(self) -> Iterator[bytes]:
        """Yield what follows."""
        if self._held:
            yield self._held
        while piece := self._next():
            yield piece

    def _next(self) -> bytes:
        piece = next((piece for piece in self._pieces if piece), b"")
        self._left -= len(piece)
        if self._left < 0:
            refuse_form("it is larger than a delta may be")
        return piece


class _Maker:
    """Turns the residual, in pieces of any size, into the new file, op after op."""

    def __init__(self, ops: list[Op], base: BinaryIO, write: Callable[[bytes], object]) -> None:
        self._ops, self._base, self._write = iter(ops), base, write
        self._op = next(self._ops, _NOTHING_FURTHER)
        self.digest = hashlib.sha256()
        self.made = 0

    def take(self, residual: bytes) -> None:
        """Add the next bytes of the residual; there are no more of them than the ops cover."""
        view = memoryview(residual)
        while view:
            if self.made == self._op.new_end:
                self._op = next(self._ops)
            op, size = self._op, min(len(view), self._op.new_end - self.made)
            piece, view = bytes(view[:size]), view[size:]
            if op.old_off is not None:
                self._base.seek(op.old_off + self.made - op.new_off)
                old = self._base.read(size)
                if len(old) != size:
                    refuse("DELTA_BASE", "The base is shorter than it was a moment ago.")
                piece = add(old, piece)
            self._write(piece)
            self.digest.update(piece)
            self.made += size


def _decompressed(source: _Source, length: int) -> Iterator[bytes]:
    """Yield the residual, exactly ``length`` bytes of it."""
    stream, left = bz2.BZ2Decompressor(), length
    for compressed in source.rest():
        if stream.eof:
            refuse_form("something follows its end")
        piece = compressed
        while not stream.eof:
            try:
                residual = stream.decompress(piece, PIECE_BYTES)
            except (OSError, ValueError) as error:
                refuse_form(f"its residual is damaged: {error}")
            piece, left = b"", left - len(residual)
            if left < 0:
                refuse_form("its residual is larger than the new file")
            if residual:
                yield residual
            if stream.needs_input:
                break
        if stream.unused_data:
            refuse_form("something follows its end")
    if not stream.eof or left:
        refuse_form("it ends too early")


def _refuse_result(sentence: str, found: Side) -> None:
    refuse("DELTA_RESULT", sentence, sha256=found.sha256, length=found.length)
