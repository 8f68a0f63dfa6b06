"""Deltas, which nobody signs: the new file comes out, or a refusal, and never a byte more than was signed.

The first byte of an input says whether the device expects the honest new file (even), or whatever the header promises
(odd), which lets a forged header be judged by its own word.
"""

from __future__ import annotations

import bz2
import functools
import io
import random

from bundles.delta.apply import apply_delta
from bundles.delta.form import PREFIX, encode_header, header_length, parse_header
from bundles.delta.make import make_delta
from bundles.digest import sha256_hex
from fuzzing.mutation import mutate_bytes, mutate_json
from fuzzing.target import Target, require, unless_refused

_BYTES = 160 * 1024
_MAX_PROMISED = 1 << 20
_PIECE = 1000


@functools.cache
def _files() -> tuple[bytes, bytes]:
    """Return a base and a new file: some bytes moved by one, some inserted, some at the end."""
    rng = random.Random(3)
    base = rng.randbytes(_BYTES)
    new = bytearray(base)
    for at in rng.sample(range(_BYTES), 200):
        new[at] = (new[at] + rng.choice((-1, 1))) % 256
    new[70_000:70_000] = rng.randbytes(512)
    return base, bytes(new) + rng.randbytes(100)


@functools.cache
def samples() -> dict[str, bytes]:
    """Return one delta, as either kind of input."""
    base, new = _files()
    delta = io.BytesIO()
    assert make_delta(base, new, delta) is not None, "two files so alike have a delta"
    return {"signed": b"\x00" + delta.getvalue(), "own-word": b"\x01" + delta.getvalue()}


def try_one(data: bytes) -> None:
    """Apply it to the base."""
    kind, delta = data[:1], data[1:]
    base, new = _files()
    sha256, length = sha256_hex(new), len(new)
    header = unless_refused(lambda: parse_header(_header(delta)))
    if header is not None:
        written = encode_header(header)
        require(parse_header(written[PREFIX.size :]) == header, "a header changes when it is written and read")
        if kind and kind[0] % 2 and header.new.length <= _MAX_PROMISED:
            sha256, length = header.new.sha256, header.new.length
    made = bytearray()

    def write(piece: bytes) -> None:
        made.extend(piece)
        require(len(made) <= length, "more bytes than were signed")

    pieces = [delta[at : at + _PIECE] for at in range(0, len(delta), _PIECE)]
    applied = unless_refused(lambda: apply_delta(pieces, io.BytesIO(base), write, sha256=sha256, length=length))
    if applied is not None:
        require((sha256_hex(bytes(made)), len(made)) == (sha256, length), "another file than the signed one")


def _header(delta: bytes) -> bytes:
    return delta[PREFIX.size : PREFIX.size + header_length(delta[: PREFIX.size])]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Forge the header or the residual, keeping the frame around them whole."""
    kind, delta = data[:1] or b"\x00", data[1:]
    choice = rng.random()
    head = unless_refused(lambda: _header(delta))
    if head is None or choice < 0.15:
        return bytes([rng.randrange(2)]) + mutate_bytes(delta, rng)
    residual = delta[PREFIX.size + len(head) :]
    if choice < 0.6:
        head = mutate_json(head, rng)
    elif choice < 0.8:
        residual = mutate_bytes(residual, rng)
    else:
        try:
            plain = bz2.decompress(residual)
            residual = bz2.compress(mutate_bytes(plain, rng) if rng.random() < 0.7 else plain * rng.choice((0, 2, 8)))
        except (OSError, ValueError):  # it was damaged before
            residual = mutate_bytes(residual, rng)
    return kind + PREFIX.pack(b"WGD1", len(head)) + head + residual


TARGET = Target("delta", ("bundles.delta.form", "bundles.delta.apply"), samples, try_one, mutate)
