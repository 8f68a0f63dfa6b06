"""How values read on a page: ages, spans, numbers, and the tone each word of the product is shown in.

A tone is colour only; the word itself is always shown beside it.
"""

from __future__ import annotations

from datetime import UTC, datetime

SECOND, MINUTE, HOUR, DAY = 1.0, 60.0, 3_600.0, 86_400.0
SHORT_DIGITS = 12

TONES: dict[str, str] = {
    # rollouts
    "pending_approval": "warn",
    "scheduled": "busy",
    "running": "busy",
    "paused": "warn",
    "halted": "bad",
    "completed": "ok",
    "rollback_incomplete": "bad",
    # waves
    "offering": "busy",
    "soaking": "busy",
    "held": "warn",
    "promoted": "ok",
    # devices, in a rollout and by their own word
    "queued": "idle",
    "offered": "soon",
    "accepted": "busy",
    "downloading": "busy",
    "verified": "busy",
    "staged": "busy",
    "shadowing": "busy",
    "activating": "busy",
    "probation": "busy",
    "confirmed": "ok",
    "deferred": "warn",
    "failed": "bad",
    "rolled_back_local": "bad",
    "unresponsive": "bad",
    "regressed": "bad",
    "rolling_back": "back",
    "rolled_back": "back",
    "enrolled": "ok",
    "pending": "warn",
    "revoked": "bad",
    # gates
    "pass": "ok",
    "fail": "bad",
    "inconclusive": "warn",
    "no_data": "warn",
    "env_shift": "warn",
    # bundles
    "registered": "soon",
    "approved": "ok",
    "production": "ok",
    # what expires
    "60d": "soon",
    "30d": "warn",
    "7d": "bad",
    "1d": "bad",
    "expired": "bad",
    # alerts
    "critical": "bad",
    "warning": "warn",
    "watch": "soon",
    "firing": "bad",
    "acknowledged": "warn",
    "resolved": "ok",
}


def tone(word: str) -> str:
    """Return the tone of a state's name; unknown words are neutral."""
    return TONES.get(word, "idle")


def words(name: str) -> str:
    """Return a stored name as people read it."""
    return name.replace("_", " ")


def span(seconds: float) -> str:
    """Return a length of time in its largest sensible unit, such as ``12 s`` or ``3 h``."""
    seconds = max(0.0, float(seconds))
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def ago(at_ms: int | None, now_ms: int) -> str:
    """Return how long ago ``at_ms`` was; ``never`` where it is None or 0."""
    if not at_ms:
        return "never"
    age_s = (now_ms - at_ms) / 1000
    return "now" if age_s < SECOND else f"{span(age_s)} ago"


def until(at_ms: int, now_ms: int) -> str:
    """Return how long it is until ``at_ms``."""
    return "now" if at_ms <= now_ms else f"in {span((at_ms - now_ms) / 1000)}"


def utc(at_ms: int) -> str:
    """Return ``at_ms`` as an ISO 8601 time in UTC, to the second."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def number(value: float | int | str) -> str:
    """Return a number with at most four significant digits; words as they are."""
    if isinstance(value, str | bool) or (isinstance(value, int) and abs(value) < 10**15):
        return str(value)
    return f"{value:.4g}"


def short(sha256: str) -> str:
    """Return the first digits of a digest."""
    return sha256[:SHORT_DIGITS]
