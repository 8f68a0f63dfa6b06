"""Files in chunks over a real broker: lost ones come again, and what one way brought the other goes on with."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from agent.delta import Base, DeltaTry
from agent.download.turns import Turns
from agent.runner.blobs import MetadataInTurn, Price, ServerBlobs, sources_in_turn
from bundles.digest import sha256_hex
from bundles.errors import TryAgain
from bundles.trust.fetch import NotServed
from bundles.wire.chunks import CHUNK_BYTES
from control_plane.db.tables import Device

MB = 1_000_000


def refused(fetch, source, part) -> str:
    with pytest.raises(TryAgain) as caught:
        fetch(source, part)
    return caught.value.code


def test_a_blob_comes_over_the_broker_each_chunk_once(served, site, disk, fetch):
    data = served.put(5 * MB + 17)
    part = disk.part(data)
    assert fetch(site.chunks(), part).bytes_received == len(data)
    assert part.is_complete()
    assert set(site.seen.values()) == {1}
    assert len(site.seen) == -(-len(data) // CHUNK_BYTES)


def test_files_of_every_length_come_whole(served, site, disk, fetch):
    chunks = site.chunks()
    for length in (0, 1, CHUNK_BYTES, 8 * CHUNK_BYTES, 8 * CHUNK_BYTES + 1):
        part = disk.part(served.put(length))
        fetch(chunks, part)
        assert part.is_complete()


def test_a_slow_link_is_not_taken_for_a_broken_one(served, site, disk, fetch, faults):
    data = served.put(3 * MB)
    part = disk.part(data)
    chunks = site.chunks(wait_s=0.02)
    begun, site.network.faults = site.network.down, faults(rate=2 * MB)
    site.reconnect()
    assert fetch(chunks, part).bytes_received == len(data)
    down = site.network.down - begun
    print(f"{down} bytes came down for {len(data)}")
    assert down <= 1.1 * len(data), "a chunk takes longer than the first wait, and hardly one comes twice"


def test_where_https_is_blocked_a_delta_comes_over_the_broker_too(served, site, disk, faults):
    weights = np.random.default_rng(3).normal(0, 25, 400_000).round().clip(-127, 127).astype(np.int8)
    moved = np.random.default_rng(4).random(len(weights)) < 0.05
    old, new = weights.tobytes(), (weights + moved).astype(np.int8).tobytes()
    served.release(1, old), served.release(2, new)
    assert 0 < served.deltas.ask(sha256_hex(old), sha256_hex(new)).result(60) < 0.2 * len(new)
    held = disk.part(old)
    held.append(old)
    held.commit()
    chunks, told = site.chunks(), []
    served.network.faults = faults(is_closed=True)
    turns = Turns(["https", "mqtt"], time.monotonic)
    price = Price(within_s=lambda _length: 0.0)
    blobs = ServerBlobs(sources_in_turn(served.source(), chunks, turns), random.Random(1), price)
    base = Base(sha256_hex(old), lambda: disk.store.open_blob(sha256_hex(old)))
    brought = blobs(disk.store, sha256_hex(new), len(new), lambda: False, DeltaTry(base, told.append))
    assert (brought.by_delta, told) == (True, [])
    assert disk.store.read_blob(sha256_hex(new), len(new)) == new
    assert site.seen.total() == 1


def test_lost_chunks_are_asked_for_again_and_few_come_twice(served, site, disk, fetch, losing):
    data = served.put(6 * MB)
    part = disk.part(data)
    site.lost = losing(10, seed=11)
    assert fetch(site.chunks(wait_s=0.2), part).bytes_received == len(data)
    chunks = -(-len(data) // CHUNK_BYTES)
    assert part.is_complete()
    assert site.seen.total() <= 1.3 * chunks, "a tenth is lost, and no window is sent again for one chunk"


def test_a_download_begins_over_https_goes_on_over_the_broker_and_ends_over_https(served, site, disk, fetch, faults):
    data = served.put(8 * MB)
    part = disk.part(data)
    chunks = site.chunks()
    now_s = [0.0]
    turns = Turns(["https", "mqtt"], lambda: now_s[0])
    source = sources_in_turn(served.source(), chunks, turns)
    begun = served.network.down
    served.network.faults = faults(cuts=[2 * MB], ends_with_cut=True)
    after_https = []

    def lost(head) -> bool:
        """HTTPS is gone for as long as the first two megabytes over the broker take; then it is there again."""
        after_https.append(head.offset)
        if head.offset >= 4 * MB and now_s[0] == 0.0:
            served.network.faults = faults()
            now_s[0] = 1_000.0  # its rest is over
        return False

    site.lost = lost
    fetched = fetch(source, part)
    assert part.is_complete()
    assert fetched.bytes_received == len(data), "whichever way, no byte came twice"
    by_https, by_broker = served.network.down - begun, site.seen.total() * CHUNK_BYTES
    print(f"{by_https} bytes by HTTPS, {by_broker} by the broker")
    assert min(after_https) == pytest.approx(2 * MB, abs=2000), "it went on exactly where HTTPS broke"
    assert 2 * MB <= by_broker <= 4 * MB
    assert by_https <= 1.1 * len(data) - 2 * MB


def test_a_connection_to_the_broker_that_dies_is_gone_on_with(served, site, disk, fetch, until):
    data = served.put(4 * MB)
    part = disk.part(data)
    chunks = site.chunks()
    site.lost = lambda head: head.offset > MB and site.link.drop() is None
    assert refused(fetch, chunks, part) == "DOWNLOAD_INTERRUPTED"
    held = part.size()
    assert MB <= held < 2 * MB
    site.lost = lambda head: False
    site.connect()
    assert fetch(chunks, part).bytes_received == len(data) - held


def test_a_device_that_was_retired_gets_nothing(served, site, disk, fetch):
    data = served.put(MB)
    chunks = site.chunks("cam-2")
    with served.db.write() as session:
        session.get(Device, "cam-2").state = "retired"
    assert refused(fetch, chunks, disk.part(data)) == "DOWNLOAD_DENIED"
    assert not site.seen


def test_what_is_not_there_is_told_and_asked_for_once(served, site, disk, fetch):
    chunks = site.chunks()
    asks = []
    publish, chunks._publish = chunks._publish, lambda leaf, payload: asks.append(payload) or publish(leaf, payload)
    assert refused(fetch, chunks, disk.part(b"never published")) == "DOWNLOAD_NOT_FOUND"
    assert len(asks) == 1


def test_a_device_is_held_to_its_rate(served, site, disk, fetch):
    data = served.put(MB)
    chunks = site.chunks(wait_s=5.0)
    site.start_sender(rate=MB)
    started = time.monotonic()
    fetch(chunks, disk.part(data))
    assert time.monotonic() - started > (MB - 8 * CHUNK_BYTES) / MB * 0.9


def test_trust_metadata_comes_over_the_broker_where_https_does_not(served, site, faults):
    content = b'{"signed": {}}' * 20_000
    (served.metadata / "7.targets.json").write_bytes(content)
    turns = Turns(["https", "mqtt"], time.monotonic)
    fetch = MetadataInTurn(served.door().metadata, site.chunks(), turns)
    assert b"".join(fetch("7.targets.json", 1_000_000)) == content
    served.network.faults = faults(is_closed=True)
    served.network.cut_all()
    assert b"".join(fetch("7.targets.json", 1_000_000)) == content
    assert site.seen, "over the broker"
    for name in ("9.root.json", "../keys/server-ca.key", "..json", "timestamp.json/../7.targets.json"):
        with pytest.raises(NotServed):
            fetch(name, 1000)
    assert len(b"".join(fetch("7.targets.json", 100))) < len(content), "no more is read than is asked for"
