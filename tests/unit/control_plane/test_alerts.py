import msgspec
import pytest

from control_plane.core.alerts import COOLDOWN_MS, Alert, Finding, Notify, Resolved, fingerprint, observe

LABELS = {"alert": "drift", "model": "t/m", "version": "1.0.0", "cohort": "canary", "feature": "sharpness"}
HOUR = 3_600_000


def finding(at, *, firing=True, value=1.0, severity="warning"):
    return Finding(
        labels=LABELS,
        is_firing=firing,
        severity=severity,
        value=value,
        sentence="sharpness moved",
        window_end_ms=at,
    )


def play(*findings, alert=None):
    """Fold findings, each judged the moment its window ended; return the alert and the effects of each."""
    told = []
    for one in findings:
        alert, effects = observe(alert, one, one.window_end_ms)
        told.append(effects)
    return alert, told


def reasons(told):
    return [[e.reason if isinstance(e, Notify) else "resolved" for e in effects] for effects in told]


def test_fingerprint_is_that_of_the_labels_in_any_order():
    assert fingerprint(LABELS) == fingerprint(dict(reversed(LABELS.items())))
    assert fingerprint(LABELS) != fingerprint({**LABELS, "feature": "brightness"})


def test_a_clear_window_about_nothing_stores_nothing():
    assert play(finding(1, firing=False)) == (None, [()])


def test_an_alert_is_told_once_and_then_kept_quiet_and_counted():
    alert, told = play(*(finding(HOUR * h) for h in range(1, 6)))
    assert reasons(told) == [["new"], [], [], [], []]
    assert (alert.is_firing, alert.suppressed, alert.told_ms) == (True, 4, HOUR)


def test_an_alert_that_still_fires_is_told_again_after_the_cooldown():
    _, told = play(finding(HOUR), finding(HOUR + COOLDOWN_MS - 1), finding(HOUR + COOLDOWN_MS))
    assert reasons(told) == [["new"], [], ["still_firing"]]
    assert told[2][0].alert.suppressed == 1


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ({"value": 1.9}, []),
        ({"value": 2.0}, ["worse"]),
        ({"severity": "critical"}, ["worse"]),
        ({"severity": "watch"}, []),
    ],
)
def test_only_what_worsens_is_told_within_the_cooldown(then, expected):
    _, told = play(finding(HOUR), finding(2 * HOUR, **then))
    assert reasons(told)[1] == expected


def test_worsening_is_held_against_what_was_told_last():
    _, told = play(*(finding(HOUR * h, value=1.5**h) for h in range(1, 6)))
    assert reasons(told) == [["new"], [], ["worse"], [], ["worse"]]


def test_an_alert_resolves_after_three_clear_windows_in_a_row():
    alert, told = play(
        finding(1),
        finding(2, firing=False),
        finding(3, firing=False),
        finding(4),
        finding(5, firing=False),
        finding(6, firing=False),
        finding(7, firing=False),
        finding(8, firing=False),
    )
    assert reasons(told) == [["new"], [], [], [], [], [], ["resolved"], []]
    assert (alert.is_firing, alert.resolved_ms) == (False, 7)


def test_a_relapse_within_the_cooldown_is_quiet_from_beginning_to_end():
    clear = [finding(t, firing=False) for t in (2, 3, 4)]
    alert, told = play(finding(1), *clear, finding(5), *(finding(t, firing=False) for t in (6, 7, 8)))
    assert reasons(told) == [["new"], [], [], ["resolved"], [], [], [], []]
    assert (alert.suppressed, alert.is_firing) == (1, False)


def test_a_relapse_after_the_cooldown_is_new():
    clear = [finding(t, firing=False) for t in (2, 3, 4)]
    _, told = play(finding(1), *clear, finding(2 + COOLDOWN_MS))
    assert reasons(told)[-1] == ["new"]


def test_the_same_window_again_changes_nothing():
    first, _ = play(finding(HOUR))
    for again in (finding(HOUR), finding(HOUR, firing=False), finding(HOUR - 1, value=99.0)):
        assert observe(first, again, 2 * HOUR) == (first, ())


def test_a_finding_about_something_else_is_refused():
    alert, _ = play(finding(1))
    other = msgspec.structs.replace(finding(2), labels={**LABELS, "feature": "brightness"})
    with pytest.raises(ValueError, match="not about"):
        observe(alert, other, 2)


def test_state_is_plain_and_survives_the_database():
    alert, told = play(finding(1), finding(2))
    assert msgspec.json.decode(msgspec.json.encode(alert), type=Alert) == alert
    assert isinstance(told[0][0], Notify)
    assert not any(isinstance(e, Resolved) for effects in told for e in effects)
