"""``scripts/fuzz``: every target on the same few hundred inputs each time, and proof that it can find something.

The seeded runs need nothing installed. That coverage guides the real ones is for ``scripts/fuzz`` itself; one short
run of it is among the slow tests.
"""

import json
import random

import fuzz
import pytest
from fuzzing import guided, plain
from fuzzing.mutation import mutate_bytes, mutate_json, read_tree, write_tree
from fuzzing.targets import archive, delta, kit, manifest, metadata, wire

import bundles.manifest
import bundles.wire.codec
from bundles.errors import BundleRefused
from bundles.manifest import parse_manifest

SEED = 20260
RUNS = {"archive": 400, "delta": 400, "kit": 100, "manifest": 1500, "metadata": 60, "wire": 3000}
TARGETS = {module.TARGET.name: module.TARGET for module in (archive, delta, kit, manifest, metadata, wire)}


def test_every_module_of_targets_that_offers_one_is_a_target():
    assert fuzz.names() == sorted(TARGETS) == sorted(RUNS)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_nothing_is_found_among_the_inputs_of_a_fixed_seed(name):
    """Seed 20260; on a failure replay with: scripts/fuzz NAME --runs N --seed 20260."""
    run = plain.run_and_keep(TARGETS[name], RUNS[name], SEED)
    assert run.error is None, f"seed {SEED}\n{run.error}\n{run.data!r}"
    assert run.executions == RUNS[name] + len(TARGETS[name].samples())


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_same_seed_gives_the_same_inputs_and_another_one_others(name):
    first, again, other = (list(plain.inputs(TARGETS[name], 20, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_mutations_leave_the_samples_as_they_are(name):
    before = dict(TARGETS[name].samples())
    list(plain.inputs(TARGETS[name], 50, 1))
    assert TARGETS[name].samples() == before


def test_a_parser_that_lets_another_exception_through_is_found(monkeypatch):
    def careless(data):
        if b"NaN" in data:
            raise KeyError("NaN")
        return parse_manifest(data)

    monkeypatch.setattr(manifest, "parse_manifest", careless)
    run = plain.run_and_keep(manifest.TARGET, 5000, SEED)
    assert run.error is not None
    assert "KeyError" in run.error
    assert b"NaN" in run.data


PLANTED = {
    "duplicate keys": (bundles.manifest, "_strict_json", lambda data: json.loads(data)),
    "any path": (bundles.manifest, "check_path", lambda path: None),
    "any critical": (bundles.manifest, "UNDERSTOOD_CRITICAL", type("All", (), {"__contains__": lambda *_: True})()),
}


@pytest.mark.parametrize("mistake", sorted(PLANTED))
def test_a_manifest_wrongly_accepted_is_found(monkeypatch, mistake):
    monkeypatch.setattr(*PLANTED[mistake])
    assert plain.run_and_keep(manifest.TARGET, 8_000, SEED).error is not None


def test_a_message_that_changes_is_found(monkeypatch):
    monkeypatch.setattr(wire.codec, "encode", lambda message: b"{}")
    assert plain.run_and_keep(wire.TARGET, 10, SEED).error is not None


def test_an_unsigned_document_taken_for_the_directors_is_found(monkeypatch):
    monkeypatch.setattr("tuf.api.metadata.Targets.verify_delegate", lambda *_: None)
    found = plain.run_and_keep(wire.TARGET, 5_000, SEED)
    assert "WrongAcceptance: a document that the director never signed" in (found.error or "")


def test_metadata_nobody_signed_and_a_server_publishes_is_found(monkeypatch):
    class Good:
        verified, signed, threshold = True, {"k": 1}, 1

        def __bool__(self):
            return True

    monkeypatch.setattr("tuf.api.metadata.Targets.get_verification_result", lambda *_: Good())
    monkeypatch.setattr("tuf.api.metadata.Root.get_verification_result", lambda *_: Good())
    monkeypatch.setattr("tuf.api.metadata.Root.verify_delegate", lambda *_: None)
    monkeypatch.setattr("tuf.api.metadata.Targets.verify_delegate", lambda *_: None)
    assert plain.run_and_keep(metadata.TARGET, 3000, SEED).error is not None


def test_a_delta_that_makes_another_file_is_found(monkeypatch):
    honest = delta.apply_delta

    def careless(pieces, base, write, *, sha256, length):
        try:
            return honest(pieces, base, write, sha256=sha256, length=length)
        except BundleRefused as refusal:
            if refusal.code != "DELTA_RESULT":
                raise
            return True

    monkeypatch.setattr(delta, "apply_delta", careless)
    found = plain.run_and_keep(delta.TARGET, 2000, SEED)
    assert "WrongAcceptance: another file than the signed one" in (found.error or "")


@pytest.mark.parametrize("text", ['{"a":1,"a":[2,{"b":NaN}]}', "[1e999,-0,[]]", '"\\ud800"', "null", "1" * 5000])
def test_a_json_tree_is_written_as_it_was_read(text):
    assert write_tree(read_tree(text.encode())).decode() == text


def test_mutations_end_on_anything():
    rng = random.Random(SEED)
    for data in (b"", b"{}", b"[]", b"1", b"\xff", b"[" * 3000 + b"]" * 3000):
        for _ in range(300):
            mutate_bytes(data, rng)
            mutate_json(data, rng)


def test_figures_of_a_run_name_what_was_tried_found_and_reached(capsys, tmp_path):
    assert fuzz.main(["manifest", "--runs", "300", "--json", "--findings", str(tmp_path)]) == 0
    run = json.loads(capsys.readouterr().out)
    assert (run["target"], run["findings"], run["saved"], run["error"]) == ("manifest", 0, None, None)
    assert run["executions"] > 300
    assert 0.6 <= run["line_coverage"] <= 1
    assert run["lines_reached"] <= run["lines"]
    assert list(run["modules"]) == ["bundles.manifest"]
    assert list(tmp_path.iterdir()) == []


def test_a_finding_fails_is_saved_and_can_be_replayed(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(bundles.manifest, "check_path", lambda path: None)
    assert fuzz.main(["manifest", "--runs", "5000", "--findings", str(tmp_path)]) == 1
    saved = next((tmp_path / "manifest").iterdir())
    _, err = capsys.readouterr()
    assert "WrongAcceptance" in err
    assert f"scripts/fuzz manifest --replay {saved}" in err
    with pytest.raises(AssertionError):
        fuzz.main(["manifest", "--replay", str(saved)])
    monkeypatch.undo()
    assert fuzz.main(["manifest", "--replay", str(saved)]) == 0


def test_an_unknown_target_is_a_usage_error_that_lists_the_known(capsys):
    assert fuzz.main(["manifests"]) == 2
    assert "archive, delta, kit, manifest, metadata, wire" in capsys.readouterr().err


def test_a_replay_is_of_one_target(tmp_path):
    assert fuzz.main(["--replay", str(tmp_path)]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_guided_run_reaches_most_of_its_modules_and_finds_nothing(name, capsys, tmp_path, record_property):
    if not guided.is_available():
        pytest.skip("atheris is not installed")
    assert fuzz.main([name, "--seconds", "60", "--json", "--findings", str(tmp_path)]) == 0
    run = json.loads(capsys.readouterr().out)
    record_property("executions", run["executions"])
    record_property("line_coverage", run["line_coverage"])
    assert run["line_coverage"] >= run["bar"]
