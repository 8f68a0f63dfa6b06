"""``wavegate bundle`` and ``wavegate trust``, as a person in a shell meets them: options, answers, exit codes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from bundles.contract import Contract, TensorSpec, encode_contract
from control_plane.cli import exits
from control_plane.cli.root import run

PROJECT = """
contract = "contract.json"
goldens = "goldens.npz"
[bundle]
team = "vision"
model = "digits"
version = "{version}"
release_counter = {counter}
[[variants]]
id = "t"
runtime = "tflite"
file = "m.tflite"
[training]
rows = "rows.npz"
"""
CONTRACT = Contract(
    inputs=[TensorSpec("x", "float32", [1, 2], kind="tabular", features=["a", "b"])],
    outputs=[TensorSpec("p", "float32", [1, 2], min=0, max=1)],
    task="classification",
    labels=["no", "yes"],
)


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys):
    """Run command lines in an empty folder that holds a bundle project; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    for name in ("WAVEGATE_KEY_PASSPHRASE", "WAVEGATE_OUTPUT"):
        monkeypatch.delenv(name, raising=False)
    rng = np.random.default_rng(3)
    np.savez("goldens.npz", **{"input.x": np.ones((4, 2), np.float32), "output.p": np.full((4, 2), 0.5, np.float32)})
    np.savez("rows.npz", **{"input.x": rng.random((300, 2))})
    np.savez("answers.npz", **{"output.p": rng.dirichlet([1, 1], 300)})
    (tmp_path / "m.tflite").write_bytes(b"model")
    (tmp_path / "contract.json").write_bytes(encode_contract(CONTRACT))
    (tmp_path / "bundle.toml").write_text(PROJECT.format(version="1.0.0", counter=1))

    def call(line, *more):
        code = run([*line.split(), *more])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def facts(answer):
    code, out, _ = answer
    assert code == exits.OK
    return json.loads(out)


def refused(answer, exit_code, code):
    found, out, err = answer
    assert (found, out) == (exit_code, "")
    assert f"[{code}]" in err


@pytest.fixture
def trust(shell):
    assert shell("trust init --dir trust --team vision --profile team --plain")[0] == exits.OK
    return shell


BUILD = "bundle build bundle.toml -o d.wgb --predictions answers.npz --json"
SIGN = "bundle sign d.wgb --metadata trust --key trust/keys/team-vision.pem --json"


def test_build_sign_verify_inspect(trust):
    built = facts(trust(BUILD))
    refused(trust("bundle verify d.wgb --metadata trust"), exits.VERIFICATION, "TRUST_UNSIGNED_TEAM")
    signed = facts(trust(SIGN))
    assert (signed["sha256"], signed["signatures"], signed["complete"]) == (built["sha256"], "1 of 1", True)
    verified = facts(trust("bundle verify d.wgb --metadata trust --json"))
    assert (verified["content"], verified["signature"]) == ("whole", "signed")
    inspected = facts(trust("bundle inspect d.wgb --json"))
    assert inspected["metadata"] == ["2.team-vision.json"]
    assert inspected["manifest"]["files"]
    assert facts(trust("bundle inspect d.wgb -o json")) == inspected


def test_tables_are_for_people(trust):
    trust(BUILD)
    code, out, err = trust("bundle verify d.wgb")
    assert code == exits.OK
    assert "signature  not checked" in out
    assert "--metadata" in err
    code, out, _ = trust("trust status trust")
    assert out.splitlines()[0].split()[:4] == ["Role", "Version", "Expires", "Threshold"]
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "root",
        "targets",
        "snapshot",
        "timestamp",
        "director",
        "revocation",
        "team-vision",
    ]


def test_without_a_model_that_can_run_the_outputs_are_not_watched(shell):
    code, _, err = shell("bundle build bundle.toml -o d.wgb")
    assert code == exits.OK
    assert "not watched for drift" in err


def test_damaged_archive_leaves_with_verification_failed(trust, tmp_path):
    trust(BUILD)
    data = bytearray((tmp_path / "d.wgb").read_bytes())
    data[data.index(b"m.tflitemodel") + 9] ^= 1  # in the stored model file
    (tmp_path / "d.wgb").write_bytes(data)
    code, _, err = trust("bundle verify d.wgb")
    assert code == exits.VERIFICATION
    assert "[BUNDLE_" in err


def test_typing_error_in_the_project_is_named(shell, tmp_path):
    (tmp_path / "bundle.toml").write_text(PROJECT.format(version="1.0.0", counter=1).replace("goldens", "golden"))
    refused(shell("bundle build bundle.toml"), exits.VERIFICATION, "BUNDLE_PROJECT")


