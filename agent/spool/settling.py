"""What becomes of rows that were sent: the ack that lets them go, and the declaring of those that will never come."""

from __future__ import annotations

from typing import Any

from agent.spool.file import Db
from agent.spool.room import insert_waiting
from bundles.errors import MessageRefused
from bundles.wire import codec, topics
from bundles.wire.messages import Ack, Event

DROPPED_EVENT = "spool_dropped"
DAMAGED_EVENT, DAMAGED_CODE = "degraded", "SPOOL_DAMAGED"
DECLARED, GONE_AFTER_ACK = 1, 2
"""States of a dropped number; 0 = to be declared. The last is one asked for again after its ack: by a control plane
that lost it, or by an old ack that comes late."""


def take_ack(db: Db, ack: Ack) -> int:
    """Delete what is stored and was sent, make due what is missing; return how many rows went."""
    missing = set(ack.missing)
    stored = {seq for (seq,) in db.execute("SELECT seq FROM sent WHERE seq <= ?", (ack.upto_seq,))} | set(ack.also)
    gone = 0
    for seq in stored - missing:
        gone += db.execute("DELETE FROM sent WHERE seq = ?", (seq,)).rowcount
    for table in ("dropped", "dropped_samples"):  # a row that did arrive before it was dropped needs no declaring
        db.execute(f"DELETE FROM {table} WHERE seq <= ?", (ack.upto_seq,))
    last = db.last_seq()
    for seq in missing:
        is_held = db.execute("UPDATE sent SET due_ms = 0 WHERE seq = ?", (seq,)).rowcount
        if not is_held and ack.upto_seq < seq <= last:
            # Acked once and lost by the control plane, or an old ack that comes late: say that it will not come.
            db.execute("INSERT OR IGNORE INTO dropped (seq, is_declared) VALUES (?, ?)", (seq, GONE_AFTER_ACK))
    return gone


def is_row(leaf: str, payload: bytes, epoch: str, seq: int) -> bool:
    """Whether these bytes are still a message of that number; if not, no control plane would ever ack them."""
    try:
        message = codec.decode_up(leaf, payload)
    except MessageRefused:
        return False
    return (getattr(message, "boot_epoch", ""), getattr(message, "seq", 0)) == (epoch, seq)


def tell_of_itself(db: Db, device: str, epoch: str, now_ms: int) -> None:
    """Queue an event for each run of dropped sequence numbers, one for what was dropped unsent, one for damage."""

    def tell(kind: str, code: str, detail: str, data: dict[str, Any]) -> None:
        event = Event(device, "", 0, "", now_ms, kind, code=code, detail=detail, data=data)
        insert_waiting(db, topics.UP_EVENT, codec.encode(event), is_kept=True)

    if damage := db.value("SELECT value FROM meta WHERE key = 'damage'"):
        detail = f"The spool was set aside and begun anew: {damage}. Reports that were not sent are lost."
        tell(DAMAGED_EVENT, DAMAGED_CODE, detail, {"boot_epoch": epoch})
        db.execute("DELETE FROM meta WHERE key = 'damage'")
    unsent, samples = db.tally("undeclared"), db.tally("undeclared_samples")
    runs: list[tuple[int, int, list[int]]] = []  # (why, first number, requests of each row)
    for seq, why, counted in db.execute(
        f"SELECT seq, is_declared, samples FROM dropped LEFT JOIN dropped_samples USING (seq) "
        f"WHERE is_declared <> {DECLARED} ORDER BY seq"
    ):
        if runs and runs[-1][0] == why and seq == runs[-1][1] + len(runs[-1][2]):
            runs[-1][2].append(counted or 0)
        else:
            runs.append((why, seq, [counted or 0]))
    if unsent and not runs:
        runs.append((0, 0, []))
    for why, seq, each in runs:
        data = {"boot_epoch": epoch, "seq": seq, "n": len(each), "unsent": unsent, "samples": samples}
        code = "SPOOL_ACKED" if why == GONE_AFTER_ACK else "SPOOL_FULL"
        tell(DROPPED_EVENT, code, "", {**data, "each": each} if any(each) else data)
        unsent = samples = 0
    if runs:
        db.execute(f"UPDATE dropped SET is_declared = {DECLARED}")
        db.execute("DELETE FROM dropped_samples")
        db.execute("DELETE FROM meta WHERE key IN ('undeclared', 'undeclared_samples')")
