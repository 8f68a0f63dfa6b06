"""The server's side over time: keys that change, crashes while they do, a signer that was down."""

from __future__ import annotations

import pytest

from bundles.errors import AskPerson
from bundles.trust.drafting import rotation
from bundles.trust.drafting.drafts import Keys
from bundles.trust.publishing import journal
from bundles.trust.publishing.repository import OnlineRepository

ROOTS, TARGETS = ("root-1", "root-2"), ("targets-1", "targets-2")


class Crash(BaseException):
    """The power goes: no handler of ours sees it."""


def everything(estate):
    return {path.name: path.read_bytes() for path in estate.metadata.iterdir()}


def switch(estate):
    """Give the server its next keys and return the signed event that names them, with other targets keys besides."""
    snapshot, timestamp = estate.new("snapshot-2", "timestamp-2")
    for role in ("snapshot", "timestamp"):
        estate.online[role].append(estate.keys[f"{role}-2"])
    estate.reopen()
    now = estate.clock()
    drafts = rotation.rotate_targets(estate.state(), Keys(estate.new("targets-3", "targets-4"), 2), now)
    online = rotation.rotate_online(estate.state(), snapshot, timestamp, now)["2.root.json"].signed
    root = drafts["2.root.json"].signed
    for role in ("snapshot", "timestamp"):
        root.keys |= {keyid: online.keys[keyid] for keyid in online.roles[role].keyids}
        root.roles[role] = online.roles[role]
    return estate.signed(drafts, *ROOTS, "targets-3", "targets-4")


def break_off(monkeypatch, after, error):
    """Let the disk take ``after`` more files of a publication with roots."""
    left, write = [after], journal.write_durably

    def failing(path, data, **options):
        if not left[0]:
            raise error
        left[0] -= 1
        write(path, data, **options)

    monkeypatch.setattr(journal, "write_durably", failing)


@pytest.mark.parametrize("written", range(6))
def test_crash_while_roots_and_online_keys_change_leaves_old_or_new(estate, monkeypatch, written):
    event, before = switch(estate), estate.repository.timestamp_version
    with monkeypatch.context() as patched:
        break_off(patched, written, Crash())
        if written < 5:
            with pytest.raises(Crash):
                estate.repository.publish(event)
        else:
            estate.repository.publish(event)
    estate.reopen()
    done = written > 0  # from the journal on it is settled
    assert estate.repository.timestamp_version == before + done
    assert (estate.repository.signing_keys["timestamp"] == estate.keyid("timestamp-2")) == done
    estate.accepted(estate.first)
    assert bool(estate.repository.publish(event).names) != done
    estate.accepted(estate.first)
    assert not (estate.metadata / journal.JOURNAL).exists()


@pytest.mark.parametrize("written", range(5))
def test_disk_that_fills_up_in_between_is_made_good_by_the_same_server(estate, monkeypatch, written):
    event = switch(estate)
    with monkeypatch.context() as patched:
        break_off(patched, written, OSError(28, "No space left on device"))
        with pytest.raises(OSError, match="No space"):
            estate.repository.publish(event)
    estate.repository.resign(force=True)
    estate.accepted(estate.first)
    estate.repository.publish(event)
    estate.accepted(estate.first)
    assert estate.repository.signing_keys["snapshot"] == estate.keyid("snapshot-2")


def test_server_without_the_key_that_root_names_does_not_open(estate):
    estate.repository.publish(switch(estate))
    estate.online = {"snapshot": estate.some("snapshot"), "timestamp": estate.some("timestamp")}
    with pytest.raises(AskPerson) as caught:
        estate.reopen()
    assert caught.value.code == "TRUST_REPOSITORY"


def test_one_signer_or_a_ring_of_them(estate):
    alone = OnlineRepository(estate.metadata, estate.keys["snapshot"], estate.keys["timestamp"], estate.clock)
    assert alone.signing_keys == estate.repository.signing_keys


def test_signer_that_was_down_for_ten_days_goes_on(estate):
    """Devices have seen it coming for days and nothing has expired yet."""
    device = estate.device()
    estate.clock.pass_days(10)
    summary = device.refresh(estate.clock())
    assert summary.age_s == 10 * 86_400 < summary.life_s
    assert estate.repository.resign()
    for device in estate.accepted(estate.first):
        assert device.summary(estate.clock()).age_s == 0


def test_signer_that_was_down_for_so_long_that_all_it_signs_expired_goes_on(estate):
    estate.clock.pass_days(40)
    with pytest.raises(Exception, match="expired"):
        estate.device().refresh(estate.clock())
    assert estate.repository.resign()
    estate.accepted(estate.first)
    estate.accepted(estate.release("2.0.0", 2))


def test_daily_signature_is_made_on_schedule_and_not_more_often(estate):
    versions = []
    for _ in range(48):
        estate.clock.pass_days(0.25)
        estate.repository.resign()
        versions.append(estate.repository.timestamp_version)
    assert versions[-1] - versions[0] == 11 + (versions[0] != versions[3])
    estate.accepted(estate.first)
