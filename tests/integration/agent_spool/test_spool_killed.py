"""A real process with a spool, killed with -9 at any moment: what it said it had queued or sent is still there."""

import random
import subprocess
import sys

from agent.spool import Spool
from bundles.digest import sha256_hex
from bundles.wire.codec import decode_up
from bundles.wire.messages import Ack, Event

CHILD = """
import sys
from agent.spool import Spool
from bundles.digest import sha256_hex
spool = Spool(sys.argv[1], "dev-1")
start, n = int(sys.argv[2]), 0
while True:
    spool.add_event("phase", at_ms=0, data={"n": start + n})
    print("queued", start + n, flush=True)
    n += 1
    if n % 5 == 0:
        for row in spool.next_batch(0, 3):
            print("sent", row.seq, sha256_hex(row.payload), flush=True)
"""


def test_killed_while_it_writes_nothing_promised_is_lost(tmp_path):
    seed = random.randrange(10**9)
    print("seed", seed)
    rng = random.Random(seed)
    path = tmp_path / "spool.db"
    queued: set[int] = set()
    sent: dict[int, str] = {}
    for run in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(run * 100_000)], stdout=subprocess.PIPE, text=True
        )
        lines = [child.stdout.readline() for _ in range(rng.randint(1, 80))]
        child.kill()
        lines += child.stdout.read().splitlines()
        assert child.wait() == -9
        child.stdout.close()
        for line in lines:
            match line.split():
                case ["queued", n]:
                    queued.add(int(n))
                case ["sent", seq, digest] if len(digest) == 64:
                    assert sent.setdefault(int(seq), digest) == digest
    assert queued
    assert sent
    spool = Spool(path, "dev-1")
    arrived: dict[int, Event] = {}
    while spool.status().pending:
        for row in spool.next_batch(10**9, 64):
            assert sent.get(row.seq, sha256_hex(row.payload)) == sha256_hex(row.payload)
            arrived[row.seq] = decode_up(row.leaf, row.payload)
        spool.acked(Ack(spool.boot_epoch, max(arrived)))
    spool.close()
    assert set(sent) <= set(arrived)
    numbers = [event.data["n"] for event in arrived.values()]
    assert len(numbers) == len(set(numbers))
    assert queued <= set(numbers)
