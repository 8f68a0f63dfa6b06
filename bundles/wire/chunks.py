"""A file in chunks over the broker: what a device asks on ``up/blob``, and what comes down on ``down/blob/{id}``.

For sites where only the broker is reachable. An ask names a blob by its sha256, a delta by the digests of both its
ends, or a file of trust metadata by its name; a first byte; and how many chunks it has room for. Each chunk is a
message of its own at QoS 0: one line of JSON, then the bytes. Whoever misses one asks again. Nothing here is believed:
a blob is checked against the digest that was signed, metadata by TUF's client. Leaves windows and waiting to the agent,
rates to the control plane.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from bundles.errors import MessageRefused

CHUNK_BYTES = 64 * 1024
"""Bytes of one chunk; every chunk but a file's last has as many. A quarter of the broker's ``max_packet_size``."""
MAX_CHUNKS = 8
"""Chunks one ask may bring."""
MAX_ASK_BYTES = 1024
MAX_HEAD_BYTES = 1024
METADATA = "metadata/"
"""What the name of a file of trust metadata begins with."""
_ID = re.compile(r"[a-z0-9]{1,32}\Z")
T = TypeVar("T")


class BlobAsk(msgspec.Struct, frozen=True):
    """A device's wish for a few chunks of one file.

    Attributes:
        id: last level of the topic the answers come on: 1 to 32 of ``a-z`` and ``0-9``, drawn anew for each download.
        sha256: digest of the blob; empty = ``name`` says which file.
        offset: first byte wanted.
        n: chunks wanted, 1 to ``MAX_CHUNKS``.
        name: such as ``metadata/timestamp.json``.
        base: digest of a blob the device holds: the delta from it to ``sha256`` is asked for; empty = the blob itself.
        v: version of this form.
    """

    id: str
    sha256: str = ""
    offset: int = 0
    n: int = MAX_CHUNKS
    name: str = ""
    base: str = ""
    v: int = 1


class ChunkHead(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first line of a chunk.

    Attributes:
        sha256: digest of the blob, as asked for.
        offset: where the bytes belong; in a refusal, the offset asked for.
        length: bytes of the whole file (blob, delta or metadata).
        name: as asked for.
        code: why there are no bytes, such as ``BLOB_NOT_FOUND``; empty = here they are.
        retry_ms: a refusal that passes: ask again after so long.
        v: version of this form.
    """

    offset: int
    length: int
    sha256: str = ""
    name: str = ""
    code: str = ""
    retry_ms: int = 0
    v: int = 1


def encode_ask(ask: BlobAsk) -> bytes:
    """Return the payload of ``up/blob``."""
    return msgspec.json.encode(ask)


def decode_ask(payload: bytes) -> BlobAsk:
    """Read an ask.

    Raises:
        MessageRefused: ``MESSAGE_TOO_LARGE``, ``MESSAGE_VERSION`` or ``MESSAGE_INVALID``.
    """
    if len(payload) > MAX_ASK_BYTES:
        raise _refused("MESSAGE_TOO_LARGE", f"The ask has {len(payload)} bytes; {MAX_ASK_BYTES} is the limit.")
    ask = _read(payload, BlobAsk)
    if (
        _ID.match(ask.id) is None
        or ask.offset < 0
        or not 1 <= ask.n <= MAX_CHUNKS
        or bool(ask.sha256) == bool(ask.name)
        or (ask.base and not ask.sha256)
    ):
        raise _refused("MESSAGE_INVALID", "The ask makes no sense.")
    return ask


def encode_chunk(head: ChunkHead, data: bytes = b"") -> bytes:
    """Return the payload of ``down/blob/{id}``."""
    line = {"v": head.v, "sha256": head.sha256, "offset": head.offset, "length": head.length}
    more = {"name": head.name, "code": head.code, "retry_ms": head.retry_ms}
    return msgspec.json.encode(line | {key: value for key, value in more.items() if value}) + b"\n" + data


def decode_chunk(payload: bytes) -> tuple[ChunkHead, memoryview]:
    """Read a chunk: its first line, and its bytes without a copy.

    Raises:
        MessageRefused: ``MESSAGE_TOO_LARGE``, ``MESSAGE_VERSION`` or ``MESSAGE_INVALID``.
    """
    end = payload.find(b"\n", 0, MAX_HEAD_BYTES)
    if end < 0:
        raise _refused("MESSAGE_INVALID", "The chunk has no first line.")
    head = _read(payload[:end], ChunkHead)
    data = memoryview(payload)[end + 1 :]
    if len(data) > CHUNK_BYTES:
        raise _refused("MESSAGE_TOO_LARGE", f"The chunk has {len(data)} bytes; {CHUNK_BYTES} is the limit.")
    if head.offset < 0 or head.length < 0 or (data and head.offset + len(data) > head.length):
        raise _refused("MESSAGE_INVALID", "The chunk's first line makes no sense.")
    return head, data


class _Version(msgspec.Struct):
    v: int = 1


def _read(data: bytes, kind: type[T]) -> T:
    try:
        if (v := msgspec.json.decode(data, type=_Version).v) != 1:
            raise _refused("MESSAGE_VERSION", f"The message has version {v}; this program reads 1.")
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _refused("MESSAGE_INVALID", f"The message cannot be read: {error}.") from error


def _refused(code: str, sentence: str) -> MessageRefused:
    return MessageRefused(sentence, code=code, remedy="Check the sender's release.")