def test_signing_twice_on_a_state_that_moved_on(trust, tmp_path):
    """Two releases signed side by side: the second is told to sign again, and that is all there is to do."""
    trust(BUILD)
    (tmp_path / "bundle.toml").write_text(PROJECT.format(version="1.1.0", counter=2))
    trust(BUILD.replace("d.wgb", "e.wgb"))
    trust(SIGN)
    trust(SIGN.replace("d.wgb", "e.wgb"))
    publish(trust, tmp_path, "d.wgb")
    refused(trust("bundle verify e.wgb --metadata trust"), exits.CONFLICT, "TRUST_CONFLICT")
    facts(trust(SIGN.replace("d.wgb", "e.wgb")))
    publish(trust, tmp_path, "e.wgb")
    assert facts(trust("bundle verify e.wgb --metadata trust --json"))["signature"] == "published"
    refused(trust(SIGN), exits.CONFLICT, "RELEASE_EXISTS")


def publish(shell, tmp_path, archive):
    from bundles.archive import open_archive

    event = tmp_path / "event"
    shutil.rmtree(event, ignore_errors=True)
    event.mkdir()
    for name, data in open_archive(tmp_path / archive).metadata.items():
        (event / name).write_bytes(data)
    assert facts(shell("trust publish event --server trust/server --json"))["published"]


def test_new_team_from_key_to_signature(trust, tmp_path):
    facts(trust("trust key new audio.pem --scheme ecdsa --plain --json"))
    keys = "--key trust/keys/targets-1.pem --key trust/keys/targets-2.pem --team-key audio.pem"
    event = facts(trust(f"trust delegate add audio --metadata trust {keys} --out event --json"))
    assert event["files"] == ["1.team-audio.json", "2.targets.json"]
    assert facts(trust("trust publish event --server trust/server --json"))["published"] == event["files"]
    (tmp_path / "bundle.toml").write_text(PROJECT.format(version="1", counter=1).replace("vision", "audio"))
    trust(BUILD)
    assert facts(trust("bundle sign d.wgb --metadata trust --key audio.pem --json"))["role"] == "team-audio"


def test_too_few_targets_keys_are_not_published(trust):
    trust("trust key new audio.pem --plain")
    line = "trust delegate add audio --metadata trust --key trust/keys/targets-1.pem --team-key audio.pem --out event"
    facts(trust(line + " --json"))
    refused(trust("trust publish event --server trust/server"), exits.VERIFICATION, "TRUST_THRESHOLD")


def test_publishing_into_a_running_server_waits_for_nobody(trust):
    from filelock import FileLock

    trust("trust key new audio.pem --plain")
    with FileLock("trust/server/server.lock"):
        code, _, err = trust("trust publish trust/server/metadata --server trust/server")
    assert code == exits.ERROR
    assert "[SERVER_RUNNING]" in err


def test_new_keys_need_a_passphrase_or_a_plain_word(shell, tmp_path, monkeypatch):
    refused(shell("trust key new k.pem"), exits.ERROR, "KEY_PASSPHRASE")
    monkeypatch.setenv("WAVEGATE_KEY_PASSPHRASE", "short")
    refused(shell("trust key new k.pem"), exits.ERROR, "KEY_PASSPHRASE")
    (tmp_path / "secret").write_text("correct horse battery\n")
    facts(shell("trust key new k.pem --passphrase-file secret --json"))
    assert b"ENCRYPTED" in (tmp_path / "k.pem").read_bytes()
    refused(shell("trust key new k.pem --plain"), exits.CONFLICT, "KEY_EXISTS")


