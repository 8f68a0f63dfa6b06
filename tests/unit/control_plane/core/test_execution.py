"""One device's reports and silence: what they mean, and what they do not."""

import json
from dataclasses import replace

import pytest

from bundles.wire.messages import ModelReported, Reported
from control_plane.core.execution import (
    DeviceReport,
    Execution,
    deadline_ms,
    decode_execution,
    encode_execution,
    expire,
    observe_device,
    offer,
    report_of,
    roll_back,
    withdraw,
)
from control_plane.core.policy import Deadlines
from control_plane.core.states import MOVES, DeviceState

S = DeviceState
NEW, OLD = "b" * 64, "a" * 64
DEADLINES = Deadlines(accept_s=8, download_s=10, activate_s=10, probation_s=9)
BEATS = iter(range(1, 1_000_000))


def report(at_ms, active=OLD, phase="idle", gen=5, **fields):
    fields.setdefault("target_sha256", NEW)
    return DeviceReport(gen, active, at_ms, phase, session=1, beat=next(BEATS), **fields)


def offered(at_ms=0):
    return offer(Execution(target_sha256=NEW, previous_sha256=OLD), 5, at_ms)


def see(row, *reports):
    for one in reports:
        row = observe_device(row, one, probation_s=3)
    return row


def confirmed():
    row = see(
        offered(), report(1000, phase="downloading"), report(2000, NEW, "probation"), report(6000, NEW, "confirmed")
    )
    assert row.state is S.CONFIRMED
    return row


def test_a_device_passes_through_its_stages():
    row, states = offered(), []
    for at_ms, active, phase in [
        (1000, OLD, "accepted"),
        (2000, OLD, "downloading"),
        (3000, OLD, "verified"),
        (4000, OLD, "staged"),
        (5000, OLD, "activating"),
        (6000, NEW, "probation"),
        (7000, NEW, "probation"),
        (9000, NEW, "confirmed"),
    ]:
        row = see(row, report(at_ms, active, phase))
        states.append(row.state)
    assert states == [
        S.ACCEPTED,
        S.DOWNLOADING,
        S.VERIFIED,
        S.STAGED,
        S.ACTIVATING,
        S.PROBATION,
        S.PROBATION,
        S.CONFIRMED,
    ]
    assert row.accepted_at_ms == 1000
    assert row.matches == 3


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([(1000, NEW, "confirmed")], S.PROBATION),  # once is not enough
        ([(1000, NEW, "confirmed"), (3900, NEW, "confirmed")], S.PROBATION),  # nor too soon
        ([(1000, NEW, "confirmed"), (4000, NEW, "confirmed")], S.CONFIRMED),
        ([(1000, NEW, "probation"), (4000, NEW, "probation")], S.PROBATION),  # the device itself is not sure
        ([(1000, OLD, "confirmed"), (9000, OLD, "confirmed")], S.ACCEPTED),  # its word alone
        ([(1000, NEW, "idle"), (2000, OLD, "idle"), (4000, NEW, "idle")], S.PROBATION),  # A -> B -> A
        ([(1000, NEW, "idle"), (2000, OLD, "idle"), (4000, NEW, "idle"), (7000, NEW, "idle")], S.CONFIRMED),
    ],
)
def test_success_is_the_digest_in_two_heartbeats_a_probation_apart(reports, expected):
    assert see(offered(), *(report(*one) for one in reports)).state is expected


@pytest.mark.parametrize(
    ("phase", "reason", "expected"),
    [
        ("failed", "golden_mismatch", S.FAILED),
        ("failed", "something_new", S.FAILED),
        ("failed", "", S.FAILED),
        ("rolled_back", "health", S.ROLLED_BACK_LOCAL),
        ("failed", "disk", S.DEFERRED),
        ("failed", "transport", S.DEFERRED),
        ("rolled_back", "power", S.DEFERRED),
        ("deferred", "user", S.DEFERRED),
    ],
)
def test_only_reasons_of_the_model_blame_the_release(phase, reason, expected):
    row = see(offered(), report(1000, OLD, phase, reason=reason))
    assert row.state is expected


