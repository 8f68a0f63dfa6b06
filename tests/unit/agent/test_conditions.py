"""What on a device speaks against an update, read from files in the kernel's form and a real lock."""

import os
import subprocess
import sys

import pytest

from agent.client import Client
from agent.conditions import (
    MODEL_FACTOR,
    WAIT_MS,
    WORKER_BYTES,
    Conditions,
    Limits,
    Maintenance,
    NoConditions,
    Places,
    battery_percent,
)
from agent.core.windows import WindowRefused
from agent.lock import held, is_held
from bundles.errors import AskPerson, TryAgain

NOON = 1_795_521_600_000  # 2026-11-24 12:00 UTC
ROUTES = "Iface\tDestination\tGateway\neth0\t0000A8C0\t00000000\nwwan0\t00000000\t0100A8C0\n"


class Rig:
    """One device's facts, as files."""

    def __init__(self, folder):
        self.folder = folder
        self.lock = folder / "update.lock"
        self.now_ms = NOON
        self.manager = ""
        (folder / "routes").write_text(ROUTES)
        (folder / "meminfo").write_text("MemTotal: 4000000 kB\nMemAvailable: 2000000 kB\n")

    def conditions(self, **limits):
        places = Places(
            supplies=self.folder / "supplies",
            meminfo=self.folder / "meminfo",
            routes=self.folder / "routes",
            network_manager=self.ask_manager,
        )
        return Conditions(Limits(**{"metered": "no", **limits}), self.lock, lambda: self.now_ms, places)

    def ask_manager(self):
        if isinstance(self.manager, Exception):
            raise self.manager
        return self.manager

    def supply(self, name, **facts):
        folder = self.folder / "supplies" / name
        folder.mkdir(parents=True, exist_ok=True)
        for key, value in facts.items():
            (folder / key).write_text(f"{value}\n")


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


def code(conditions, stage, bytes_needed=1):
    try:
        conditions.check(stage, bytes_needed)
    except TryAgain as error:
        return error.code if error.sentence and error.remedy else f"{error.code} without words"
    return ""


def test_without_limits_nothing_speaks_against_anything(rig):
    for conditions in (rig.conditions(), NoConditions()):
        assert (code(conditions, "download"), code(conditions, "activate")) == ("", "")


def test_a_window_governs_the_activation_and_tells_when_it_opens(rig):
    conditions = rig.conditions(windows=[Maintenance("0 2 * * *", 4).window()])
    assert code(conditions, "download") == ""
    with pytest.raises(TryAgain) as caught:
        conditions.check("activate", 1)
    assert (caught.value.code, caught.value.details[WAIT_MS]) == ("CONDITION_WINDOW", 14 * 3_600_000)
    assert "2026-11-25 02:00 UTC" in caught.value.sentence
    rig.now_ms += 14 * 3_600_000
    assert code(conditions, "activate") == ""


def test_a_window_is_kept_in_local_time():
    window = Maintenance("0 13 * * *", 1, "Europe/Berlin").window()
    assert window.is_open(NOON)
    with pytest.raises(WindowRefused):
        Maintenance("0 13 * * *", 1, "Europe/Atlantis").window()


def test_an_applications_lock_governs_the_activation(rig):
    conditions = rig.conditions()
    client, other = Client(rig.folder / "socket"), Client(rig.folder / "socket")
    with client.update_lock(), other.update_lock():  # as many as like
        assert code(conditions, "download") == ""
        assert code(conditions, "activate") == "CONDITION_LOCK"
        with pytest.raises(TryAgain, match=rf"held by .*{os.getpid()}"):
            conditions.check("activate", 1)
    assert code(conditions, "activate") == ""


def test_the_lock_of_an_application_that_dies_is_let_go(rig):
    conditions = rig.conditions()
    program = (
        "import sys, time; from agent.client import Client\n"
        "with Client(sys.argv[1]).update_lock(): print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, rig.folder / "socket"], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    assert code(conditions, "activate") == "CONDITION_LOCK"
    child.kill()
    child.wait()
    child.stdout.close()
    assert code(conditions, "activate") == ""


def test_a_lock_that_cannot_be_taken_says_what_to_do(tmp_path):
    with pytest.raises(AskPerson) as caught, Client(tmp_path / "no" / "socket").update_lock():
        pass
    assert caught.value.code == "LOCK_FORBIDDEN"
    assert not is_held(tmp_path / "no" / "update.lock")


def test_what_the_application_raises_lets_go(rig):
    with pytest.raises(OSError, match="its own"), Client(rig.folder / "socket").update_lock():
        raise OSError("its own")
    assert not is_held(rig.lock)


def test_the_locks_file_is_for_the_group(rig):
    before = os.umask(0o077)
    try:
        rig.conditions()
    finally:
        os.umask(before)
    assert rig.lock.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("supplies", "percent"),
    [
        ({}, None),
        ({"BAT0": {"type": "Battery", "capacity": 40, "status": "Discharging"}}, 40),
        ({"BAT0": {"type": "Battery", "capacity": 40, "status": "Charging"}}, None),
        ({"BAT0": {"type": "Battery", "capacity": 100, "status": "Full"}}, None),
        ({"BAT0": {"type": "Battery", "capacity": 40, "status": "Not charging"}}, 40),
        (
            {
                "BAT0": {"type": "Battery", "capacity": 5, "status": "Discharging"},
                "BAT1": {"type": "Battery", "capacity": 70, "status": "Discharging"},
            },
            70,
        ),
        (
            {
                "AC": {"type": "Mains", "online": 1},
                "BAT0": {"type": "Battery", "capacity": 9, "status": "Not charging"},
            },
            None,
        ),
        (
            {"AC": {"type": "Mains", "online": 0}, "BAT0": {"type": "Battery", "capacity": 9, "status": "Discharging"}},
            9,
        ),
        ({"mouse": {"type": "Battery", "scope": "Device", "capacity": 3, "status": "Discharging"}}, None),
        ({"BAT0": {"type": "Battery", "present": 0, "capacity": 0, "status": "Unknown"}}, None),
        ({"BAT0": {"type": "Battery", "status": "Discharging"}}, None),
    ],
)
def test_the_charge_of_the_battery(rig, supplies, percent):
    for name, facts in supplies.items():
        rig.supply(name, **facts)
    assert battery_percent(rig.folder / "supplies") == percent


