"""``wavegate-agent factory install`` as a person types it: asked of real trust, then there for ever."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bundles.archive import open_archive
from bundles.build import BuildSpec, VariantSource, build
from bundles.contract import parse_contract

MODEL = "vision/digits"


@pytest.fixture
def command():
    started = []

    def run(*arguments, wait=True):
        line = [sys.executable, "-m", "agent.cli", *map(str, arguments)]
        if wait:
            done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
            return done.returncode, done.stdout, done.stderr
        started.append(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def enroll(command, server, server_ca, publisher, short_path, probed, tmp_path):
    (tmp_path / "server-ca.pem").write_text(server_ca.pem)

    def enroll(*more):
        folder = short_path / "cam-1"
        code, _, err = command(
            "enroll", "--dir", folder, "--url", server.url, "--token", "good-token", "--name", "cam-1",
            "--hardware", "cam-a", "--ca", tmp_path / "server-ca.pem", "--root", publisher.root_path,
            "--runtime", "onnxruntime", *more,
        )  # fmt: skip
        assert code == 0, err
        probed(folder, "onnxruntime")
        return folder

    return enroll


@pytest.fixture
def answers(command, until, tmp_path):
    """Return which version answers, once one does."""
    np.save(tmp_path / "zero.npy", np.zeros((1, 8, 8, 1), np.float32))

    def ask(folder):
        code, out, _ = command("infer", MODEL, "--dir", folder, "--input", tmp_path / "zero.npy")
        return json.loads(out)["version"] if code == 0 else None

    return lambda folder: until(lambda: ask(folder), 60, "an answer")


def standing(folder):
    """Return (version that answers, phase) as the status file tells it."""
    try:
        told = json.loads((folder / "status.json").read_text())["models"][MODEL]
        return told["version"], told["phase"]
    except (OSError, ValueError, KeyError):
        return "", ""


def test_damage_is_mended_and_a_device_that_lost_all_but_its_factory_bundle_answers_with_it(
    command, enroll, publisher, server, until, answers
):
    first, second = publisher.publish("1.0.0", 1), publisher.publish("1.1.0", 2)
    folder = enroll()
    code, out, err = command("factory", "install", publisher.folder / "1.0.0-1.wgb", "--dir", folder)
    assert (code, out.strip()) == (0, first.sha256), err
    assert first.sha256 in (folder / "config.toml").read_text(), "on-call revocation does not reach it from now on"
    publisher.desire("cam-1", second)
    agent = command("run", "--dir", folder, wait=False)
    until(lambda: standing(folder) == ("1.1.0", "confirmed"), 90, "1.1.0 confirmed")
    assert answers(folder) == "1.1.0"
    assert command("factory", "install", publisher.folder / "1.0.0-1.wgb", "--dir", folder)[0] == 5, "the agent runs"
    agent.kill()
    agent.wait()

    archive = open_archive(publisher.folder / "1.1.0-2.wgb")
    variant = next(v for v in archive.manifest.variants if v.runtime == "onnxruntime")
    blob = next(entry.sha256 for entry in archive.manifest.files if entry.path == variant.file)
    with (folder / "blobs" / "sha256" / blob).open("r+b") as stream:  # and so the slot
        stream.write(b"\x00" * 64)
    begun = len(server.requests)
    agent = command("run", "--dir", folder, wait=False)
    until(lambda: any(path.endswith(blob) for _, path, _ in server.requests[begun:]), 60, "the damage found")
    assert answers(folder) in ("1.0.0", "1.1.0"), "the factory release, or the mended one"
    until(lambda: standing(folder) == ("1.1.0", "confirmed"), 90, "1.1.0 mended")
    assert answers(folder) == "1.1.0"
    fetched = [path for _, path, _ in server.requests[begun:] if path.startswith("/v1/blobs/")]
    assert len(fetched) == 1, "what was damaged, once: neither the rest of the release nor again and again"
    agent.terminate()
    assert agent.wait(20) == 0

    server.stop()  # nobody to ask, ever again
    for name in ("journal", "slots", "blobs"):
        shutil.rmtree(folder / name)
    (folder / "current.vision+digits").unlink()
    agent = command("run", "--dir", folder, wait=False)
    assert answers(folder) == "1.0.0"
    assert "vision/digits 1.0.0 (factory)" in command("selftest", "--dir", folder)[1]
    agent.terminate()
    agent.wait(20)
    copy = next((folder / "factory" / first.sha256).rglob("*.onnx"))
    copy.write_bytes(b"x" * copy.stat().st_size)
    code, out, err = command("selftest", "--dir", folder)
    assert code != 0
    assert "STORE_CORRUPT" in out + err, "a damaged factory bundle is told before it is needed"


def test_a_bundle_that_nobody_signed_is_no_factory_bundle(command, enroll, publisher, tmp_path):
    folder = enroll()
    publisher.publish("1.0.0", 1)
    archive = open_archive(publisher.folder / "1.0.0-1.wgb")
    spec = BuildSpec(
        team="vision",
        model="digits",
        version="6.6.6",
        release_counter=66,
        channel="prod",
        created_ms=0,
        contract=parse_contract(archive.read(archive.manifest.file_with_role("contract"))),
        variants=[VariantSource("onnx-int8", "onnxruntime", publisher.data / "digits-1.0.0.onnx")],
        goldens=publisher.data / "digits-goldens-1.0.0.npz",
        rows=publisher.rows,
    )
    build(spec, tmp_path / "unsigned.wgb")
    before = (folder / "config.toml").read_text()
    code, _, err = command("factory", "install", tmp_path / "unsigned.wgb", "--dir", folder)
    assert code != 0
    assert "TRUST_" in err
    assert (folder / "config.toml").read_text() == before
    assert not (folder / "factory").exists()


def test_enrolling_may_place_the_factory_bundle_too(command, enroll, publisher, server, answers):
    publisher.publish("1.0.0", 1)
    folder = enroll("--factory", publisher.folder / "1.0.0-1.wgb")
    server.stop()
    command("run", "--dir", folder, wait=False)
    assert answers(folder) == "1.0.0"


def test_trust_is_asked_by_the_ways_that_the_settings_name(command, enroll, publisher):
    """Behind a proxy that the environment names, as the running agent would go."""
    publisher.publish("1.0.0", 1)
    folder = enroll()
    config = folder / "config.toml"
    config.write_text('proxy = "http://127.0.0.1:9"\n' + config.read_text())
    code, _, err = command("factory", "install", publisher.folder / "1.0.0-1.wgb", "--dir", folder)
    assert code != 0
    assert "SERVER_UNREACHABLE" in err or "PROXY" in err, err
    config.write_text('no_proxy = ["127.0.0.1"]\n' + config.read_text())
    code, _, err = command("factory", "install", publisher.folder / "1.0.0-1.wgb", "--dir", folder)
    assert code == 0, err
