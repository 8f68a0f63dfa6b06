"""The whole support bundle of a folder: what is in it, what never is, and how large it may be."""

import gzip
import io
import json
import random
import tarfile

import pytest

from agent.config import Folders
from agent.core.journal import encode_state
from agent.core.state import Release, Step, UpdaterState
from agent.diagnose.collect import Sources, collect
from agent.diagnose.reading import ABOUT, INDEX, README
from bundles.errors import TryAgain
from bundles.wire.commands import MAX_BUNDLE_BYTES

AT_MS = 1_795_491_533_000
RELEASE = Release("vision/digits/1.0.0/bundle.json", "a" * 64, 100, 1)
STATUS = {
    "device": "cam-1",
    "state": "running",
    "route": "mqtt",
    "troubles": {"metadata": "TRUST_EXPIRED"},
    "spool_dropped": 3,
    "failures": 0,
    "updates": {
        "vision/digits": {
            "step": "rolled_back",
            "reason": "health",
            "code": "HEALTH_ERRORS",
            "detail": "12 % of 40 answers were errors.",
            "releases": {"active": {"version": "1.0.0"}, "previous": {"version": "0.9.0"}},
            "waits_for": "",
        }
    },
}
NETWORK = [
    {"what": "name", "is_ok": True, "detail": "server is 10.0.0.1", "code": "", "remedy": ""},
    {"what": "port", "is_ok": False, "detail": "Nothing listens.", "code": "PORT_CLOSED", "remedy": "Open it."},
]
TRUST = {"timestamp_version": 7, "age_s": 200_000, "level": "warn", "floors": {"vision/digits": 1}, "metadata": []}
OOM = "[86412.345678] Out of memory: Killed process 812 (python3) total-vm:912344kB"


@pytest.fixture
def folders(tmp_path):
    made = Folders(tmp_path / "agent")
    made.root.mkdir()
    (made.root / "journal").mkdir()
    (made.root / "journal" / "vision+digits").write_bytes(
        encode_state(UpdaterState("vision/digits", Step.CONFIRMED, target=RELEASE, committed=RELEASE))
    )
    made.log.parent.mkdir()
    made.log.write_text("2026-11-24 03:00:00,000 WARNING agent.runner.link: lost\n")
    made.log.with_name("agent.log.1").write_text("2026-11-24 02:00:00,000 INFO agent: earlier\n")
    made.config.write_text('hardware = "cam-a"\n')
    made.status.write_text(json.dumps(STATUS))
    return made


def sources(folders, **more):
    probes = {"network": lambda: NETWORK, "trust": lambda: TRUST}
    return Sources(folders, "cam-1", **{"probes": probes, "kernel": lambda: ([OOM], "read from kmsg"), **more})


def unpacked(data):
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        files = {entry.name.partition("/")[2]: archive.extractfile(entry).read() for entry in archive}
        assert {entry.name.partition("/")[0] for entry in archive} == {f"diagnosis-cam-1-{AT_MS // 1000}"}
    return files


def test_everything_that_the_first_minute_needs_is_in_it(folders):
    files = unpacked(collect(sources(folders), AT_MS))
    assert {*ABOUT, INDEX, README, "journal/vision+digits.json"} == files.keys()
    told = {name: json.loads(data) for name, data in files.items() if name.endswith(".json")}
    assert told["status.json"] == STATUS
    assert told["journal/vision+digits.json"]["entry"]["state"]["committed"]["sha256"] == "a" * 64
    assert told["trust.json"] == TRUST
    assert told["network.json"] == NETWORK
    assert told["config.json"] == {"hardware": "cam-a"}
    assert "python" in told["about.json"]["versions"]
    assert {"disk", "memory_kib", "temperatures"} <= told["resources.json"].keys()
    assert files["agent.log"].decode().splitlines() == [
        "2026-11-24 02:00:00,000 INFO agent: earlier",
        "2026-11-24 03:00:00,000 WARNING agent.runner.link: lost",
    ]
    assert b"status.json" in files["disk.txt"]
    assert files["kernel.txt"].decode() == f"# read from kmsg; 1 lines tell of memory, heat or storage\n{OOM}\n"
    assert told[INDEX]["problems"] == told[INDEX]["left_out"] == told[INDEX]["cut"] == {}


def test_the_readme_says_what_stands_out(folders):
    readme = unpacked(collect(sources(folders), AT_MS))[README].decode()
    for sentence in (
        "Support bundle of cam-1, 2026-11-24 03:38:53 UTC by its own clock.",
        f"kernel: 1 lines on memory, heat or storage, the newest: {OOM}",
        "network: port: Nothing listens. [PORT_CLOSED] Open it.",
        "trust: warn: the newest verified metadata is 200000 s old.",
        "vision/digits: rolled_back, reason health [HEALTH_ERRORS] 12 % of 40 answers were errors.",
        "agent: metadata: TRUST_EXPIRED",
        "reports: 3 were dropped, the spool was full.",
        "vision/digits: rolled_back; active 1.0.0, previous 0.9.0",
        "2026-11-24 03:00:00,000 WARNING agent.runner.link: lost",
        "nothing was left out",
    ):
        assert f"  {sentence}\n" in readme or f"{sentence}\n" in readme, sentence


def test_the_reason_is_told_after_the_device_was_told_to_leave_it(folders):
    steps = [
        {"at_ms": 1, "step": "failed", "sha256": "b" * 64, "reason": "load", "code": "TRIAL_LOAD"},
        {"at_ms": 2, "step": "idle", "sha256": "", "reason": "", "code": ""},
    ]
    folders.status.write_text(json.dumps({"updates": {"vision/digits": {"step": "idle", "history": steps}}}))
    readme = unpacked(collect(sources(folders), AT_MS))[README].decode()
    assert "vision/digits: was failed before, reason load [TRIAL_LOAD], bundle bbbbbbbbbbbb\n" in readme


