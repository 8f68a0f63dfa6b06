"""What every released version wrote is read and verified for good: a folder each, never edited once released.

A folder holds a signed bundle, the published trust metadata, a desired document, a message of each kind, a request
proof, and ``expected.json`` with what they say. Its keys are gone; its metadata is good for a hundred years.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from agent.core.journal import decode_state, encode_state
from agent.core.policy import DEFAULT_POLICY
from bundles.archive import open_archive
from bundles.trust.device.authorize import check_manifest
from bundles.trust.device.client import BUILT_MS, TrustStore
from bundles.trust.drafting.release import current_team
from bundles.trust.fetch import folder_fetch
from bundles.variants import pick_variant
from bundles.verify import verify_content, verify_signed
from bundles.wire import chunks, codec, commands
from bundles.wire.proof import verify_proof

HERE = Path(__file__).parent
RELEASED = sorted(path for path in HERE.iterdir() if (path / "expected.json").exists())
NOW = BUILT_MS + 90 * 86_400_000


@pytest.fixture(params=RELEASED, ids=lambda path: path.name)
def released(request):
    return request.param


@pytest.fixture
def expected(released):
    return json.loads((released / "expected.json").read_text())


def test_there_is_a_folder_for_this_release():
    from bundles import __version__

    assert __version__ in [path.name for path in RELEASED]


def test_bundle_is_whole_and_its_signature_good(released, expected):
    archive = open_archive(next(released.glob("*.wgb")))
    verify_content(archive)
    assert archive.sha256 == expected["bundle"]["sha256"]
    assert {entry.path: entry.sha256 for entry in archive.manifest.files} == expected["bundle"]["files"]
    root = (released / "metadata" / "1.root.json").read_bytes()
    team = current_team(folder_fetch(released / "metadata"), root, archive.manifest.team, NOW)
    assert verify_signed(archive, team) == "published"


def test_device_accepts_the_assignment_and_authorises_the_bundle(released, expected, tmp_path):
    root = (released / "metadata" / "1.root.json").read_bytes()
    fetch = folder_fetch(released / "metadata")
    with TrustStore(tmp_path / "trust", root, device=expected["device"], fetch=fetch) as store:
        assert store.refresh(NOW).timestamp_version == expected["timestamp_version"]
        desired = store.accept_desired((released / "desired.json").read_bytes(), NOW)
        assert desired.gen == expected["gen"]
        model, wanted = next(iter(desired.models.items()))
        bundle = store.authorize(model, wanted, hardware="cam-a", now_ms=NOW)
        assert (bundle.target, bundle.custom.release_counter) == (
            expected["bundle"]["target"],
            expected["bundle"]["counter"],
        )
    manifest = check_manifest(bundle, open_archive(next(released.glob("*.wgb"))).manifest_bytes)
    assert pick_variant(manifest, "cam-b", ["tflite"]).id == "tflite-b"


def test_messages_say_what_they_said(released, expected):
    for leaf, said in expected["messages"].items():
        payload = (released / "messages" / leaf.replace("/", "-")).read_bytes()
        found = msgspec.to_builtins(codec.decode_up(leaf, payload))
        assert {name: found.get(name) for name in said} == said
    ack = codec.decode_ack((released / "messages" / "down-ack").read_bytes())
    assert msgspec.to_builtins(ack) == expected["ack"]
    batch = codec.decode_batch((released / "messages" / "batch").read_bytes())
    assert {envelope.leaf for envelope in batch} == set(expected["messages"])


def test_commands_and_their_results_say_what_they_said(released, expected):
    messages = released / "messages"
    command = commands.decode_command((messages / "down-cmd").read_bytes())
    assert msgspec.structs.asdict(command) == expected["command"]
    first, *_ = commands.decode_commands((messages / "commands").read_bytes())
    assert commands.decode_command(first) == command
    for name, said in expected["command_results"].items():
        assert msgspec.structs.asdict(commands.decode_result((messages / name).read_bytes())) == said


def test_asks_for_files_and_their_chunks_say_what_they_said(released, expected):
    messages = released / "messages"
    for name, said in expected["asks"].items():
        assert msgspec.structs.asdict(chunks.decode_ask((messages / name).read_bytes())) == said
    for name, said in expected["chunks"].items():
        head, data = chunks.decode_chunk((messages / name).read_bytes())
        assert (msgspec.structs.asdict(head), bytes(data).hex()) == (said["head"], said["data"])


def test_messages_with_fields_that_came_later_say_what_they_said(released, expected):
    for name, said in expected["later_messages"].items():
        found = msgspec.to_builtins(codec.decode_up(said["leaf"], (released / "messages" / name).read_bytes()))
        assert {field: found.get(field) for field in said["says"]} == said["says"]


def test_a_journal_of_an_older_agent_is_read_by_this_one(released, expected):
    for name, said in expected["journal"].items():
        state = decode_state((released / "journal" / name).read_bytes())
        assert state.committed is not None
        assert state.target is not None
        assert {
            "model": state.model,
            "step": state.step.value,
            "gen": state.gen,
            "attempts": state.attempts,
            "recoveries": state.recoveries,
            "floor": state.floor,
            "committed": state.committed.sha256,
            "target": state.target.sha256,
            "denied": [tried.sha256 for tried in state.tried if tried.attempts >= DEFAULT_POLICY.max_attempts],
            "revoked": sorted(state.revoked),
        } == said
        assert decode_state(encode_state(state)) == state


def test_request_proof_is_good(released, expected):
    key = serialization.load_pem_public_key((released / "device.pub.pem").read_bytes())
    token = (released / "proof.txt").read_text()
    claims = verify_proof(token, key, "POST", "/v1/device/reports", b"batch", lambda nonce: nonce == "nonce-1")
    assert claims.sub == expected["device"]
