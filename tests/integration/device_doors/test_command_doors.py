"""Commands at the devices' doors: what waits, results and support bundles, and whose they may be."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from bundles.wire import commands as wire
from bundles.wire.codec import decode_ack, encode, encode_batch
from bundles.wire.commands import CommandResult
from bundles.wire.messages import Event, UpEnvelope
from bundles.wire.topics import UP_EVENT
from control_plane.db.queries.commands import read_bundle, show_command
from control_plane.services import commands
from control_plane.services.commands import Asked


@pytest.fixture
def asked(server, caller):
    """A diagnosis that waits for ``caller``'s device; returns its id."""
    with server.db.write() as session:
        return commands.ask(
            session, Asked("cam-1", "diagnose"), actor="ada", may=lambda _team: None, now_ms=server.now_ms,
            random_bytes=lambda count: b"\1" * count,
        ).id  # fmt: skip


def state(server, command):
    with server.db.read() as session:
        return show_command(session, "cam-1", command).state


def result_of(command, content):
    data = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return wire.encode(CommandResult(command, True, data=data))


def test_a_device_hears_with_its_ack_that_something_waits_fetches_it_and_answers(server, caller, asked):
    event = Event(
        device="cam-1", boot_epoch="0" * 16, seq=1, event_id="e1", at_ms=server.now_ms, kind="note", detail="x"
    )  # fmt: skip
    batch = encode_batch([UpEnvelope(UP_EVENT, encode(event))])
    ack = decode_ack(caller.call("POST", "/v1/device/reports", batch).content)
    assert (ack.commands, ack.upto_seq) == (1, 1)
    (raw,) = wire.decode_commands(caller.call("GET", "/v1/device/commands").content)
    command = wire.decode_command(raw)
    assert (command.id, command.do, command.args) == (asked, "diagnose", {})
    content = b"x" * (wire.PART_BYTES + 1)
    assert caller.call("POST", f"/v1/device/diagnosis/{asked}", content).status_code == 204
    assert state(server, asked) == "waiting"
    assert caller.call("POST", f"/v1/device/commands/{asked}/result", result_of(asked, content)).status_code == 204
    assert state(server, asked) == "done"
    with server.db.read() as session:
        assert read_bundle(session, "cam-1", asked) == content
    assert caller.call("GET", "/v1/device/commands").json() == []
    ack = decode_ack(caller.call("POST", "/v1/device/reports", batch).content)
    assert ack.commands == 0
    assert caller.call("POST", f"/v1/device/commands/{asked}/result", b"{}").status_code == 204, "told twice"


def test_another_device_neither_sees_nor_answers_it(server, caller, asked):
    key = ec.generate_private_key(ec.SECP256R1())
    server.add_token("u" * 32)
    assert server.enroll(key, "u" * 32, "cam-2").status_code == 200
    other = server.caller("cam-2", key)
    assert other.call("GET", "/v1/device/commands").json() == []
    assert other.call("POST", f"/v1/device/diagnosis/{asked}", b"x").status_code == 404
    assert other.call("POST", f"/v1/device/commands/{asked}/result", result_of(asked, b"x")).status_code == 204
    assert state(server, asked) == "waiting"


@pytest.mark.parametrize("path", ["/v1/device/commands", "/v1/device/diagnosis/{}", "/v1/device/commands/{}/result"])
def test_nobody_is_let_in_unsigned(server, asked, path):
    method = "GET" if path == "/v1/device/commands" else "POST"
    assert server.http.request(method, path.format(asked)).status_code == 401


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/device/diagnosis/{}", b"x" * (wire.MAX_BUNDLE_BYTES + 1), 413),
        ("/v1/device/diagnosis/unknown0", b"x", 404),
        ("/v1/device/commands/{}/result", b"x" * (wire.MAX_RESULT_BYTES + 1), 413),
        ("/v1/device/commands/{}/result", b"no json", 422),
        ("/v1/device/commands/{}/result", msgspec.json.encode({"v": 2, "id": "x"}), 422),
        ("/v1/device/commands/NO-ID/result", b"{}", 422),
    ],
)
def test_what_cannot_be_taken_is_refused_in_words(server, caller, asked, path, body, status):
    answer = caller.call("POST", path.format(asked), body)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert state(server, asked) == "waiting"
