"""The machine as /proc and /sys tell of it, and what lies on its disk."""

import hashlib
import json
import os

from agent.diagnose.disk import MOST_SLOTS, slots, tree
from agent.diagnose.machine import processes, resources, temperatures, versions

MEMINFO = "MemTotal:        948308 kB\nMemFree:  1 kB\nMemAvailable:    41200 kB\nSwapTotal: 0 kB\nHugePages_Total: 0\n"


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_disk_memory_load_and_heat(tmp_path):
    proc = write(
        tmp_path / "proc",
        {
            "meminfo": MEMINFO,
            "loadavg": "0.50 0.40 0.30 1/100 812\n",
            "uptime": "4711.25 9000.00\n",
            "pressure/memory": "some avg10=1.00 avg60=2.00 avg300=3.00 total=4\n",
        },
    )
    sys_folder = write(
        tmp_path / "sys/class/thermal",
        {
            "thermal_zone0/type": "cpu-thermal\n",
            "thermal_zone0/temp": "81234\n",
            "thermal_zone1/type": "broken\n",
            "thermal_zone1/temp": "\n",
        },
    ).parents[1]
    told = resources(tmp_path, proc, sys_folder)
    assert told["memory_kib"] == {"MemTotal": 948308, "MemAvailable": 41200, "SwapTotal": 0}
    assert (told["load"], told["uptime_s"]) == ("0.50 0.40 0.30 1/100 812", "4711.25")
    assert told["temperatures"] == {"thermal_zone0 cpu-thermal": 81.234}
    assert told["pressure"]["memory"] == ["some avg10=1.00 avg60=2.00 avg300=3.00 total=4"]
    assert 0 < told["disk"]["free_bytes"] <= told["disk"]["bytes"]
    assert told["disk"]["is_read_only"] is False


def test_hardware_monitors_where_there_is_no_thermal_zone(tmp_path):
    write(tmp_path / "class/hwmon/hwmon2", {"name": "coretemp\n", "temp1_input": "-5000\n", "temp2_input": "x\n"})
    assert temperatures(tmp_path) == {"hwmon2 temp1 coretemp": -5.0}


def test_what_is_not_there_is_left_out(tmp_path):
    told = resources(tmp_path / "gone", tmp_path, tmp_path)
    assert told["memory_kib"] == told["temperatures"] == {}
    assert told["disk"] == {"error": "No such file or directory"}
    json.dumps(told)


def test_own_processes_and_nobody_elses_without_their_arguments(tmp_path):
    def process(pid, parent, name):
        return {
            f"{pid}/status": f"Name:\t{name}\nState:\tS (sleeping)\nPPid:\t{parent}\nVmRSS:\t 9 kB\nThreads:\t2\n",
            f"{pid}/cmdline": "x\0--password\0hunter2\0",
        }

    proc = write(
        tmp_path, process(10, 1, "agent") | process(11, 10, "worker") | process(12, 11, "w2") | process(9, 1, "o")
    )
    (proc / "13").mkdir()
    told = processes(10, proc)
    assert [(one["pid"], one["parent"], one["name"]) for one in told] == [
        (10, 1, "agent"),
        (11, 10, "worker"),
        (12, 11, "w2"),
    ]
    assert "hunter2" not in json.dumps(told)
    assert any(one["pid"] == os.getpid() and one["rss"].endswith("kB") for one in processes(os.getpid()))


def test_versions_of_what_runs():
    told = versions()
    assert {"python", "system", "machine", "numpy"} <= told.keys()


def test_names_and_sizes_and_no_contents(tmp_path):
    write(tmp_path, {"identity/key.pem": "PRIVATE", "status.json": "{}"})
    assert tree(tmp_path) == [f"{2:12} status.json", f"{7:12} identity/key.pem"]
    assert tree(tmp_path / "gone") == []


def test_thousands_of_files_are_told_in_few_lines(tmp_path):
    write(tmp_path, {f"blobs/{n:05}": "x" for n in range(1200)} | {"config.toml": "", "journal/a": "x"})
    lines = tree(tmp_path, 100)
    assert len(lines) < 110
    assert f"{0:12} config.toml" in lines
    assert f"{1:12} journal/a" in lines
    assert any(line.endswith("more in blobs/") for line in lines)


def test_slots_and_pointers(tmp_path):
    manifest = json.dumps({"team": "vision", "model": "digits", "version": "2.0.0"})
    write(
        tmp_path,
        {
            "slots/10/bundle.json": manifest,
            "slots/10/m.onnx": "12345",
            "slots/2/bundle.json": "{damaged",
            "slots/3.part/m.onnx": "",
            "factory/aa/bundle.json": manifest,
            "current.vision+digits": '{"v": 1, "slot": 10, "sha256": "ab"}',
            "current.vision+other": "\0",
        },
    )
    told = slots(tmp_path)
    assert told["pointers"] == {
        "vision/digits": {"v": 1, "slot": 10, "sha256": "ab"},
        "vision/other": {"error": "cannot be read: JSONDecodeError"},
    }
    assert told["slots"][0]["place"] == "3.part"
    assert told["slots"][1:] == [
        {"place": "2", "error": "no manifest that can be read: JSONDecodeError"},
        {
            "place": "10",
            "sha256": hashlib.sha256(manifest.encode()).hexdigest(),
            "model": "vision/digits",
            "version": "2.0.0",
            "bytes": len(manifest) + 5,
        },
    ]
    assert [one["place"] for one in told["factory"]] == ["aa"]


def test_of_thousands_of_slots_it_is_said_how_many(tmp_path):
    for number in range(MOST_SLOTS + 5):
        (tmp_path / "slots" / str(number + 1)).mkdir(parents=True)
    told = slots(tmp_path)
    assert (len(told["slots"]), told["slots_altogether"]) == (MOST_SLOTS, MOST_SLOTS + 5)