def test_a_low_battery_holds_back_both_stages_until_it_is_charged(rig):
    conditions = rig.conditions(min_battery_percent=30)
    rig.supply("BAT0", type="Battery", capacity=29, status="Discharging")
    assert {code(conditions, stage) for stage in ("download", "activate")} == {"CONDITION_BATTERY"}
    rig.supply("BAT0", status="Charging")
    assert {code(conditions, stage) for stage in ("download", "activate")} == {""}
    rig.supply("BAT0", status="Discharging", capacity=30)
    assert {code(conditions, stage) for stage in ("download", "activate")} == {""}
    rig.supply("BAT0", capacity=1)
    assert code(rig.conditions(), "activate") == "", "0 = whatever the battery says"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("wwan0:yes", "CONDITION_METERED"),
        ("wwan0:yes (guessed)", "CONDITION_METERED"),
        ("wwan0:no (guessed)", ""),
        ("wwan0:unknown", ""),
        ("eth0:yes\nwwan0:no", ""),  # another device than the one that carries the traffic
        ("", ""),
        (FileNotFoundError("nmcli"), ""),
        (subprocess.TimeoutExpired("nmcli", 5), ""),
    ],
)
def test_network_manager_is_believed_where_it_says_yes(rig, told, expected):
    rig.manager = told
    conditions = rig.conditions(metered="auto")
    assert (code(conditions, "download"), code(conditions, "activate")) == (expected, "")


def test_the_owner_decides_about_metered_networks(rig):
    rig.manager = "wwan0:yes"
    assert code(rig.conditions(metered="no"), "download") == ""
    assert code(rig.conditions(metered="yes"), "download") == "CONDITION_METERED"
    assert code(rig.conditions(metered="yes", metered_download=True), "download") == ""


def test_nmcli_is_asked_in_its_own_words(rig, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "nmcli"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        "[ \"$*\" = '-t -f GENERAL.DEVICE,GENERAL.METERED device show' ] || exit 2\n"
        "printf 'GENERAL.DEVICE:eth0\\nGENERAL.METERED:no\\n\\n'\n"
        "printf 'GENERAL.DEVICE:wwan0\\nGENERAL.METERED:yes (guessed)\\n'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    places = Places(routes=tmp_path / "routes")
    conditions = Conditions(Limits(metered="auto"), rig.lock, lambda: NOON, places)
    assert code(conditions, "download") == "CONDITION_METERED"
    program.write_text("#!/bin/sh\nexit 8\n")  # NetworkManager is not running
    assert code(conditions, "download") == ""


def test_memory_is_asked_for_by_the_models_size(rig):
    conditions = rig.conditions()
    fits = (2_000_000 * 1024 - WORKER_BYTES) // MODEL_FACTOR
    assert code(conditions, "activate", fits) == ""
    assert code(conditions, "activate", fits + 1) == "CONDITION_MEMORY"
    assert code(conditions, "download", fits + 1) == "", "bytes to fetch, not to load"
    (rig.folder / "meminfo").write_text("nothing of use")
    assert code(conditions, "activate", fits + 1) == "", "what cannot be told holds back nothing"


def test_the_status_names_everything_that_speaks_against_something(rig):
    rig.supply("BAT0", type="Battery", capacity=5, status="Discharging")
    never = Maintenance("0 0 30 2 *", 1).window()
    conditions = rig.conditions(windows=[never], min_battery_percent=30, metered="yes")
    with held(rig.lock):
        told = [(entry["stage"], entry["code"], entry[WAIT_MS]) for entry in conditions.now()]
    assert told == [
        ("download", "CONDITION_BATTERY", 0),
        ("download", "CONDITION_METERED", 0),
        ("activate", "CONDITION_WINDOW", 0),
        ("activate", "CONDITION_LOCK", 0),
        ("activate", "CONDITION_BATTERY", 0),
    ]