def test_old_repeated_and_overtaken_reports_change_nothing():
    late = report(1500, OLD, "downloading")
    row = confirmed()
    assert see(row, replace(late, at_ms=9000)) is row
    same = report(9000, NEW, "confirmed")
    assert see(row, same, same) is row
    before_the_offer = report(1000, NEW, "confirmed", gen=4)
    assert see(offered(), before_the_offer) == offered()


def test_a_failure_of_another_instruction_is_not_ours():
    row = see(offered(), report(1000, OLD, "failed", target_sha256="c" * 64, reason="health"))
    assert row.state is S.ACCEPTED


def test_a_confirmed_device_that_loses_the_digest_regressed():
    row = see(confirmed(), report(8000, OLD, "idle"))
    assert row.state is S.CONFIRMED, "one stray heartbeat is no regression"
    assert see(row, report(9000, NEW, "idle")).mismatch_at_ms == 0
    assert see(row, report(12_000, OLD, "idle")).state is S.REGRESSED
    assert see(confirmed(), report(8000, OLD, "rolled_back", reason="health")).state is S.REGRESSED


@pytest.mark.parametrize(
    ("reports", "at_ms", "last_seen_ms", "going", "state", "reason"),
    [
        ([], 7999, 0, False, S.OFFERED, ""),
        ([], 8000, -60_000, False, S.DEFERRED, "offline"),
        ([], 8000, 7000, False, S.DEFERRED, "not_accepted"),
        ([(1000, OLD, "accepted")], 10_999, 1000, False, S.ACCEPTED, ""),
        ([(1000, OLD, "accepted")], 11_000, 1000, False, S.UNRESPONSIVE, "deadline"),
        ([(1000, OLD, "accepted")], 11_000, 1000, True, S.DEFERRED, "offline"),
        ([(1000, OLD, "downloading")], 11_000, 10_500, False, S.DEFERRED, "transport"),
        ([(1000, OLD, "staged")], 11_000, 1000, False, S.UNRESPONSIVE, "deadline"),
        ([(1000, OLD, "staged"), (9000, OLD, "activating")], 11_000, 10_500, False, S.FAILED, "deadline"),
        ([(1000, NEW, "probation")], 10_000, 9500, False, S.FAILED, "deadline"),
        ([(1000, NEW, "probation")], 10_000, 1000, True, S.UNRESPONSIVE, "deadline"),
    ],
)
def test_silence_and_delay_at_each_stage(reports, at_ms, last_seen_ms, going, state, reason):
    row = see(offered(), *(report(*one) for one in reports))
    row = expire(row, DEADLINES, at_ms, last_seen_ms=last_seen_ms, heartbeat_s=1, said_going_offline=going)
    assert (row.state, row.reason) == (state, reason)


def test_every_state_that_waits_has_a_deadline():
    for state in DeviceState:
        row = replace(offered(), state=state, accepted_at_ms=1, staged_at_ms=1, stage_at_ms=1)
        waits = state in (S.OFFERED, *list(DeviceState)[2:9])
        assert (deadline_ms(row, DEADLINES) is not None) == waits, state


def test_a_slow_download_cannot_hold_the_wave_a_second_time():
    row = expire(
        see(offered(), report(1000, OLD, "downloading")), DEADLINES, 11_000, last_seen_ms=10_900, heartbeat_s=1
    )
    assert row.state is S.DEFERRED
    assert see(row, report(12_000, OLD, "downloading")).state is S.DEFERRED
    assert see(row, report(12_000, OLD, "staged")).state is S.STAGED


def test_a_device_that_comes_back_takes_the_standing_offer():
    row = expire(offered(), DEADLINES, 8000, last_seen_ms=0, heartbeat_s=1)
    assert row.reason == "offline"
    row = see(row, report(500_000, OLD, "downloading"))
    assert (row.state, row.accepted_at_ms) == (S.DOWNLOADING, 500_000)


