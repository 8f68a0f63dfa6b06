"""What the control plane's commands do on a device, and which way their results go."""

import gzip
import io
import json
import tarfile
import time
from dataclasses import replace

import msgspec
import pytest

from agent.config import AgentConfig, Folders
from agent.core import effects as fx
from agent.core.policy import Policy
from agent.core.state import Release, Step, UpdaterState
from agent.runner.remote import MAX_DATA_BYTES, Remote, sender
from agent.runner.schedule import Schedule
from agent.runner.updates import Updates
from bundles.errors import Refused, TryAgain
from bundles.wire import commands as wire
from bundles.wire.commands import Command, CommandResult

MODEL = "vision/digits"
A, B = (Release(f"{MODEL}/{n}.0.0/bundle.json", letter * 64, 100, n) for n, letter in ((1, "a"), (2, "b")))
RUNNING = UpdaterState(MODEL, Step.CONFIRMED, gen=2, target=B, committed=B, previous=A)
NOW = 1_795_491_533_000


class Trust:
    """What is asked of ``Assurance``."""

    version = 7

    def age_s(self):
        return 5

    def level(self):
        return "fresh"

    def floor(self, _model):
        return 1


@pytest.fixture
def updates():
    done = []
    kinds = (fx.Report, fx.SetTimer, fx.Cancel, fx.Revert, fx.CollectGarbage)
    made = Updates(
        Schedule(lambda: time.time_ns() // 10**6, workers=0),
        Policy(),
        lambda model, data: None,
        quick=dict.fromkeys(kinds, lambda model, effect: done.append(effect)),
        slow={},
        failed=lambda effect, error: None,
        changed=lambda model: None,
    )
    made.states[MODEL] = RUNNING
    made.done = done
    return made


@pytest.fixture
def remote(tmp_path, updates):
    config = AgentConfig(proxy="http://bob:hunter-2@proxy:3128")
    made = Remote(
        Folders(tmp_path),
        config,
        "cam-1",
        updates,
        Trust(),
        lambda call: call(),
        lambda: made.now,
        lambda: made.written.append(1),
    )
    made.now, made.written = NOW, []
    return made


def do(remote, word, **args):
    return remote.doings()[word](Command("abcdefgh", word, 0, 1, args))


def reverted(updates):
    return [effect for effect in updates.done if isinstance(effect, fx.Revert)]


def test_a_roll_back_goes_to_what_the_device_holds(remote, updates):
    done = do(remote, wire.ROLLBACK, model=MODEL, actor="ann", sha256=B.sha256)
    assert (done.is_ok, done.data) == (True, {"model": MODEL})
    assert reverted(updates) == [fx.Revert(A)]
    assert updates.states[MODEL].detail == "Asked for by control plane: ann."


@pytest.mark.parametrize(
    ("state", "args", "code"),
    [
        (replace(RUNNING, previous=None), {}, "NO_PREVIOUS"),
        (replace(RUNNING, revoked=(A.sha256,)), {}, "NO_PREVIOUS"),
        (RUNNING, {"sha256": A.sha256}, "ROLLBACK_OVERTAKEN"),
        (replace(RUNNING, step=Step.DOWNLOADING, target=replace(B, sha256="c" * 64)), {}, "ROLLBACK_OVERTAKEN"),
        (RUNNING, {"sha256": "../../etc/passwd"}, "COMMAND_ARGS"),
        (RUNNING, {"model": "vision/other"}, "MODEL_UNKNOWN"),
    ],
)
def test_a_roll_back_that_cannot_be_says_why_and_changes_nothing(remote, updates, state, args, code):
    """Nothing to go back to, only what trust forbids, another release on its way, or no such thing."""
    updates.states[MODEL] = state
    with pytest.raises(Refused) as caught:
        do(remote, wire.ROLLBACK, **{"model": MODEL, "sha256": B.sha256, **args})
    assert caught.value.code == code
    assert (updates.states[MODEL], updates.done) == (state, [])


def test_the_status_is_the_whole_story_without_secrets(remote, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "from-the-env-77")
    status = {
        "updates": {MODEL: {"step": "confirmed", "detail": "by hunter-2 and from-the-env-77"}},
        "labels": {"a": "b"},
    }
    (tmp_path / "status.json").write_text(json.dumps(status))
    told = do(remote, wire.STATUS).data
    assert remote.written == [1], "it is as of now"
    assert told["updates"][MODEL] == {"step": "confirmed", "detail": "by [removed] and [removed]"}
    assert told["labels"] == {"a": "b"}


def test_a_status_beyond_what_an_answer_holds_is_refused(remote, tmp_path):
    (tmp_path / "status.json").write_text(json.dumps({"x": ["harmless words "] * (MAX_DATA_BYTES // 15)}))
    with pytest.raises(Refused) as caught:
        do(remote, wire.STATUS)
    assert caught.value.code == "COMMAND_RESULT_TOO_LARGE"


def test_a_diagnosis_takes_nothing_from_the_command(remote, tmp_path):
    (tmp_path / "secret.txt").write_text("do not read me")
    done = do(remote, wire.DIAGNOSE, path=str(tmp_path / "secret.txt"), command="cat", files=["/etc/passwd"])
    assert done.data["bytes"] == len(done.attachment)
    assert done.data["parts"] == 1
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(done.attachment))) as archive:
        whole = b"".join(archive.extractfile(entry).read() for entry in archive)
        assert {"trust.json", "network.json"} <= {entry.name.split("/")[1] for entry in archive}
    assert b"do not read me" not in whole
    assert b"root:" not in whole


def test_diagnoses_come_one_after_the_other(remote):
    do(remote, wire.DIAGNOSE)
    with pytest.raises(TryAgain) as caught:
        do(remote, wire.DIAGNOSE)
    assert caught.value.code == "COMMAND_TOO_SOON"
    remote.now += 5_000
    assert do(remote, wire.DIAGNOSE).attachment


def test_a_self_test_that_fails_says_what(remote):
    done = do(remote, wire.SELFTEST)
    assert (done.is_ok, done.code) == (False, "SELFTEST_FAILED")
    assert "identity" in done.detail
    assert {finding["what"] for finding in done.data["findings"]} >= {"identity", "store", "server", "runtimes"}
    msgspec.json.encode(done.data)


def test_there_is_no_word_for_anything_else(remote):
    assert set(remote.doings()) == {"diagnose", "selftest", "status", "rollback"} == set(wire.DOINGS)


class Door:
    def __init__(self):
        self.posts = []

    def post_signed(self, path, body):
        self.posts.append((path, len(body)))
        return b""


def test_a_bundle_goes_up_in_parts_before_its_result():
    sent, door = [], Door()
    send = sender(lambda leaf, payload: sent.append((leaf, len(payload))) or True, door)
    send(CommandResult("abcdefgh", True), b"x" * (2 * wire.PART_BYTES + 5))
    assert sent[:3] == [
        ("up/cmd/abcdefgh/part/0", wire.PART_BYTES),
        ("up/cmd/abcdefgh/part/1", wire.PART_BYTES),
        ("up/cmd/abcdefgh/part/2", 5),
    ]
    assert sent[3][0] == "up/cmd/abcdefgh/result"
    assert door.posts == []


@pytest.mark.parametrize("taken", [0, 2])
def test_what_the_broker_does_not_take_goes_over_https_whole(taken):
    sent, door = [], Door()

    def publish(leaf, _payload):
        sent.append(leaf)
        return len(sent) <= taken

    sender(publish, door)(CommandResult("abcdefgh", True), b"x" * (3 * wire.PART_BYTES))
    assert len(sent) == taken + 1
    assert [path for path, _ in door.posts] == [
        "/v1/device/diagnosis/abcdefgh",
        "/v1/device/commands/abcdefgh/result",
    ]
    assert door.posts[0][1] == 3 * wire.PART_BYTES
