"""The unit as systemd itself judges it, and the agent's inference under what the unit forbids."""

import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from agent.service.install import install, uninstall
from agent.service.unit import UNIT, Device, Plan, files
from bundles.errors import AskPerson, Refused

HERE = Path(__file__).parent
LIMIT = 2.0
DEVICES = ("/dev/dri/renderD128", "char-drm", "/dev/nvidia0", "/dev/apex_0", "/dev/bus/usb/001/002")
PLAN = Plan(program=("/usr/bin/wavegate-agent",), folder=PurePosixPath("/var/lib/wavegate"))


@pytest.fixture
def root(tmp_path):
    """A folder that stands for a device's root, with the agent's program in it."""
    program = tmp_path / "usr" / "bin" / "wavegate-agent"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return tmp_path


def exposure(root):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--root={root}", "--no-pager", UNIT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for .*: ([\d.]+) ", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


@pytest.mark.parametrize("device", [None, *DEVICES], ids=lambda device: device or "no device")
def test_systemd_finds_it_hardened(root, device, capsys):
    plan = Plan(PLAN.program, PLAN.folder, devices=(Device(device, "video"),) if device else (), memory_max_mib=512)
    install(plan, root)
    found = exposure(root)
    with capsys.disabled():
        print(f" exposure {found}", end="")
    assert found <= LIMIT


def test_systemd_understands_every_line(root):
    install(Plan(PLAN.program, PLAN.folder, devices=tuple(map(Device, DEVICES))), root)
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "--man=no", "--recursive-errors=no", UNIT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    own = [line for line in done.stderr.splitlines() if "wavegate" in line]
    assert own == []


def test_doing_it_again_changes_nothing_and_taking_it_away_leaves_what_is_not_ours(root):
    plan = Plan(PLAN.program, PLAN.folder, devices=(Device("/dev/dri/renderD128", "render"),))
    assert {change.what for change in install(plan, root)} == {"written"}
    assert {change.what for change in install(plan, root)} == {"unchanged"}
    theirs = root / "etc" / "systemd" / "system" / f"{UNIT}.d" / "override.conf"
    theirs.write_text("[Service]\nNice=5\n")
    changes = install(PLAN, root)
    assert {change.path.name: change.what for change in changes if change.what != "unchanged"} == {
        "wavegate-dri-renderD128.conf": "removed"
    }
    assert {change.what for change in uninstall(root)} == {"removed"}
    assert theirs.exists()
    assert uninstall(root) == []


def test_what_would_not_start_is_refused():
    for plan, code in (
        (Plan(("/usr/bin/wavegate agent",), PLAN.folder), "UNIT_WORD"),
        (Plan(PLAN.program, PurePosixPath("/tmp/cam-1")), "UNIT_FOLDER"),
        (Plan(PLAN.program, PLAN.folder, devices=(Device("/etc/passwd"),)), "UNIT_DEVICE"),
    ):
        with pytest.raises(Refused) as caught:
            files(plan)
        assert caught.value.code == code


def test_a_folder_in_a_home_can_be_seen_and_roots_service_needs_no_group():
    text = files(Plan(PLAN.program, PurePosixPath("/home/pi/cam-1")))[PurePosixPath(f"/etc/systemd/system/{UNIT}")]
    assert "ProtectHome=read-only" in text
    assert "ReadWritePaths=/home/pi/cam-1" in text
    made = files(Plan(PLAN.program, PLAN.folder, user="root"))
    assert len(made) == 1
    assert "systemd-journal" not in "".join(made.values())
    assert "g systemd-journal" in files(PLAN)[PurePosixPath("/etc/sysusers.d/wavegate-agent.conf")]


def test_the_command_tells_what_it_did_and_refuses_where_it_may_not(root, tmp_path):
    def command(*words):
        return subprocess.run(
            [sys.executable, "-m", "agent.cli", *words], capture_output=True, text=True, check=False, cwd="/"
        )

    common = ("--dir", "/var/lib/wavegate", "--root", str(root))
    done = command("install-service", *common, "--json")
    assert done.returncode == 0, done.stderr
    assert '"what": "written"' in done.stdout
    assert "Nothing was started" in done.stderr
    shown = command("install-service", "--dir", "/var/lib/wavegate", "--print")
    assert "Type=notify" in shown.stdout
    (tmp_path / "file").write_text("")
    refused = command("install-service", "--dir", "/var/lib/wavegate", "--root", str(tmp_path / "file"))
    assert (refused.returncode != 0, "SERVICE_FILES" in refused.stderr) == (True, True), refused.stderr
    assert '"what": "removed"' in command("uninstall-service", "--root", str(root), "--json").stdout


def test_no_file_is_written_where_the_folder_cannot_be(tmp_path):
    (tmp_path / "etc").write_text("a file")
    with pytest.raises(AskPerson) as caught:
        install(PLAN, tmp_path)
    assert caught.value.code == "SERVICE_FILES"


FORBIDDEN = """
import ctypes, mmap, os
def refused(call):
    try:
        call()
    except OSError as error:
        return error.errno
libc = ctypes.CDLL(None, use_errno=True)
print(
    refused(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)),
    refused(lambda: os.chroot("/")),
    libc.mount(b"a", b"/", b"tmpfs", 0, None), ctypes.get_errno(),
)
"""


@pytest.fixture
def under_unit(root):
    """Run Python under the unit's filter of system calls; returns what it printed."""
    install(PLAN, root)
    unit = root / "etc" / "systemd" / "system" / UNIT

    def run(*words, **environment):
        done = subprocess.run(
            [sys.executable, HERE / "under_unit.py", unit, sys.executable, *words],
            capture_output=True, text=True, check=False, env=os.environ | environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_what_the_unit_forbids_is_refused(under_unit):
    assert under_unit("-c", FORBIDDEN).split() == ["13", "1", "-1", "1"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert", "tflite"])
def test_a_model_answers_under_the_unit(under_unit, runtime, tmp_path):
    """In a worker process of the real engine, as in the service; and it is what it answers without."""
    words = [str(HERE / "answer.py"), runtime]
    free = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout
    assert under_unit(*words) == free
    assert len(free.split()) == 10


@pytest.mark.parametrize("is_there", [False, True], ids=["first", "again"])
def test_an_installation_that_fails_half_way_is_taken_back(root, is_there):
    if is_there:
        install(Plan(PLAN.program, PLAN.folder, memory_max_mib=256), root)
        (root / "etc/sysusers.d").rename(root / "users")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/sysusers.d").write_text("a file where the last folder should be")
    with pytest.raises(AskPerson) as caught:
        install(Plan(PLAN.program, PLAN.folder, memory_max_mib=512), root)
    assert caught.value.code == "SERVICE_FILES"
    assert "Nothing was changed" in str(caught.value)
    (root / "etc/sysusers.d").unlink()
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
