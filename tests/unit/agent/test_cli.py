import json
import subprocess
import sys

import pytest

from agent.cli import exit_code, main
from bundles.errors import AskPerson, Refused, TrustRefused, TryAgain


def test_version_goes_to_stdout(capsys):
    assert main(["version"]) == 0
    assert capsys.readouterr().out.count(".") == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TrustRefused("x", code="TRUST_FLOOR"), 6),
        (AskPerson("x", code="NOT_ENROLLED"), 5),
        (Refused("x", code="MODEL_UNKNOWN"), 3),
        (Refused("x", code="ENROL_TOKEN", details={"status": 403}), 4),
        (Refused("x", code="ENROL_KEY", details={"status": 409}), 5),
        (TryAgain("x", code="SERVER_UNREACHABLE"), 1),
    ],
)
def test_exit_codes_tell_what_kind_of_failure_it_was(error, code):
    assert exit_code(error) == code


def test_an_error_is_one_line_with_code_sentence_and_remedy_on_stderr(capsys, tmp_path):
    assert main(["status", "--dir", str(tmp_path)]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("[NOT_FOUND] ")
    assert captured.err.count("\n") == 1


def status_file(folder, **more):
    model = {"version": "1.1.0", "variant": "a", "runtime": "fake", "phase": "confirmed", **more.pop("model", {})}
    status = {"device": "cam-1", "state": "running", "route": "mqtt", "gen": 3, "labelled": {}, **more}
    (folder / "status.json").write_text(json.dumps({**status, "models": {"vision/digits": model}}))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"trust_age_s": 86_400 * 20, "trust_level": "warn"}, "20.0 days old: WARNING"),
        ({"trust_age_s": 86_400 * 43, "trust_level": "alarm"}, "43.0 days old: ALARM"),
        ({"troubles": {"metadata": "TRUST_EXPIRED_TIMESTAMP"}}, "metadata: TRUST_EXPIRED_TIMESTAMP"),
        ({"model": {"revoked": "warned"}}, "revoked by too few signatures to stop it"),
        ({"model": {"revoked": "revoked", "safe_mode": "stop"}}, "REVOKED; requests are refused with SAFE_MODE"),
    ],
)
def test_status_says_in_words_how_trust_stands(capsys, tmp_path, said, words):
    status_file(tmp_path, **said)
    assert main(["status", "--dir", str(tmp_path)]) == 0
    assert words in capsys.readouterr().out


def test_the_status_of_an_agent_of_release_0_1_0_is_read(capsys, tmp_path):
    status_file(tmp_path)
    assert main(["status", "--dir", str(tmp_path)]) == 0
    assert "WARNING" not in capsys.readouterr().out


def test_a_demos_root_is_refused_before_anything_is_enrolled(capsys, tmp_path):
    root, ca = tmp_path / "root.json", tmp_path / "ca.pem"
    root.write_text('{"signed": {"_type": "root", "x-demo": true}, "signatures": []}')
    ca.write_text("")
    where = ["--url", "https://127.0.0.1:1", "--token", "t", "--ca", str(ca), "--root", str(root)]
    assert main(["enroll", "--dir", str(tmp_path / "a"), *where]) == 1
    assert "[TRUST_DEMO_KEYS]" in capsys.readouterr().err
    assert main(["enroll", "--dir", str(tmp_path / "a"), *where, "--allow-demo-keys"]) == 1
    assert "[SERVER_CA]" in capsys.readouterr().err, "past the root, on to what is missing next"


def test_usage_errors_exit_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["enroll", "--dir", "x"])
    assert caught.value.code == 2
    assert "--url" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["version"], ["status", "--dir", "/nonexistent"]])
def test_small_commands_import_nothing_heavy(arguments):
    program = (
        "import sys; from agent.cli import main; main(sys.argv[1:]); "
        "print([m for m in ('numpy','httpx','paho','tuf','cryptography','sqlite3','onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
