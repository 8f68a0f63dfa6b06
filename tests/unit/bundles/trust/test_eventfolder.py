from __future__ import annotations

import io
import json
import random
import zipfile

import pytest
from securesystemslib.signer import CryptoSigner

from bundles.errors import AskPerson, TrustRefused, WavegateError
from bundles.trust.drafting.drafts import Keys, encode_drafts
from bundles.trust.drafting.rotation import add_team
from bundles.trust.signing.base import event_state, fetch_base
from bundles.trust.signing.eventfolder import (
    MAX_FILES,
    Event,
    EventInfo,
    merge_events,
    new_event,
    read_event,
    unzip_event,
    write_event,
    zip_event,
)
from bundles.trust.signing.signatures import add_signatures, who_signs


def refused(code, action, *arguments):
    with pytest.raises(WavegateError) as caught:
        action(*arguments)
    assert caught.value.code == code
    assert caught.value.remedy


@pytest.fixture
def event(holders):
    """An unsigned event that adds a team whose two keys must both sign."""
    state, base = fetch_base(holders.fetch, holders.root)
    team = [CryptoSigner.generate_ecdsa(), CryptoSigner.generate_ed25519()]
    keys = Keys([signer.public_key for signer in team], 2)
    files = encode_drafts(add_team(state, "audio", keys, holders.now()))
    return new_event("delegate add", "for the new office", holders.now(), base, files), state, team


@pytest.mark.parametrize("name", ["event", "event.zip", "deeper/event", "deeper/event.zip"])
def test_what_is_written_is_read_again(tmp_path, event, name):
    event, _, _ = event
    write_event(event, tmp_path / name)
    assert read_event(tmp_path / name) == event
    write_event(event, tmp_path / name)
    assert read_event(tmp_path / name) == event
    assert event.info.base["root"] == 1
    assert set(event.base) >= {"timestamp.json", "1.root.json", "1.targets.json"}


def test_same_event_gives_the_same_zip(event):
    event, _, _ = event
    assert zip_event(event) == zip_event(unzip_event(zip_event(event)))


def test_folder_zipped_by_hand_is_read_too(tmp_path, event):
    event, _, _ = event
    write_event(event, tmp_path / "mail")
    with zipfile.ZipFile(tmp_path / "mail.zip", "w") as archive:
        for path in sorted((tmp_path / "mail").rglob("*")):
            archive.write(path, path.relative_to(tmp_path))
    assert read_event(tmp_path / "mail.zip") == event


def test_bare_metadata_as_the_first_release_wrote_it_is_an_event(tmp_path, event):
    event, _, _ = event
    for name, data in event.files.items():
        (tmp_path / name).write_bytes(data)
    found = read_event(tmp_path)
    assert (found.files, found.base) == (event.files, {})
    refused("TRUST_EVENT", event_state, found, b"")


def test_signatures_of_copies_add_up_in_any_order(event, holders):
    event, state, team = event
    targets = holders.keys["targets"]
    copies = [event.with_files(add_signatures(state, event.files, [one])) for one in (targets, *team)]
    seed = random.randrange(2**32)
    print("seed", seed)
    random.Random(seed).shuffle(copies)
    merged = event
    for copy in copies:
        merged = merge_events(merged, copy)
    assert all(signing.is_complete for signing in who_signs(state, merged.files))
    assert merge_events(merged, merged) == merged
    assert merge_events(merged, copies[0]) == merged
    assert not any(signing.is_complete for signing in who_signs(state, event.files))


def test_copies_that_differ_in_more_than_signatures_are_not_merged(event):
    event, _, _ = event
    other = json.loads(event.files["1.team-audio.json"])
    other["signed"]["x"] = 1
    refused(
        "TRUST_CONFLICT",
        merge_events,
        event,
        event.with_files({**event.files, "1.team-audio.json": json.dumps(other).encode()}),
    )
    refused("TRUST_CONFLICT", merge_events, event, event.with_files({"1.team-audio.json": b"{}"}))
    both = event.with_files(dict.fromkeys(event.files, b"{}"))
    refused("TRUST_EVENT", merge_events, both, both)


