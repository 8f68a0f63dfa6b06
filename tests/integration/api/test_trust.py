"""Trust over HTTP: events that people signed, the server's own keys and their exchange."""

from __future__ import annotations

import io
import stat
import threading
import zipfile
import zlib

import pytest
from securesystemslib.signer import SSlibKey
from sqlmodel import select

from bundles.trust.director import verify_desired
from bundles.trust.drafting.drafts import Keys
from bundles.trust.drafting.release import current_targets
from bundles.trust.drafting.rotation import add_team, rotate_director, rotate_online
from bundles.trust.drafting.statements import raise_floors
from control_plane.auth import Role
from control_plane.db.tables import Decision, Desired
from control_plane.services import desired

DAY_MS = 86_400_000


def _raw(api, body: bytes, client=None):
    headers = {"Content-Type": "application/octet-stream"}
    return (client or api.approver).post("/api/v1/trust/events", content=body, headers=headers)


def _zip(entries: dict[str, bytes], **how) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _floors(api, counter: int, *people: str) -> dict[str, bytes]:
    drafts = raise_floors(api.repository.state, {"vision/digits": counter}, api.clock.now)
    return api.event(drafts, *(people or ("targets",)))


def _key(fields: dict) -> SSlibKey:
    fields = dict(fields)
    return SSlibKey.from_dict(fields.pop("keyid"), fields)


def _next_keys(api, role: str) -> dict[str, SSlibKey]:
    answer = api.admin.post("/api/v1/trust/keys", json={"role": role})
    assert answer.status_code == 200, answer.text
    return {name: _key(fields) for name, fields in answer.json()["keys"].items()}


def _document(api, device: str, trust=None) -> bytes:
    with api.db.write() as session:
        return desired.document_for(session, device, (trust or api.trust).sign, api.clock.now)[0]


def _signer_of(data: bytes, api) -> str:
    targets = current_targets(api.fetch, api.root, api.clock.now)
    verify_desired(data, targets)
    return targets.get_delegated_role("director").keyids[0]


def test_a_signed_event_is_published_once_and_put_on_record(api):
    files = _floors(api, 4)
    first, again = api.send(files), api.send(files)
    assert (first.status_code, again.status_code) == (200, 200), first.text
    assert first.json() == {"published": ["2.targets.json"], "releases": {}, "timestamp_version": 2}
    assert again.json() == {"published": [], "releases": {}, "timestamp_version": 2}
    assert api.viewer.get("/api/v1/trust").json()["floors"] == {"vision/digits": 4}
    with api.db.read() as session:
        rows = session.exec(select(Decision).where(Decision.action == "trust.publish")).all()
    assert [row.actor for row in rows] == ["bob"]


def test_an_event_is_all_or_nothing(sqlite_api):
    api = sqlite_api
    team = add_team(api.repository.state, "radar", Keys([api.keys["audio"].public_key]), api.clock.now)
    files = api.event(team, "targets", "audio")
    unsigned = api.event(team, "targets")
    half = api.send(unsigned)
    assert (half.status_code, half.json()["code"]) == (422, "TRUST_UNSIGNED_TEAM")
    assert api.repository.targets.version == 1
    assert api.send(files).status_code == 200
    assert "team-radar" in {role["role"] for role in api.viewer.get("/api/v1/trust").json()["roles"]}


def test_a_stale_event_is_a_conflict(sqlite_api):
    early, late = _floors(sqlite_api, 2), _floors(sqlite_api, 3)
    assert sqlite_api.send(late).status_code == 200
    answer = sqlite_api.send(early)
    assert (answer.status_code, answer.json()["code"]) == (409, "TRUST_CONFLICT")
    assert answer.json()["remedy"]