def test_secrets_are_nowhere(folders):
    key = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n-----END PRIVATE KEY-----\n"
    planted = {
        "hunter-2-proxy", "env-value-77", "wge_0123456789abcdefghijklm", "0a1b2c3d4e5f-signature", "label-pass-9",
        "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg", "plain-env-word",
    }  # fmt: skip
    (folders.root / "identity").mkdir()
    (folders.root / "identity" / "key.pem").write_text(key)
    (folders.root / "spool.db").write_text("wge_0123456789abcdefghijklm")
    folders.config.write_text(
        'proxy = "http://bob:hunter-2-proxy@proxy:3128"\n[labels]\nsite = "north"\nwifi_password = "label-pass-9"\n'
    )
    folders.log.write_text(
        f"2026-11-24 03:00:00,000 ERROR a: {key}env-value-77 enrol wge_0123456789abcdefghijklm, bob:hunter-2-proxy\n"
        "2026-11-24 03:00:00,000 INFO a: GET https://b/x?X-Amz-Signature=0a1b2c3d4e5f-signature label-pass-9 harmless\n"
    )
    folders.status.write_text(json.dumps(STATUS | {"note": "https://b/x?sig=0a1b2c3d4e5f-signature env-value-77"}))
    environ = {"MY_API_KEY": "env-value-77", "LANG": "plain-env-word"}
    probes = {"network": lambda: [{"detail": "http://bob:hunter-2-proxy@proxy:3128", "key": key}]}
    files = unpacked(collect(sources(folders, environ=environ, probes=probes), AT_MS))
    whole = b"\n".join(files.values()).decode()
    assert [secret for secret in planted if secret in whole] == []
    assert "harmless" in whole
    assert '"site": "north"' in whole
    json.loads(files["status.json"])


def test_a_log_of_a_hundred_megabytes_and_thousands_of_slots(folders):
    draw = random.Random(7)
    block = "".join(f"2026-11-24 03:00:{n % 60:02},000 WARNING a: {draw.getrandbits(200):x}\n" for n in range(2000))
    with folders.log.open("w") as log:
        log.seek(100 << 20)  # a hole: nobody reads what is that old
        log.write(block * 10)
        log.write("2026-11-24 04:00:00,000 ERROR a: the newest line\n")
    for number in range(3000):
        (folders.root / "slots" / str(number)).mkdir(parents=True)
        (folders.root / "slots" / str(number) / "bundle.json").write_text('{"team": "t", "model": "m"}')
    for number in range(50):
        (folders.root / "journal" / f"t+m{number}").write_bytes(b"no journal")
    models = {f"t/m{n}": {"step": "idle", "reason": draw.getrandbits(200).to_bytes(25).hex()} for n in range(4000)}
    folders.status.write_text(json.dumps(STATUS | {"updates": models, "failures": 2}))
    data = collect(sources(folders), AT_MS)
    assert len(data) <= MAX_BUNDLE_BYTES
    files = unpacked(data)
    index, readme = json.loads(files[INDEX]), files[README].decode()
    assert files["agent.log"].endswith(b"the newest line\n")
    assert index["left_out"]["status.json"] == ["updates: 3800 of 4000 left out"]
    assert index["left_out"]["journal/"] == ["19 of 51 left out"]
    assert "older bytes not read" in index["left_out"]["agent.log"][0]
    assert json.loads(files["slots.json"])["slots_altogether"] == 3000
    assert "status.json: updates: 3800 of 4000 left out" in readme
    assert len(readme) < 32_000


def test_it_is_smaller_where_less_is_allowed_and_says_so(folders):
    draw = random.Random(7)
    folders.log.write_text("".join(f"2026-11-24 03:00:00 INFO a: {draw.getrandbits(256):064x}\n" for _ in range(9000)))
    data = collect(sources(folders), AT_MS, 64 << 10)
    assert len(data) <= 64 << 10
    files = unpacked(data)
    assert "bytes did not fit" in json.loads(files[INDEX])["cut"]["agent.log"]
    assert "agent.log: the first" in files[README].decode()


def test_a_folder_in_ruins_is_told_as_far_as_it_goes(tmp_path):
    def refuse():
        raise TryAgain("The store is busy.", code="NOT_READY", remedy="Ask again.")

    def broken():
        raise RuntimeError("password=hunter2")

    folders = Folders(tmp_path / "nothing")
    data = collect(Sources(folders, "cam-1", {"trust": refuse, "network": broken}, kernel=lambda: ([], "none")), AT_MS)
    files = unpacked(data)
    problems = json.loads(files[INDEX])["problems"]
    assert problems.keys() == {"status.json", "trust.json", "network.json"}
    assert "The store is busy." in problems["trust.json"]
    assert problems["network.json"] == "RuntimeError: password=[removed]"
    assert b"The agent has written no log here." in files["agent.log"]
    assert "trust.json: " in files[README].decode()


@pytest.mark.parametrize("status", ["[]", '{"updates": [1], "troubles": 7, "spool_dropped": "x"}', "null", "7", "{"])
def test_a_status_of_another_form_breaks_nothing(folders, status):
    folders.status.write_text(status)
    files = unpacked(collect(sources(folders, probes={"network": lambda: {"a": 1}, "trust": lambda: None}), AT_MS))
    assert README in files
    assert INDEX in files