def test_base_is_believed_only_as_far_as_the_readers_own_root(event, holders, tmp_path):
    event, state, _ = event
    assert event_state(event, holders.root).targets == state.targets
    forged = json.loads(event.base["1.targets.json"])
    forged["signed"]["x-floors"] = {}
    forged["signed"]["version"] = 1
    forged["signed"]["expires"] = "2099-01-01T00:00:00Z"
    base = {**event.base, "1.targets.json": json.dumps(forged).encode()}
    refused("TRUST_EVENT_BASE", event_state, Event(event.info, event.files, base), holders.root)
    for name in ("timestamp.json", "1.targets.json", "1.team-vision.json"):
        rest = {key: data for key, data in event.base.items() if key != name}
        refused("TRUST_EVENT_BASE", event_state, Event(event.info, event.files, rest), holders.root)


def zipped(entries):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return stream.getvalue()


HEAD = ("event.json", b'{"kind": "x"}')
GOOD = ("2.targets.json", b"{}")


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([], "TRUST_EVENT"),
        ([HEAD], "TRUST_EVENT"),
        ([HEAD, GOOD, ("../2.targets.json", b"{}")], "TRUST_EVENT"),
        ([HEAD, GOOD, ("/etc/2.targets.json", b"{}")], "TRUST_EVENT"),
        ([HEAD, GOOD, ("base/../2.targets.json", b"{}")], "TRUST_EVENT"),
        ([HEAD, GOOD, ("base/deep/2.targets.json", b"{}")], "TRUST_EVENT"),
        ([HEAD, GOOD, ("readme.txt", b"hello")], "TRUST_EVENT"),
        ([HEAD, ("0.targets.json", b"{}")], "TRUST_EVENT"),
        ([HEAD, ("timestamp.json", b"{}")], "TRUST_EVENT"),
        ([("event.json", b"[]"), GOOD], "TRUST_EVENT"),
        ([("event.json", b'{"kind": "x", "v": 2}'), GOOD], "TRUST_EVENT"),
        ([("event.json", b"\xff"), GOOD], "TRUST_EVENT"),
        ([("event.json", b"[" * 5000), GOOD], "TRUST_EVENT"),
        ([HEAD, *((f"{n}.targets.json", b"{}") for n in range(1, MAX_FILES + 2))], "TRUST_LENGTH"),
        ([HEAD, *((f"base/{n}.root.json", b"{}") for n in range(1, 2200))], "TRUST_LENGTH"),
        ([HEAD, ("2.targets.json", bytes(70 * 1024**2))], "TRUST_LENGTH"),
    ],
)
def test_what_is_no_event_is_refused(entries, code):
    refused(code, unzip_event, zipped(entries))


def test_same_name_twice_is_refused():
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = zipped([HEAD, GOOD, ("2.targets.json", b'{"other": 1}')])
    refused("TRUST_EVENT", unzip_event, data)


def test_damaged_zips_are_refused_and_nothing_else_happens(event):
    whole = zip_event(event[0])
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        code = ""
        try:
            unzip_event(bytes(data[: rng.randrange(len(data) // 2, len(data) + 1)]))
        except TrustRefused as error:
            code = error.code
        assert code in ("", "TRUST_EVENT", "TRUST_LENGTH")
    refused("TRUST_EVENT", unzip_event, b"")


def test_what_is_not_there_is_asked_for(tmp_path):
    with pytest.raises(AskPerson):
        read_event(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    refused("TRUST_EVENT", read_event, tmp_path / "empty")


def test_fields_of_a_later_release_are_kept_out_of_the_way():
    found = unzip_event(zipped([("event.json", b'{"kind": "x", "later": {"a": 1}}'), GOOD]))
    assert found.info == EventInfo("x")
