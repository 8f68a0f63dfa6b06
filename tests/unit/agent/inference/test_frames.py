"""Frames over a real socket pair."""

import socket
import struct
import threading

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.inference.frames import Channel, PeerGone, PeerLate, describe, unpack
from agent.inference.messages import Ended, Run


def pair() -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair()
    return Channel(ours), Channel(theirs)


tensor = st.sampled_from(["float32", "int8", "uint8", "int64", "bool", "float16"]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
)


@given(st.lists(tensor, max_size=4))
def test_tensors_arrive_as_they_were_sent(tensors):
    here, there = pair()
    here.send(Run(describe(tensors)), tensors)
    message, body = there.receive()
    assert isinstance(message, Run)
    received = unpack(message.tensors, body)
    assert [a.dtype for a in received] == [a.dtype for a in tensors]
    assert [a.shape for a in received] == [a.shape for a in tensors]
    assert [a.tobytes() for a in received] == [a.tobytes() for a in tensors]
    here.close()
    there.close()


def test_a_frame_larger_than_the_socket_buffer_arrives_whole():
    here, there = pair()
    large = np.arange(1_000_000, dtype=np.float32)
    sender = threading.Thread(target=here.send, args=(Run(describe([large])), [large]))
    sender.start()
    message, body = there.receive(10.0)
    sender.join()
    assert isinstance(message, Run)
    assert (unpack(message.tensors, body)[0] == large).all()
    here.send(Ended(7))
    assert there.receive(1.0)[0] == Ended(7)
    here.close()
    there.close()


def test_a_closed_peer_is_gone_on_both_ways():
    here, there = pair()
    there.close()
    assert not here.is_open()
    with pytest.raises(PeerGone):
        here.receive(1.0)
    with pytest.raises(PeerGone):
        here.send(Ended(0))
    here.close()


def test_a_silent_peer_is_late_and_still_open():
    here, there = pair()
    with pytest.raises(PeerLate):
        here.receive(0.01)
    assert here.is_open()
    there.send(Ended(3))
    assert here.receive(1.0)[0] == Ended(3)
    here.close()
    there.close()


def test_a_peer_that_stops_in_the_middle_of_a_frame_is_late():
    ours, theirs = socket.socketpair()
    here = Channel(ours)
    theirs.sendall(struct.pack("<4sII", b"WGF1", 100, 0))
    with pytest.raises(PeerLate):
        here.receive(0.05)
    here.close()
    theirs.close()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        struct.pack("<4sII", b"WGF1", 1 << 30, 0),
        struct.pack("<4sII", b"WGF1", 1, 1 << 31),
        struct.pack("<4sII", b"WGF1", 4, 0) + b"\xc1\xc1\xc1\xc1",
        struct.pack("<4sII", b"WGF1", 2, 0) + msgspec.msgpack.encode(["x"])[:2] + b"\0\0",
        (struct.pack("<4sII", b"WGF1", 4, 0) + b"\x92\xa0\xa0\xa0") * 2,
    ],
    ids=["another protocol", "long header", "long body", "no MessagePack", "no message", "two frames"],
)
def test_what_is_no_frame_ends_the_conversation(data):
    ours, theirs = socket.socketpair()
    here = Channel(ours)
    theirs.sendall(data)
    with pytest.raises(PeerGone):
        here.receive(0.5)
    here.close()
    theirs.close()


@given(st.binary(min_size=12, max_size=100))
def test_random_bytes_never_pass_for_a_message(data):
    ours, theirs = socket.socketpair()
    here = Channel(ours)
    theirs.sendall(data)
    theirs.close()
    with pytest.raises((PeerGone, PeerLate)):
        here.receive(0.5)
    here.close()


def test_a_body_shorter_than_its_layout_is_refused():
    with pytest.raises(PeerGone):
        unpack([("float32", (4,))], memoryview(bytes(8)))
    with pytest.raises(PeerGone):
        unpack([("no_dtype", (1,))], memoryview(bytes(8)))
