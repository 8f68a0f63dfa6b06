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
