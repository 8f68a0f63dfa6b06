"""A device that writes reports into its spool and sends them, for the recorder.

``python -m powercut.spooling SPOOL ROWS``: what was handed out is pickled into ``ROWS`` in the end.

Marks say what the spool promised: ``event N`` and ``window N`` are queued, ``handed SEQ...`` may have reached the
control plane, ``ack SEQ`` may be let go.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from agent.spool import Spool
from agent.spool.spool import SpoolRow
from bundles.sketch.form import ColumnCounts, LatencyHistogram, Window
from bundles.wire.messages import Ack
from powercut.tracing import mark

DEVICE = "cam-1"
NOW_MS = 1_800_000_000_000


def window(n: int) -> Window:
    """Return a window that counted 2^n requests, so that a sum tells which windows are in it."""
    ok = 1 << n
    return Window(
        model="vision/digits",
        bundle_sha256="b" * 64,
        version="1.0.0",
        variant="onnx",
        baseline_id="c" * 64,
        start_ms=NOW_MS + 5_000 * n,
        end_ms=NOW_MS + 5_000 * (n + 1),
        ok=ok,
        classes=[ok, 0],
        latency=LatencyHistogram(offset=3, counts=[ok], n=ok, sum_us=ok * 100),
        columns={f"column {i}": ColumnCounts(counts=[ok - 1, 1], n=ok) for i in range(24)},
    )


def hand_out(spool: Spool, limit: int, sent: dict[int, SpoolRow]) -> int:
    """Take a batch to send; return its highest number."""
    rows = spool.next_batch(NOW_MS, limit)
    mark("handed " + " ".join(str(row.seq) for row in rows))
    sent.update({row.seq: row for row in rows})
    return max(row.seq for row in rows)


def main() -> None:
    """See the module's docstring."""
    mark("begin")
    spool, sent = Spool(sys.argv[1], DEVICE), {}
    for n in range(8):
        spool.add_event("phase", at_ms=NOW_MS, data={"n": n})
        mark(f"event {n}")
        if n % 2:
            spool.add_window(window(n))
            mark(f"window {n}")
        if n in (2, 4, 7):
            seq = hand_out(spool, 3, sent)
            if n != 4:  # the second batch waits for its ack
                mark(f"ack {seq}")
                spool.acked(Ack(spool.boot_epoch, seq))
    spool.close()
    mark("end")
    Path(sys.argv[2]).write_bytes(pickle.dumps(sent))


if __name__ == "__main__":
    main()
