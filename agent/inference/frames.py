"""How messages and tensors travel between the agent and a process holding a model: frames over a socket pair.

Neutral to the interpreter on the other side, so that a worker can run under another Python with a vendor's runtime:
no pickles, only a MessagePack header and raw tensor bytes. One frame::

    "WGF1" | u32 header length | u32 body length | header (MessagePack) | zeros to 16 | tensors, each with zeros to 16

lengths little-endian, the body counted with its padding, tensors C-contiguous and little-endian. Strictly one request,
one answer, so a frame is never followed by the next one's bytes before it has been answered.
Knows nothing of processes; a lost peer is ``PeerGone``, a late one ``PeerLate``.
"""

from __future__ import annotations

import math
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.inference.messages import Layout, Message

MAGIC = b"WGF1"
MAX_HEADER_BYTES = 1 << 20
MAX_BODY_BYTES = 1 << 28
"""256 MiB: beyond any request of an edge model; a longer length is a broken peer."""
_ALIGN = 16  # what malloc gives, and what the runtimes' vector loads like
_PREFIX = struct.Struct("<4sII")
_FIRST_READ = 1 << 16
_NAMES = {np.dtype(name).char: name for name in ("float32", "int8", "uint8")}  # dtype.name takes 2.6 µs
_PADDING = bytes(_ALIGN)


class PeerGone(ConnectionError):
    """The other side closed its end, or speaks something else."""


class PeerLate(TimeoutError):
    """The other side did not answer within the deadline."""


class Channel:
    """Frames over one connected stream socket. Not thread-safe.

    Args:
        sock: a connected socket; the channel owns it from here on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
        self._buffer = memoryview(bytearray(_FIRST_READ))
        self._timeout: float | None = None

    def send(self, message: Message, tensors: Sequence[NDArray[Any]] = ()) -> None:
        """Send one frame; ``tensors`` are C-contiguous.

        Raises:
            PeerGone: the other side is not there any more.
            PeerLate: it did not take the frame within the timeout of the last ``receive``.
        """
        header = self._encoder.encode(message)
        pieces: list[Any] = [b"", header, _PADDING[: -(_PREFIX.size + len(header)) % _ALIGN]]
        body_length = 0
        for tensor in tensors:
            pad = -tensor.nbytes % _ALIGN
            pieces += [tensor.reshape(-1).view(np.uint8), _PADDING[:pad]]
            body_length += tensor.nbytes + pad
        pieces[0] = _PREFIX.pack(MAGIC, len(header), body_length)
        total = _body_start(len(header)) + body_length
        try:
            sent = self._socket.sendmsg(pieces)
            if sent < total:  # larger than the socket's buffer: the rest in a plain send
                self._socket.sendall(memoryview(b"".join(pieces))[sent:])
        except TimeoutError as error:
            raise PeerLate("the other side does not read") from error
        except OSError as error:
            raise PeerGone("the other side is gone") from error

    def receive(self, timeout_s: float | None = None) -> tuple[Message, memoryview]:
        """Wait for one frame.

        Args:
            timeout_s: for the whole frame; None = for ever.

        Returns:
            The message and the body. The body is overwritten by the next ``receive``: copy what must last.

        Raises:
            PeerGone: the other side closed, or sent what is no frame.
            PeerLate: the frame was not complete in time.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if timeout_s != self._timeout:
            self._socket.settimeout(timeout_s)
            self._timeout = timeout_s
        buffer = self._buffer
        have = self._read(buffer, 0, deadline, first=True)
        while have < _PREFIX.size:
            have += self._read(buffer, have, deadline)
        magic, header_length, body_length = _PREFIX.unpack_from(buffer)
        if magic != MAGIC or header_length > MAX_HEADER_BYTES or body_length > MAX_BODY_BYTES:
            raise PeerGone("the other side sent what is no frame")
        start = _body_start(header_length)
        total = start + body_length
        if total > len(buffer):
            larger = memoryview(bytearray(total))
            larger[:have] = buffer[:have]
            self._buffer = buffer = larger
        while have < total:
            have += self._read(buffer, have, deadline)
        if have > total:
            raise PeerGone("the other side sent two frames where one was due")
        try:
            message = self._decoder.decode(buffer[_PREFIX.size : _PREFIX.size + header_length])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PeerGone("the other side sent a message that cannot be read") from error
        return message, buffer[start:total]

    def is_open(self) -> bool:
        """Return False when the other side has closed; between requests nothing else can make it readable."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | select.POLLHUP)
        return not poller.poll(0)

    def close(self) -> None:
        """Close the socket. Being told twice is normal."""
        self._socket.close()

    def _read(self, buffer: memoryview, at: int, deadline: float | None, *, first: bool = False) -> int:
        try:
            if deadline is not None and not first:
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                self._timeout = -1.0  # what the socket has now is nobody's default
            count = self._socket.recv_into(buffer[at:])
        except TimeoutError as error:
            raise PeerLate("the other side did not answer in time") from error
        except OSError as error:
            raise PeerGone("the other side is gone") from error
        if count == 0:
            raise PeerGone("the other side closed its end")
        return count


def describe(tensors: Sequence[NDArray[Any]]) -> Layout:
    """Return dtype and shape of each tensor, as ``Run`` and ``Ran`` carry them."""
    return [(_NAMES.get(tensor.dtype.char) or tensor.dtype.name, tensor.shape) for tensor in tensors]


def unpack(layout: Layout, body: memoryview) -> list[NDArray[Any]]:
    """Return views into ``body``, one a tensor.

    Raises:
        PeerGone: the body is shorter than its layout says.
    """
    arrays, at = [], 0
    for name, shape in layout:
        try:
            dtype = np.dtype(name)
            count = math.prod(shape)
            flat = np.frombuffer(body, dtype=dtype, count=count, offset=at) if count else np.empty(0, dtype=dtype)
            arrays.append(flat.reshape(shape))
        except (ValueError, TypeError) as error:
            raise PeerGone("the other side sent tensors that do not fit their layout") from error
        size = count * dtype.itemsize
        at += size + -size % _ALIGN
    return arrays


def _body_start(header_length: int) -> int:
    return -(-(_PREFIX.size + header_length) // _ALIGN) * _ALIGN
