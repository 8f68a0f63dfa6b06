"""Any order of adding, sending, losing, acking, crashing and restarting: one identity and one set of bytes a row."""

import random
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.spool import Spool
from bundles.sketch.form import Window
from bundles.sketch.merge import merge_windows
from bundles.wire.codec import decode_up
from bundles.wire.messages import Ack, Event

HOUR = 3_600_000
ops = st.lists(
    st.one_of(
        st.just(("event",)),
        st.tuples(st.just("window"), st.integers(1, 9)),
        st.tuples(st.just("window"), st.integers(1, 9)),
        st.tuples(st.just("send"), st.integers(1, 8), st.sampled_from(["arrives", "half", "lost", "crash"])),
        st.tuples(st.just("ack"), st.booleans()),
        st.just(("crash",)),
        st.tuples(st.just("wait"), st.sampled_from([1_000, 31_000, 400_000, -50_000_000])),
    ),
    min_size=30,
    max_size=70,
)

EXPLORED: Counter[str] = Counter()


class ControlPlane:
    """Stores each (epoch, seq) once, and acks as the real one does."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, int], bytes] = {}
        self.messages: dict[tuple[str, int], object] = {}
        self.gaps: set[int] = set()

    def take(self, epoch: str, row) -> None:
        message = decode_up(row.leaf, row.payload)
        assert (message.boot_epoch, message.seq) == (epoch, row.seq)
        key = (epoch, row.seq)
        assert self.stored.setdefault(key, row.payload) == row.payload, "one identity, one set of bytes"
        self.messages[key] = message
        if isinstance(message, Event) and message.kind == "spool_dropped":
            self.gaps |= set(range(message.data["seq"], message.data["seq"] + message.data["n"]))

    def ack(self, epoch: str) -> Ack:
        have = {seq for _, seq in self.stored} | self.gaps
        upto = 0
        while upto + 1 in have:
            upto += 1
        top = max(have, default=0)
        missing = [seq for seq in range(upto + 1, top) if seq not in have]
        return Ack(epoch, upto, missing, [seq for seq in sorted(have) if seq > upto])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ops, st.sampled_from([65_536, 98_304, 1_000_000]))
def test_every_row_that_is_not_dropped_arrives_once_and_samples_add_up(story, max_bytes):
    with tempfile.TemporaryDirectory() as folder:
        run_story(Path(folder) / "spool.db", story, max_bytes)


def counted(a: Window, b: Window) -> Window:
    EXPLORED["merged"] += 1
    return merge_windows(a, b)


def bulky(number: int, start_ms: int, ok: int) -> Window:
    """A window of about 4 kB that does not compress, so that a few fill the smallest spool."""
    chance = random.Random(number)
    classes = [chance.randrange(2**30) for _ in range(1000)]
    return Window("t/m", "b" * 64, "1", "v", "c" * 64, start_ms, start_ms + HOUR, ok=ok, classes=classes)


def run_story(path: Path, story, max_bytes: int) -> None:
    opened = []

    def start() -> Spool:
        opened.append(Spool(path, "dev-1", max_bytes=max_bytes, merge=counted))
        return opened[-1]

    spool, server, now = start(), ControlPlane(), 10**9
    events, samples, windows = 0, 0, 0
    handed_out: dict[int, bytes] = {}
    for op, *args in story:
        if op == "event":
            spool.add_event("phase", at_ms=now, data={"n": events})
            events += 1
        elif op == "window":
            start_ms = windows * HOUR
            spool.add_window(bulky(windows, start_ms, args[0]))
            windows, samples = windows + 1, samples + args[0]
        elif op == "send":
            limit, fate = args
            batch = spool.next_batch(now, limit)
            assert len(batch) <= limit
            for row in batch:
                assert handed_out.setdefault(row.seq, row.payload) == row.payload
            keep = {"arrives": len(batch), "half": len(batch) // 2}.get(fate, 0)
            for row in batch[:keep]:
                server.take(spool.boot_epoch, row)
            if fate == "crash":
                spool = start()
        elif op == "ack":
            ack = server.ack(spool.boot_epoch)
            for _ in range(1 + args[0]):  # told twice is normal
                spool.acked(ack)
        elif op == "crash":
            spool = start()
        else:
            now += args[0]
    for _ in range(200):
        if not spool.status().pending:
            break
        now += 301_000
        for row in spool.next_batch(now):
            assert handed_out.setdefault(row.seq, row.payload) == row.payload
            server.take(spool.boot_epoch, row)
        spool.acked(server.ack(spool.boot_epoch))
    status = spool.status()
    assert status.pending == 0
    assert {epoch for epoch, _ in server.stored} <= {spool.boot_epoch}
    seqs = {seq for _, seq in server.stored} | server.gaps
    assert seqs == set(range(1, len(seqs) + 1)), "every number is stored or declared"

    arrived = [m.data["n"] for m in server.messages.values() if isinstance(m, Event) and m.kind == "phase"]
    assert len(arrived) == len(set(arrived))
    lost = {seq: handed_out[seq] for seq in server.gaps if (spool.boot_epoch, seq) not in server.stored}
    lost_messages = [decode_up("up/event" if p[:1] == b"{" else "up/tel", p) for p in lost.values()]
    lost_samples = sum(m.window.ok for m in lost_messages if not isinstance(m, Event))
    stored_samples = sum(m.window.ok for m in server.messages.values() if not isinstance(m, Event))
    assert stored_samples + lost_samples + status.dropped_samples == samples
    EXPLORED.update(
        stories=1,
        rows=len(handed_out),
        starts=len(opened),
        dropped_unsent=int(status.dropped > len(server.gaps)),
        dropped_sent=int(bool(server.gaps)),
    )
    if status.dropped == 0:
        assert sorted(arrived) == list(range(events))
    for each in opened:
        each.close()


def test_what_was_explored():
    print("explored:", dict(EXPLORED))
    assert all(EXPLORED[what] for what in ("dropped_unsent", "dropped_sent", "merged", "starts"))
