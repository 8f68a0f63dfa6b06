"""A bundle through a bad network: it arrives, no byte is fetched without need, and nothing else is taken for it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from cryptography.hazmat.primitives import serialization

from agent.download import DEFAULT_POLICY
from agent.store import LocalFileSystem, Store
from bundles.digest import sha256_hex
from bundles.errors import TryAgain

MB = 1_000_000
BUNDLE = 20 * MB


def refused(fetch, source, part) -> str:
    with pytest.raises(TryAgain) as caught:
        fetch(source, part)
    return caught.value.code


def asked(served, data) -> list[int]:
    """The statuses of every request for a blob."""
    return [status for path, status in served.asked if path.endswith(sha256_hex(data))]


def test_a_bundle_arrives_within_a_tenth_more_than_its_bytes_through_everything_at_once(
    served, disk, fetch, faults, portal
):
    seed = 4
    draw = random.Random(seed)
    lengths = [14 * MB, 5 * MB, 990_000, 10_000]
    bundle = [served.put(length, seed=number) for number, length in enumerate(lengths)]
    slow = {"latency_s": 0.001, "late": 0.02, "draw": draw}
    kinds = [{"cuts": [draw.randrange(200_000, 1_500_000)]} for _ in range(24)]
    kinds += [{"stalls": [draw.randrange(200_000, 1_500_000)]} for _ in range(4)]
    kinds += [{"is_half_open": True}, {"is_half_open": True}, {"is_closed": True}]
    kinds += [{"answer": portal["page"]}, {"answer": portal["redirect"]}, {"answer": portal["page"]}]
    draw.shuffle(kinds)
    served.network.faults = faults(**slow, episodes=[faults(**slow, **kind) for kind in kinds])
    source, met = served.source(timeout_s=0.25), Counter()
    for data in bundle:
        part = disk.part(data)
        while not part.is_complete():
            try:
                fetch(source, part)
            except TryAgain as error:  # the updater's turn: it asks again, as often as it takes until its deadline
                met[error.code] += 1
                assert met.total() < 50
    down, met_faults = served.network.down, len(kinds) - len(served.network.faults.episodes)
    print(f"seed {seed}: {down} bytes came down for {BUNDLE}; {met_faults} faults met; given up for a while: {met}")
    assert sum(lengths) == BUNDLE
    assert met_faults >= 20
    assert {"DOWNLOAD_PORTAL", "DOWNLOAD_DENIED"} <= set(met)
    assert down <= 1.1 * BUNDLE


def test_a_connection_that_goes_quiet_is_left_and_taken_up_again(served, disk, fetch):
    data = served.put(3 * MB)
    part = disk.part(data)
    served.network.faults.stalls = [1 * MB, 500_000]
    fetched = fetch(served.source(timeout_s=0.3), part)
    assert (part.is_complete(), fetched.bytes_received) == (True, 3 * MB)
    assert served.network.down <= 1.1 * 3 * MB


def test_a_host_that_answers_the_phone_and_says_nothing_holds_nobody_up(served, disk, fetch, faults):
    data = served.put(MB)
    part = disk.part(data)
    served.network.faults = faults(is_half_open=True)
    started = time.monotonic()
    assert refused(fetch, served.source(timeout_s=0.2), part) == "DOWNLOAD_INTERRUPTED"
    assert time.monotonic() - started < 30
    served.network.faults = faults()
    fetch(served.source(), part)
    assert part.is_complete()


def test_a_long_and_narrow_way_is_just_slower(served, disk, fetch, faults):
    data = served.put(2 * MB)
    part = disk.part(data)
    served.network.faults = faults(latency_s=0.003, rate=8 * MB)
    assert fetch(served.source(), part).tries == 1
    assert part.is_complete()


@pytest.mark.parametrize("kind", ["page", "redirect"])
def test_a_captive_portal_is_told_apart_and_costs_nothing_that_was_here(served, disk, fetch, faults, portal, kind):
    data = served.put(3 * MB)
    part = disk.part(data)
    part.append(data[:MB])
    served.network.faults = faults(answer=portal[kind])
    code = {"page": "DOWNLOAD_PORTAL", "redirect": "DOWNLOAD_DENIED"}[kind]
    assert refused(fetch, served.source(), part) == code
    assert (part.size(), part.is_complete(), served.network.connections) == (MB, False, 1)
    served.network.faults = faults()
    assert fetch(served.source(), part).bytes_received == 2 * MB


def test_a_page_that_claims_to_be_a_file_is_never_stored(served, disk, fetch, faults):
    data = served.put(MB)
    part = disk.part(data)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {MB}\r\n\r\n"
    served.network.faults = faults(answer=head.encode() + b"<html>".ljust(MB))
    assert refused(fetch, served.source(), part) == "DOWNLOAD_DIGEST"
    assert (part.size(), part.is_complete()) == (0, False)


def test_a_file_that_is_not_there_is_asked_for_once(served, disk, fetch):
    data = b"never published"
    part = disk.part(data)
    assert refused(fetch, served.source(), part) == "DOWNLOAD_NOT_FOUND"
    assert asked(served, data) == [404]


def test_another_file_than_begun_is_sent_whole_and_not_appended(served):
    data = served.put(MB)
    path = f"/v1/blobs/sha256/{sha256_hex(data)}"
    with served.door().blob(path, 1000, "0" * 64) as answer:
        assert (answer.status, b"".join(answer.chunks)) == (200, data)
    with served.door().blob(path, 1000, sha256_hex(data)) as answer:
        assert (answer.status, b"".join(answer.chunks)) == (206, data[1000:])


def test_a_beginning_of_another_file_is_found_out_and_costs_one_download_more(served, disk, fetch):
    data = served.put(MB)
    part = disk.part(data)
    part.append(b"\0" * 400_000)
    assert refused(fetch, served.source(), part) == "DOWNLOAD_DIGEST"
    assert part.size() == 0
    assert fetch(served.source(), part).bytes_received == MB


def test_a_range_that_cannot_be_had_starts_anew_and_does_not_go_round_for_ever(served, disk, fetch):
    data = served.put(MB)
    part = disk.part(data)
    part.append(data[:600_000])
    # The server has lost its end: each request for the rest is one for a range that cannot be had.
    next(served.folder.rglob(sha256_hex(data))).write_bytes(data[:1000])
    assert refused(fetch, served.source(), part) == "DOWNLOAD_LENGTH"
    assert asked(served, data) == [416, 200]


class SmallDisk(LocalFileSystem):
    """A disk that is full after so many bytes."""

    room = 0

    def append(self, path, data):
        if self.room < len(data):
            taken, self.room = data[: self.room], 0
            super().append(path, taken)
            raise TryAgain("The disk is full.", code="DISK_FULL", remedy="Make room.")
        self.room -= len(data)
        super().append(path, data)


def test_a_disk_that_fills_up_in_the_middle_keeps_what_it_has(served, disk, fetch):
    data = served.put(8 * MB)
    files = SmallDisk(disk.folder)
    files.room = 3 * MB
    part = Store(files, reserve_bytes=0).blob(sha256_hex(data), len(data))
    assert refused(fetch, served.source(), part) == "DISK_FULL"
    assert len(asked(served, data)) == 1, "a full disk is not knocked at again and again"
    assert part.size() == 3 * MB
    files.room = 9 * MB
    assert fetch(served.source(), part).bytes_received == 5 * MB
    assert part.is_complete()


RESTARTED = """
import ssl, sys, time
from pathlib import Path
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from agent.download import fetch_blob
from agent.https import DeviceDoor, open_client
from agent.runner.blobs import ServerSource
from agent.download import DEFAULT_POLICY
from agent.store import LocalFileSystem, Store
url, folder, sha256, length = sys.argv[1:5]
key = load_pem_private_key(sys.stdin.buffer.read(), None)
store = Store(LocalFileSystem(Path(folder)), reserve_bytes=0)
store.open()
client = open_client(url, ssl.create_default_context())
part = store.blob(sha256, int(length))
print("held", part.size(), flush=True)
fetched = fetch_blob(
    ServerSource(DeviceDoor(client, "cam-1", lambda: key)), "/v1/blobs/sha256/" + sha256, part,
    sleep=time.sleep, draw=lambda: 0.5,
)
client.close()
print("received", fetched.bytes_received, flush=True)
"""


def test_an_agent_killed_in_the_middle_goes_on_where_it_was(served, disk, until):
    data = served.put(8 * MB)
    key = served.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    def agent() -> subprocess.Popen:
        url = f"http://127.0.0.1:{served.network.port}"
        command = [sys.executable, "-c", RESTARTED, url, str(disk.folder), sha256_hex(data), str(len(data))]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdin.write(key)
        process.stdin.close()
        return process

    served.network.faults.stalls = [4 * MB]
    first = agent()
    part = disk.part(data)
    until(lambda: part.size() > 4 * MB - DEFAULT_POLICY.write_bytes - 10_000, "what came is written")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    first.stdout.close()
    held = part.size()
    second = agent()
    words = second.stdout.read().split()
    assert second.wait(60) == 0
    second.stdout.close()
    assert words == [b"held", str(held).encode(), b"received", str(len(data) - held).encode()]
    statuses = asked(served, data)
    assert statuses == [200, 206]
    # What the first had received and not yet written died with it: a write's worth, and what its sockets held.
    assert served.network.down <= len(data) + (4 * MB - held) + 10_000
    assert 4 * MB - held <= DEFAULT_POLICY.write_bytes + 10_000
    assert disk.again().read_blob(sha256_hex(data), len(data)) == data