def test_a_silent_device_that_was_well_all_along_is_counted_as_well():
    row = expire(see(offered(), report(1000, OLD, "accepted")), DEADLINES, 11_000, last_seen_ms=1000, heartbeat_s=1)
    assert row.state is S.UNRESPONSIVE
    row = see(row, report(20_000, NEW, "probation"), report(24_000, NEW, "confirmed"))
    assert row.state is S.CONFIRMED


def test_withdrawing_recalls_only_offers_nobody_took():
    assert withdraw(offered(), 1000).state is S.QUEUED
    accepted = see(offered(), report(1000, OLD, "accepted"))
    assert withdraw(accepted, 2000) is accepted


def test_roll_back_is_believed_when_the_previous_digest_is_seen_at_the_new_generation():
    row = roll_back(confirmed(), 6, 10_000)
    assert (row.state, row.outcome) == (S.ROLLING_BACK, "confirmed")
    row = see(row, report(11_000, OLD, "confirmed", gen=5))
    assert row.state is S.ROLLING_BACK, "not of this generation"
    row = see(row, report(12_000, NEW, "confirmed", gen=6))
    assert row.state is S.ROLLING_BACK
    assert see(row, report(13_000, OLD, "confirmed", gen=6)).state is S.ROLLED_BACK


def test_rolling_back_a_first_release_ends_with_nothing_running():
    first = replace(confirmed(), previous_sha256="")
    row = see(roll_back(first, 6, 10_000), report(11_000, "", "idle", gen=6, target_sha256=""))
    assert row.state is S.ROLLED_BACK


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (S.QUEUED, S.CANCELED),
        (S.OFFERED, S.CANCELED),
        (S.DEFERRED, S.CANCELED),
        (S.DOWNLOADING, S.ROLLING_BACK),
        (S.FAILED, S.ROLLING_BACK),
        (S.UNRESPONSIVE, S.ROLLING_BACK),
        (S.SKIPPED, S.SKIPPED),
        (S.ROLLED_BACK, S.ROLLED_BACK),
    ],
)
def test_roll_back_by_state(state, expected):
    row = roll_back(replace(offered(), state=state), 6, 9000)
    assert row.state is expected
    assert roll_back(row, 7, 9500) is row or row.state not in (S.ROLLING_BACK, S.CANCELED)


def test_a_canceled_device_found_on_the_halted_bundle_is_brought_back_too():
    row = roll_back(offered(500), 6, 9000)
    assert row.state is S.CANCELED
    row = see(row, report(10_000, NEW, "confirmed", gen=6))
    assert row.state is S.ROLLING_BACK
    assert see(row, report(11_000, OLD, "confirmed", gen=6)).state is S.ROLLED_BACK


def test_a_device_never_offered_is_never_observed():
    row = Execution(target_sha256=NEW, previous_sha256=OLD)
    assert see(row, report(1000, NEW, "confirmed")) is row


def test_moves_of_rows_are_legal_moves_of_tallies():
    rows = [offered(), confirmed(), see(offered(), report(1, OLD, "downloading")), roll_back(confirmed(), 6, 7000)]
    for row in rows:
        for active in (OLD, NEW):
            for phase in (
                "idle",
                "downloading",
                "staged",
                "probation",
                "confirmed",
                "failed",
                "rolled_back",
                "deferred",
            ):
                after = see(row, report(60_000, active, phase, gen=6, reason="x"))
                assert after.state is row.state or after.state in MOVES[row.state]


def test_rows_survive_storing():
    row = confirmed()
    assert decode_execution(json.loads(json.dumps(encode_execution(row)))) == row


def test_a_heartbeat_becomes_a_report():
    said = ModelReported(sha256=OLD, phase="failed", target_sha256=NEW, reason="oom", attempt=2)
    beat = Reported("d", "0" * 16, 3, 17, at_ms=1, uptime_ms=1, gen=9, models={"team/model": said})
    assert report_of(beat, "team/model", 77) == DeviceReport(9, OLD, 77, "failed", NEW, "oom", 2, 3, 17)
    assert report_of(beat, "team/other", 77).active_sha256 == ""
