"""What expires, when somebody is told, and signing it again in one go."""

from __future__ import annotations

import pytest

from bundles.errors import AskPerson
from bundles.trust.drafting.expiry import Deadline, expiring, level_of
from bundles.trust.drafting.renewal import renew, renew_all_due
from bundles.trust.publishing.state import state_expiries

DAY_MS = 86_400_000
NOW = 1_800_000_000_000
TARGETS = ("targets-1", "targets-2")


@pytest.mark.parametrize(
    ("days", "level"),
    [
        (60, "60d"),
        (31, "60d"),
        (30, "30d"),
        (8, "30d"),
        (7, "7d"),
        (2, "7d"),
        (1, "1d"),
        (0.1, "1d"),
        (0, "expired"),
        (-9, "expired"),
    ],
)
def test_level_rises_as_time_runs_out(days, level):
    at = NOW + int(days * DAY_MS)
    [entry] = expiring({"root": at}, NOW)
    assert (entry.level, entry.days_left, level_of(at, NOW)) == (level, int(days // 1), level)


def test_what_has_time_left_is_not_named():
    assert expiring({"root": NOW + 61 * DAY_MS}, NOW) == []
    [entry] = expiring({"root": NOW + 61 * DAY_MS}, NOW, warn_s=90 * 86_400)
    assert entry.level == "60d"


def test_soonest_comes_first_with_the_command_that_mends_it():
    extra = {"device CA": Deadline(NOW + 5 * DAY_MS, "wavegate identity rotate device-ca")}
    found = expiring({"root": NOW + 40 * DAY_MS, "team-vision": NOW - 1}, NOW, extra=extra, place="https://server:8443")
    assert [(entry.role, entry.level) for entry in found] == [
        ("team-vision", "expired"),
        ("device CA", "7d"),
        ("root", "60d"),
    ]
    assert found[0].command == (
        "wavegate trust renew --role team-vision --metadata https://server:8443 --root root.json "
        "--out renew-team-vision"
    )
    assert expiring({"root": NOW}, NOW, place="data")[0].command == (
        "wavegate trust renew --role root --metadata data --out renew-root"
    )
    assert found[1].command == "wavegate identity rotate device-ca"


@pytest.mark.parametrize(("age_days", "named"), [(0, False), (2.9, False), (3, True), (13.5, True)])
def test_timestamp_is_named_when_the_server_missed_three_signatures(age_days, named):
    expires = NOW + int((14 - age_days) * DAY_MS)
    found = expiring({"timestamp": expires}, NOW)
    assert [entry.command for entry in found] == (["wavegate server run"] if named else [])


def test_healthy_online_roles_are_never_named(estate):
    for _ in range(60):
        estate.repository.resign()
        assert expiring(estate.repository.expiries(), estate.clock()) == []
        estate.clock.pass_days(1)


def test_everything_due_is_renewed_in_one_event_with_the_same_content(estate):
    assert renew_all_due(estate.state(), estate.clock()).drafts == {}
    estate.clock.pass_days(310)
    estate.repository.resign()
    due = {entry.role for entry in expiring(estate.repository.expiries(), estate.clock())}
    assert due == {"root", "targets"}
    before = estate.state()
    renewal = renew_all_due(before, estate.clock())
    assert sorted(renewal.drafts) == ["2.root.json", "2.targets.json"]
    assert len(renewal.words) == 2
    assert "becomes version 2" in renewal.words[0]
    estate.publish(renewal.drafts, "root-1", "root-2", *TARGETS)
    assert expiring(estate.repository.expiries(), estate.clock()) == []
    after = estate.state()
    assert after.targets.delegations == before.targets.delegations
    assert after.root.roles == before.root.roles
    estate.accepted(estate.first)


def test_even_what_expired_long_ago_is_renewed(estate):
    estate.clock.pass_days(800)
    estate.repository.resign()
    renewal = renew_all_due(estate.state(), estate.clock())
    assert {name.partition(".")[2] for name in renewal.drafts} == {
        "root.json",
        "targets.json",
        "team-vision.json",
        "team-audio.json",
    }
    assert all("expired since" in word for word in renewal.words)
    estate.publish(renewal.drafts, "root-1", "root-2", *TARGETS, "team-vision", "team-audio")
    estate.accepted(estate.first)


def test_online_and_unwritten_roles_are_not_for_people_to_renew(estate):
    for role in ("timestamp", "snapshot", "director", "team-none"):
        with pytest.raises(AskPerson) as caught:
            renew(estate.state(), [role], estate.clock())
        assert caught.value.code == "TRUST_CEREMONY"
    assert "director" not in state_expiries(estate.state())