def test_of_two_publishers_at_once_one_wins_and_the_other_is_told(sqlite_api):
    events = [_floors(sqlite_api, 2), _floors(sqlite_api, 3)]
    clients = [sqlite_api.client(name, Role.APPROVER) for name in ("gus", "eve")]
    answers, start = [], threading.Barrier(2)

    def send(files, client):
        start.wait()
        answers.append(sqlite_api.send(files, client))

    threads = [threading.Thread(target=send, args=pair) for pair in zip(events, clients, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert sqlite_api.repository.targets.version == 2


def test_an_event_with_a_signature_of_somebody_else_changes_nothing(sqlite_api):
    api = sqlite_api
    files = _floors(api, 9)
    name, data = next(iter(files.items()))
    broken = data.replace(b'"x-floors"', b'"x-flours"')
    answer = api.send({name: broken})
    assert (answer.status_code, answer.json()["code"]) == (422, "TRUST_UNSIGNED_TARGETS")
    assert api.viewer.get("/api/v1/trust").json()["timestamp_version"] == 1


def _bomb() -> bytes:
    return _zip({"event.json": b"{}", "2.targets.json": b"\0" * (80 << 20)}, compression=zipfile.ZIP_DEFLATED)


def _lying_bomb() -> bytes:
    """A zip whose entry claims to be small and unpacks to much more."""
    honest = bytearray(_zip({"2.targets.json": b"\0" * (4 << 20)}, compression=zipfile.ZIP_DEFLATED))
    size = (4 << 20).to_bytes(4, "little")
    return bytes(honest.replace(size, (100).to_bytes(4, "little")))


def _damaged() -> bytes:
    whole = bytearray(_zip({"2.targets.json": bytes(range(256)) * 64}, compression=zipfile.ZIP_DEFLATED))
    whole[60:90] = b"\xff" * 30
    with pytest.raises(zlib.error):
        zlib.decompress(bytes(whole[45:]), -15)
    return bytes(whole)


def _files(api) -> list[str]:
    found = (path.name for path in api.folder.rglob("*") if path.is_file())
    return sorted(name for name in found if "wavegate.db" not in name)  # the audit and its journals


HOSTILE = {
    "no zip": lambda: b"not a zip",
    "empty body": lambda: b"",
    "nothing in it": lambda: _zip({}),
    "bomb": _bomb,
    "lying bomb": _lying_bomb,
    "damaged": _damaged,
    "lzma damaged": lambda: _zip({"2.targets.json": bytes(2000)}, compression=zipfile.ZIP_LZMA).replace(
        b"\x09\x04\x05\x00", b"\x09\x04\x05\xff"
    ),
    "too many": lambda: _zip({f"{n}.team-x.json": b"{}" for n in range(1, 5000)}),
    "a path out": lambda: _zip({"event.json": b'{"kind":"x"}', "../../keys/director.pem": b"x"}),
    "absolute": lambda: _zip({"/etc/passwd": b"x", "event.json": b'{"kind":"x"}'}),
    "timestamp": lambda: _zip({"event.json": b'{"kind":"x"}', "timestamp.json": b"{}"}),
    "bare timestamp": lambda: _zip({"timestamp.json": b"{}"}),
    "snapshot": lambda: _zip({"event.json": b'{"kind":"x"}', "9.snapshot.json": b"{}"}),
    "not JSON": lambda: _zip({"2.targets.json": b"\xff\xfe"}),
    "deep": lambda: _zip({"2.targets.json": b"[" * 200_000}),
    "event of tomorrow": lambda: _zip({"event.json": b'{"kind":"x","v":2}', "2.targets.json": b"{}"}),
    "unknown role": lambda: _zip({"2.team-nobody.json": b"{}"}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_event_is_refused_with_a_code_and_leaves_nothing(sqlite_api, kind):
    before = _files(sqlite_api)
    answer = _raw(sqlite_api, HOSTILE[kind]())
    problem = answer.json()
    assert answer.status_code == 422, answer.text
    assert problem["code"].startswith("TRUST_"), problem
    assert problem["remedy"]
    assert _files(sqlite_api) == before
    assert sqlite_api.repository.timestamp_version == 1


def test_a_body_over_the_limit_or_of_another_kind_is_refused(sqlite_api):
    large = _raw(sqlite_api, b"x" * ((16 << 20) + 1))
    other = sqlite_api.approver.post("/api/v1/trust/events", json={})
    assert (large.status_code, large.json()["code"]) == (413, "BODY_TOO_LARGE")
    assert (other.status_code, other.json()["code"]) == (415, "MEDIA_TYPE")


def test_who_may_what(sqlite_api):
    api, event = sqlite_api, {"Content-Type": "application/octet-stream"}
    calls = {
        "show": (lambda client: client.get("/api/v1/trust"), Role.VIEWER),
        "publish": (lambda client: client.post("/api/v1/trust/events", content=b"x", headers=event), Role.APPROVER),
        "keys": (lambda client: client.post("/api/v1/trust/keys", json={"role": "director"}), Role.ADMIN),
        "advance": (lambda client: client.post("/api/v1/trust/advance", json={"to": 1}), Role.ADMIN),
    }
    clients = {
        Role.VIEWER: api.viewer, Role.OPERATOR: api.operator, Role.APPROVER: api.approver, Role.ADMIN: api.admin
    }  # fmt: skip
    for name, (call, least) in calls.items():
        for role, client in clients.items():
            assert (call(client).status_code == 403) is (role < least), (name, role)


def test_trust_is_told_with_thresholds_expiries_and_the_one_person_sentence(sqlite_api):
    api = sqlite_api
    told = api.viewer.get("/api/v1/trust").json()
    assert [role["role"] for role in told["roles"]][:4] == ["root", "targets", "snapshot", "timestamp"]
    assert (told["profile"], told["is_reviewed"], told["expiring"]) == ("solo", False, [])
    assert any("not reviewed" in remark for remark in told["remarks"])
    api.clock.now += 336 * DAY_MS
    viewer = api.client("vera", Role.VIEWER)
    due = {one["item"]: one for one in viewer.get("/api/v1/trust").json()["expiring"]}
    assert due["root"]["level"] == due["targets"]["level"] == "30d"
    assert due["root"]["command"].startswith("wavegate trust renew --role root")


def test_the_online_keys_are_exchanged_by_a_root_that_names_them(sqlite_api):
    api = sqlite_api
    waiting, again = _next_keys(api, "online"), _next_keys(api, "online")
    assert {role: key.keyid for role, key in waiting.items()} == {role: key.keyid for role, key in again.items()}
    for role in waiting:
        assert stat.S_IMODE((api.folder / "keys" / f"{role}.next.pem").stat().st_mode) == 0o600
    old = {role: (api.folder / "keys" / f"{role}.pem").read_bytes() for role in waiting}
    drafts = rotate_online(api.repository.state, waiting["snapshot"], waiting["timestamp"], api.clock.now)
    assert api.send(api.event(drafts, "root")).status_code == 200
    assert api.repository.signing_keys == {role: key.keyid for role, key in waiting.items()}
    for role in waiting:
        assert (api.folder / "keys" / f"{role}.pem").read_bytes() != old[role], "the old key is gone"
        assert not (api.folder / "keys" / f"{role}.next.pem").exists()
    current_targets(api.fetch, api.root, api.clock.now)  # a new device walks it
    assert api.repository.resign(force=True)
    later = api.open_trust()
    assert later.repository.signing_keys == {role: key.keyid for role, key in waiting.items()}
    assert _next_keys(api, "online")["snapshot"].keyid != waiting["snapshot"].keyid, "the next exchange has its own"


def test_a_root_naming_keys_that_the_server_does_not_hold_is_refused(sqlite_api):
    api = sqlite_api
    stranger = api.keys["audio"].public_key
    drafts = rotate_online(api.repository.state, stranger, api.keys["vision"].public_key, api.clock.now)
    answer = api.send(api.event(drafts, "root"))
    assert (answer.status_code, answer.json()["code"]) == (409, "TRUST_REPOSITORY")
    drafts = rotate_director(api.repository.state, stranger, api.clock.now)
    answer = api.send(api.event(drafts, "targets"))
    assert (answer.status_code, answer.json()["code"]) == (409, "TRUST_REPOSITORY")
    assert api.repository.targets.version == 1


def test_the_director_is_exchanged_and_every_document_signed_anew_with_its_generation(api):
    api.enrol("cam-1", "cam-2")
    before = {device: _document(api, device) for device in ("cam-1", "cam-2")}
    with api.db.write() as session:
        desired.mark_published(session, "cam-1", 1, api.clock.now)
    waiting = _next_keys(api, "director")["director"]
    old = (api.folder / "keys" / "director.pem").read_bytes()
    api.clock.now += 1
    answer = api.send(api.event(rotate_director(api.repository.state, waiting, api.clock.now), "targets"))
    assert answer.status_code == 200, answer.text
    with api.db.read() as session:
        assert desired.unpublished(session, 9) == ["cam-1", "cam-2"], "both are told anew"
        assert [row.gen for row in session.exec(select(Desired))] == [1, 1]
    for device, document in before.items():
        fresh = _document(api, device)
        assert _signer_of(fresh, api) == waiting.keyid
        with pytest.raises(Exception, match="TRUST_UNSIGNED_DIRECTOR"):
            _signer_of(document, api)
    assert (api.folder / "keys" / "director.pem").read_bytes() != old
    assert not (api.folder / "keys" / "director.next.pem").exists()


def test_an_exchange_that_broke_off_anywhere_is_completed_at_the_next_start(api, monkeypatch):
    """The server dies after the publication, then after the documents were emptied, then with the key half made."""
    api.enrol("cam-1")
    _document(api, "cam-1")
    waiting = _next_keys(api, "director")["director"]
    files = api.event(rotate_director(api.repository.state, waiting, api.clock.now), "targets")
    api.repository.publish(files)  # died here: nothing followed from it
    api.clock.now += 1
    second = api.open_trust()
    monkeypatch.setattr(second._keys, "settle", lambda *_: pytest.exit)
    second.settle()  # died here: the documents are empty, both keys still lie there
    assert (api.folder / "keys" / "director.next.pem").exists()
    with api.db.read() as session:
        assert session.get(Desired, "cam-1").document == b""
    assert _signer_of(_document(api, "cam-1", second), api) == waiting.keyid, "signed by the named key all the while"
    (api.folder / "keys" / "director.fresh.pem").write_bytes(b"half a k")
    third = api.open_trust()
    third.settle()
    third.settle()
    assert not (api.folder / "keys" / "director.next.pem").exists()
    assert _signer_of(_document(api, "cam-1", third), api) == waiting.keyid
    assert third.prepare("director")["director"].keyid != waiting.keyid


def test_an_online_role_is_advanced_and_never_back(sqlite_api):
    api = sqlite_api
    answer = api.admin.post("/api/v1/trust/advance", json={"to": 500})
    assert answer.json() == {"timestamp_version": 500, "snapshot_version": 1}
    answer = api.admin.post("/api/v1/trust/advance", json={"to": 40, "role": "snapshot"})
    assert answer.json() == {"timestamp_version": 501, "snapshot_version": 40}
    back = api.admin.post("/api/v1/trust/advance", json={"to": 7})
    assert (back.status_code, back.json()["code"]) == (409, "TRUST_ADVANCE")
    current_targets(api.fetch, api.root, api.clock.now)
