"""The HTTPS door against a real TLS server that checks every proof."""

import hashlib
import ssl

import pytest

from agent.https import DeviceDoor, Door, open_client
from agent.identity import enroll, pinned_context, renew
from bundles.errors import Refused, TryAgain
from bundles.trust.fetch import NotServed
from bundles.wire import codec
from bundles.wire.messages import Event, UpEnvelope


@pytest.fixture
def client(server, server_ca):
    with open_client(server.url, pinned_context(server_ca.pem)) as client:
        yield client


@pytest.fixture
def identity(client, server, server_ca, tmp_path):
    return enroll(
        tmp_path / "id",
        Door(client).post,
        url=server.url,
        token="good-token",
        server_ca_pem=server_ca.pem,
        name="cam-1",
    )


@pytest.fixture
def door(client, identity):
    return DeviceDoor(client, identity.device, lambda: identity.key)


def statuses(server, path):
    return [status for _, p, status in server.requests if p == path]


def test_the_first_request_learns_the_nonce_and_later_ones_reuse_it(server, door):
    server.desired["cam-1"] = (b'{"signed":1}', "3.99")
    answer = door.desired()
    assert (answer.data, answer.etag) == (b'{"signed":1}', "3.99")
    assert door.desired(answer.etag) is None
    assert statuses(server, "/v1/device/desired") == [401, 200, 304]


def test_an_old_nonce_is_replaced_once(server, door):
    server.desired["cam-1"] = (b"{}", "1.1")
    door.desired()
    server.nonce = "nonce-2"
    assert door.desired().data == b"{}"
    assert statuses(server, "/v1/device/desired") == [401, 200, 401, 200]


def test_a_key_the_server_does_not_know_is_refused_without_a_loop(server, client, identity):
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    stranger = DeviceDoor(client, "cam-1", lambda: key)
    with pytest.raises(Refused) as caught:
        stranger.desired()
    assert caught.value.details["status"] == 401
    assert statuses(server, "/v1/device/desired") == [401, 401]


def test_nothing_assigned_is_none(door):
    assert door.desired() is None


def test_reports_come_back_as_the_application_ack(server, door):
    event = Event("cam-1", "ab" * 8, 1, "e1", 5, "phase")
    ack = door.reports([UpEnvelope("up/event", codec.encode(event))])
    assert (ack.boot_epoch, ack.upto_seq) == ("ab" * 8, 1)
    assert server.reports == [("cam-1", "up/event", codec.encode(event))]


def test_a_blob_is_read_from_any_offset(server, door):
    blob = bytes(range(256)) * 1000
    sha256 = hashlib.sha256(blob).hexdigest()
    server.blobs[sha256] = blob
    path = f"/v1/blobs/sha256/{sha256}"
    with door.blob(path) as answer:
        assert (answer.status, answer.length, answer.offset) == (200, len(blob), None)
        assert b"".join(answer.chunks) == blob
    with door.blob(path, 200_000, sha256) as answer:
        assert (answer.status, answer.length, answer.offset) == (206, len(blob) - 200_000, 200_000)
        assert b"".join(answer.chunks) == blob[200_000:]


def test_the_status_of_a_blob_is_told_and_not_judged(server, door):
    for status in (404, 503):
        server.fail_next = [status]
        with door.blob("/v1/blobs/sha256/" + "0" * 64) as answer:
            assert answer.status == status


def test_a_busy_server_is_tried_again(server, door):
    for status in (503, 429, 500, 307):
        server.fail_next = [status]
        with pytest.raises(TryAgain):
            door.desired()


def test_problem_documents_keep_their_code(server, client):
    with pytest.raises(Refused) as caught:
        Door(client).post("/v1/enroll", b'{"token":"spent","csr":""}')
    assert caught.value.code == "ENROL_TOKEN"
    assert caught.value.sentence == "unknown token"


def test_a_sign_in_page_is_no_answer(server, door, tmp_path):
    server.desired["cam-1"] = (b"<html>Welcome to our hotel</html>", "")
    original = server._desired
    server._desired = lambda *a: (200, {"Content-Type": "text/html; charset=utf-8"}, original(*a)[2])
    with pytest.raises(TryAgain) as caught:
        door.desired()
    assert caught.value.code == "CAPTIVE_PORTAL"


def test_metadata_is_served_or_told_missing(server, client, tmp_path):
    server.metadata_dir = tmp_path
    (tmp_path / "timestamp.json").write_bytes(b"x" * 100)
    assert b"".join(Door(client).metadata("timestamp.json", 1000)) == b"x" * 100
    assert len(b"".join(Door(client).metadata("timestamp.json", 10))) > 10
    with pytest.raises(NotServed) as caught:
        Door(client).metadata("2.root.json", 1000)
    assert caught.value.status == 404


def test_metadata_comes_in_pieces_and_the_connection_is_free_again_whatever_becomes_of_them(server, client, tmp_path):
    server.metadata_dir = tmp_path
    (tmp_path / "timestamp.json").write_bytes(b"x" * 300_000)

    def connections():
        return [c for c in client._transport._pool.connections if not c.is_idle()]

    pieces = Door(client).metadata("timestamp.json", 1 << 20)
    assert connections(), "opened at the call"
    first = next(pieces)
    assert 0 < len(first) < 300_000
    pieces.close()
    assert not connections()
    Door(client).metadata("timestamp.json", 1 << 20).close()
    assert not connections(), "also where not one piece was taken"
    short = Door(client).metadata("timestamp.json", 10)
    next(short)
    assert not connections(), "one piece too long, and no more is waited for"


def test_a_server_of_another_ca_is_not_spoken_to(server, device_ca):
    with open_client(server.url, pinned_context(device_ca.pem)) as client, pytest.raises(TryAgain) as caught:
        Door(client).time_ms()
    assert caught.value.code == "SERVER_CERTIFICATE"
    assert server.requests == []


def test_a_dead_server_is_try_again(server_ca):
    client = open_client("https://127.0.0.1:1", pinned_context(server_ca.pem))
    with client, pytest.raises(TryAgain) as caught:
        Door(client).time_ms()
    assert caught.value.code == "SERVER_UNREACHABLE"


def test_the_servers_clock_is_read(server, client):
    assert Door(client).time_ms() > 1_700_000_000_000


def test_renewal_is_signed_with_the_old_key_and_the_new_one_works_at_once(server, client, identity):
    server.desired["cam-1"] = (b"{}", "1.1")
    now = {"identity": identity}
    door = DeviceDoor(client, "cam-1", lambda: now["identity"].key)
    now["identity"] = renew(identity, door.post_signed)
    assert server.renewals == 1
    assert door.desired().data == b"{}"
    assert now["identity"].broker_context().verify_mode is ssl.CERT_REQUIRED
