"""The state of one alert: when to tell somebody, when to keep quiet, when it is over.

``observe`` is pure: state and a finding in, state and effects out. An alert is known by the fingerprint of its
labels. It is told when it starts and when it worsens, and otherwise at most once in 24 hours; it resolves after three
clear windows in a row. Quiet repeats are counted, so that nothing is suppressed without a trace. Leaves grouping,
silences and delivery to the shell, and judging what is a finding to ``drift`` and ``slo``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from bundles.digest import canonical_json, sha256_hex

COOLDOWN_MS = 24 * 3_600_000
CLEAR_WINDOWS = 3
WORSE_RATIO = 2.0
"""An alert has worsened when its severity rose, or its value is at least this many times the value last told."""

Severity = Literal["watch", "warning", "critical"]
_RANK: dict[Severity, int] = {"watch": 0, "warning": 1, "critical": 2}


class Finding(msgspec.Struct, frozen=True):
    """What one window says about one alert.

    Attributes:
        labels: what the alert is about (``alert``, ``model``, ``version``, ``cohort``, ``feature``).
        is_firing: whether the condition holds in this window. A window that could not be judged makes no finding.
        severity: how bad, while firing.
        value: size of the effect, comparable between findings of one alert.
        sentence: what happened, for people.
        window_end_ms: end of the window judged, UTC epoch ms; findings that are not newer than the last change nothing.
    """

    labels: dict[str, str]
    is_firing: bool
    severity: Severity
    value: float
    sentence: str
    window_end_ms: int


class Alert(msgspec.Struct, frozen=True):
    """One alert as it is stored; every field is a plain value.

    Attributes:
        fingerprint: see ``fingerprint``.
        labels: what it is about.
        is_firing: False once resolved.
        severity: of the latest firing finding.
        sentence: of the latest firing finding.
        value: of the latest firing finding.
        started_ms: when it was seen to fire, the last time it began (the server's clock, as ``told_ms``).
        window_end_ms: end of the newest window seen.
        clear_windows: clear windows in a row since it last fired.
        told_ms: when somebody was last told that it fires; None = never.
        told_severity: severity told then.
        told_value: value told then.
        suppressed: firing windows that were not told since then.
        resolved_ms: when it resolved; None while firing.
    """

    fingerprint: str
    labels: dict[str, str]
    is_firing: bool
    severity: Severity
    sentence: str
    value: float
    started_ms: int
    window_end_ms: int
    clear_windows: int = 0
    told_ms: int | None = None
    told_severity: Severity = "watch"
    told_value: float = 0.0
    suppressed: int = 0
    resolved_ms: int | None = None


class Notify(msgspec.Struct, frozen=True):
    """Tell somebody that ``alert`` fires: it is new, it got worse, or it was told a cooldown ago."""

    alert: Alert
    reason: Literal["new", "worse", "still_firing"]


class Resolved(msgspec.Struct, frozen=True):
    """Tell those who were told that ``alert`` is over."""

    alert: Alert


Effect = Notify | Resolved


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return the identity of an alert: sha256 over its labels in canonical form."""
    return sha256_hex(canonical_json(dict(labels)))


def observe(
    alert: Alert | None, finding: Finding, now_ms: int, *, clear_windows: int = CLEAR_WINDOWS
) -> tuple[Alert | None, tuple[Effect, ...]]:
    """Fold one finding into an alert.

    Args:
        alert: the stored alert of these labels; None = none was ever stored.
        finding: what the newest window says.
        now_ms: UTC epoch ms; the cooldown runs on it.
        clear_windows: clear windows in a row after which it resolves; 1 where a finding is a fact and no measurement.

    Returns:
        The alert to store (None = still nothing to store) and what to tell. The same finding again changes nothing.

    Raises:
        ValueError: alert and finding have different labels.
    """
    if alert is not None:
        if alert.labels != finding.labels:
            raise ValueError(f"finding {finding.labels} is not about alert {alert.labels}")
        if finding.window_end_ms <= alert.window_end_ms:
            return alert, ()
    if finding.is_firing:
        return _fire(alert, finding, now_ms)
    if alert is None:
        return None, ()
    return _clear(alert, finding, now_ms, clear_windows)


def _fire(alert: Alert | None, finding: Finding, now_ms: int) -> tuple[Alert, tuple[Effect, ...]]:
    if alert is None:
        alert = Alert(
            fingerprint=fingerprint(finding.labels),
            labels=dict(finding.labels),
            is_firing=False,
            severity=finding.severity,
            sentence=finding.sentence,
            value=finding.value,
            started_ms=now_ms,
            window_end_ms=finding.window_end_ms,
        )
    alert = msgspec.structs.replace(
        alert,
        is_firing=True,
        severity=finding.severity,
        sentence=finding.sentence,
        value=finding.value,
        started_ms=alert.started_ms if alert.is_firing else now_ms,
        window_end_ms=finding.window_end_ms,
        clear_windows=0,
        resolved_ms=None,
    )
    reason = _reason_to_tell(alert, now_ms)
    if reason is None:
        return msgspec.structs.replace(alert, suppressed=alert.suppressed + 1), ()
    told = msgspec.structs.replace(
        alert, told_ms=now_ms, told_severity=alert.severity, told_value=alert.value, suppressed=0
    )
    # The notice carries the count of what was kept quiet before it.
    return told, (Notify(msgspec.structs.replace(told, suppressed=alert.suppressed), reason),)


def _reason_to_tell(alert: Alert, now_ms: int) -> Literal["new", "worse", "still_firing"] | None:
    if alert.told_ms is None:
        return "new"
    rose = _RANK[alert.severity] > _RANK[alert.told_severity]
    if rose or alert.value >= WORSE_RATIO * alert.told_value > 0:
        return "worse"
    if now_ms - alert.told_ms >= COOLDOWN_MS:
        return "still_firing" if alert.started_ms <= alert.told_ms else "new"
    return None


def _clear(alert: Alert, finding: Finding, now_ms: int, clear_windows: int) -> tuple[Alert, tuple[Effect, ...]]:
    alert = msgspec.structs.replace(alert, window_end_ms=finding.window_end_ms)
    if not alert.is_firing:
        return alert, ()
    alert = msgspec.structs.replace(alert, clear_windows=alert.clear_windows + 1)
    if alert.clear_windows < clear_windows:
        return alert, ()
    alert = msgspec.structs.replace(alert, is_firing=False, resolved_ms=now_ms)
    # Nobody hears of the end of what nobody was told began (a quick relapse within the cooldown).
    was_told = alert.told_ms is not None and alert.told_ms >= alert.started_ms
    return alert, (Resolved(alert),) if was_told else ()