def test_encrypted_team_key_signs_with_its_passphrase_only(shell, tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("correct horse battery")
    facts(shell("trust init --dir trust --team vision --passphrase-file secret --json"))
    shell(BUILD)
    refused(shell(SIGN), exits.ERROR, "KEY_PASSPHRASE")
    monkeypatch.setenv("WAVEGATE_KEY_PASSPHRASE", "wrong wrong wrong")
    refused(shell(SIGN), exits.ERROR, "KEY_PASSPHRASE")
    monkeypatch.setenv("WAVEGATE_KEY_PASSPHRASE", "correct horse battery")
    assert facts(shell(SIGN))["complete"]


def test_second_ceremony_is_refused(trust):
    refused(trust("trust init --dir trust --team vision --plain"), exits.ERROR, "TRUST_CEREMONY")


@pytest.mark.parametrize("place", ["trust/keys/team-vision.pem", "usb/root-3.pub", "trust/server/keys/director.pem"])
def test_a_key_in_the_way_leaves_no_half_ceremony(shell, tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text("a key")
    before = sorted(tmp_path.rglob("*"))
    line = "trust init --dir trust --team vision --profile team --plain --backup usb"
    refused(shell(line), exits.CONFLICT, "KEY_EXISTS")
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / place).unlink()
    assert shell(line)[0] == exits.OK


def test_counter_of_a_withdrawn_bundle_is_not_signed_again(trust, tmp_path):
    trust(BUILD)
    facts(trust(SIGN + " --event e"))
    facts(trust("trust publish e --server trust --json"))
    retire = "trust stage retire away vision/digits/1.0.0 --metadata trust --signer trust/keys/team-vision.pem --json"
    facts(trust(retire))
    facts(trust("trust publish away --server trust --json"))
    (tmp_path / "bundle.toml").write_text(PROJECT.format(version="1.1.0", counter=1))
    trust(BUILD)
    for line in (SIGN, SIGN + " --event f", "trust stage add g d.wgb --metadata trust"):
        refused(trust(line), exits.VERIFICATION, "TRUST_ROLLBACK_TEAM")
    assert not facts(trust("bundle inspect d.wgb --json"))["metadata"]
    (tmp_path / "bundle.toml").write_text(PROJECT.format(version="1.1.0", counter=2))
    trust(BUILD)
    assert facts(trust(SIGN))["complete"]


def test_promoted_bundle_is_listed_and_brings_no_new_file(trust, tmp_path):
    (tmp_path / "bundle.toml").write_text(PROJECT.format(version="1.0.0-canary", counter=1).replace(
        "release_counter", 'channel = "canary"\nrelease_counter'))  # fmt: skip
    before = facts(trust(BUILD))
    facts(trust(SIGN + " --event e"))
    facts(trust("trust publish e --server trust --json"))
    line = "bundle promote d.wgb --channel prod --counter 2"
    made = facts(trust(line + " --json"))
    assert (made["bundle"], made["channel"], made["release_counter"]) == ("vision/digits 1.0.0", "prod", 2)
    assert made["parent"] == before["sha256"]
    refused(trust(line), exits.ERROR, "BUNDLE_EXISTS")
    refused(trust("bundle promote d.wgb --channel dev --counter 2 --out x"), exits.VERIFICATION, "BUNDLE_CHANNEL")
    refused(trust("bundle promote d.wgb --channel prod --counter 1 --out x"), exits.VERIFICATION, "RELEASE_COUNTER")
    assert not (tmp_path / "x").exists()
    facts(trust(SIGN.replace("d.wgb", made["archive"]) + " --event f"))
    assert facts(trust("trust publish f --server trust --json"))["releases"] == {
        "vision/digits/1.0.0/bundle.json": made["sha256"]
    }
    blobs = [facts(trust(f"bundle inspect {name} --json"))["manifest"]["files"] for name in ("d.wgb", made["archive"])]
    assert blobs[0] == blobs[1]


def test_address_without_a_root_is_refused(trust):
    trust(BUILD)
    line = "bundle verify d.wgb --metadata http://127.0.0.1:9"
    refused(trust(line), exits.ERROR, "TRUST_ROOT_NEEDED")
    code, _, err = trust(line + " --root trust/root.json")
    assert code == exits.ERROR
    assert "[METADATA_UNREACHABLE]" in err


def test_metadata_is_read_from_a_servers_address(trust, tmp_path):
    import functools
    import threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            """Say nothing."""

    trust(BUILD)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path / "trust" / "server"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        place = f"--metadata http://127.0.0.1:{server.server_address[1]} --root trust/root.json"
        assert facts(trust(f"bundle sign d.wgb --key trust/keys/team-vision.pem {place} --json"))["complete"]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_onnx_variant_is_run_for_the_answers(shell, tmp_path):
    from pathlib import Path

    import control_plane.demo

    data = Path(control_plane.demo.__path__[0]) / "data"
    images = Contract(
        inputs=[TensorSpec("image", "float32", [1, 8, 8, 1], min=0, max=16, kind="image")],
        outputs=[TensorSpec("probabilities", "float32", [1, 10], min=0, max=1)],
        task="classification",
        labels=[str(digit) for digit in range(10)],
    )
    (tmp_path / "contract.json").write_bytes(encode_contract(images))
    shutil.copy(data / "digits-goldens-1.0.0.npz", "goldens.npz")
    shutil.copy(data / "digits-train.npz", "rows.npz")
    shutil.copy(data / "digits-1.0.0.onnx", "m.onnx")
    project = PROJECT.format(version="1", counter=1).replace("tflite", "onnxruntime", 1)
    (tmp_path / "bundle.toml").write_text(project.replace("m.tflite", "m.onnx"))
    code, _, err = shell("bundle build bundle.toml -o d.wgb")
    assert code == exits.OK
    assert "Running m.onnx" in err
    assert "predicted_class" in err  # named among the columns whose floors are provisional


def test_one_signature_of_a_bundle_as_an_event_leaves_the_archive_alone(trust, tmp_path):
    trust(BUILD)
    before = (tmp_path / "d.wgb").read_bytes()
    made = facts(trust(SIGN + " --event e.zip"))
    assert (made["complete"], made["files"]) == (True, ["2.team-vision.json"])
    assert any("counter 1, channel" in line for line in made["changes"])
    assert (tmp_path / "d.wgb").read_bytes() == before
    assert facts(trust("trust publish e.zip --server trust --json"))["releases"]
    refused(trust(SIGN + " --event f.zip"), exits.CONFLICT, "RELEASE_EXISTS")
    assert not (tmp_path / "f.zip").exists()


def test_nothing_is_written_over_another_event(trust):
    trust(BUILD)
    facts(trust(SIGN + " --event e"))
    refused(trust(SIGN + " --event e"), exits.ERROR, "TRUST_EVENT")


def test_two_bundles_compared(trust, tmp_path):
    trust(BUILD)
    (tmp_path / "bundle.toml").write_text(PROJECT.format(version="1.1.0", counter=2))
    (tmp_path / "m.tflite").write_bytes(bytes(4096))
    trust(BUILD.replace("d.wgb", "e.wgb"))
    told = facts(trust("bundle diff d.wgb e.wgb --json"))
    assert {"1.0.0", "1.1.0"} <= {value for change in told["changes"] for value in change.values()}
    code, out, _ = trust("bundle diff d.wgb e.wgb")
    assert code == exits.OK
    assert out.splitlines()[0].split() == ["What", "Before", "After"]
    made = facts(trust("bundle delta d.wgb e.wgb --out deltas --json"))
    files = [entry["file"] for entry in made if entry["file"]]
    assert files
    assert all(
        (tmp_path / name).stat().st_size == entry["delta_bytes"] for name, entry in zip(files, made, strict=True)
    )


def test_where_a_bundle_comes_from(trust, tmp_path):
    lineage = '\n[lineage]\ntraining_run = "digits-17"\ncode_revision = "0123abc"\n'
    (tmp_path / "bundle.toml").write_text(PROJECT.format(version="1.0.0", counter=1) + lineage)
    trust(BUILD)
    code, out, _ = trust("bundle inspect d.wgb")
    assert code == exits.OK
    assert "digits-17" in out
    assert "0123abc" in out
    assert "digits-17" in facts(trust("bundle inspect d.wgb --json"))["lineage"].values()
    statement = facts(trust("bundle inspect d.wgb --statement"))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"


def test_public_half_of_a_key_file_is_imported_once(shell, tmp_path):
    made = facts(shell("trust key new k.pem --plain --json"))
    for _ in range(2):
        assert facts(shell("trust key import --signer file:k.pem --out holder.pub --json"))["keyid"] == made["keyid"]
    assert (tmp_path / "holder.pub").read_bytes() == (tmp_path / "k.pub").read_bytes()
    shell("trust key new other.pem --plain")
    refused(shell("trust key import --signer other.pem --out holder.pub"), exits.CONFLICT, "KEY_EXISTS")


@pytest.mark.parametrize(
    ("uri", "package"),
    [("awskms:alias/x", "awskms"), ("gcpkms:p/k", "gcpkms"), ("azurekms://v.vault.azure.net/keys/k", "azurekms"),
     ("hv:k/1", "vault")],
)  # fmt: skip
def test_key_service_without_its_package_names_what_to_install(shell, uri, package):
    code, _, err = shell(f"trust key import --signer {uri} --out k.pub")
    assert code == exits.ERROR
    assert "[KEY_UNSUPPORTED]" in err
    assert f"securesystemslib[{package}]" in err


def test_every_trust_command_has_help_and_json(shell):
    import typer

    from control_plane.cli.trust import app

    def leaves(command, path):
        for name, child in getattr(command, "commands", {}).items():
            yield from leaves(child, [*path, name])
        if not hasattr(command, "commands"):
            yield path, command

    found = {" ".join(path): command for path, command in leaves(typer.main.get_command(app), [])}
    assert set(found) == {
        "init", "upgrade", "drill", "status", "sign", "merge", "publish", "advance", "expiry", "renew", "verify",
        "key new", "key import", "key server-ca", "found", "delegate add",
        "delegate rotate", "delegate remove", "delegate kit",
        "floor", "stage add", "stage retire",
        "rotate root", "rotate targets", "rotate online", "rotate director", "rotate revocation", "rotate server-ca",
        "revoke bundle", "revoke key",
    }  # fmt: skip
    for name, command in found.items():
        assert command.help, name
        options = {text for parameter in command.params for text in parameter.opts}
        assert {"--json", "--output"} <= options, name
