"""``scripts/bench``: benches by name, figures as JSON lines or a table, an exit status that no timing decides."""

import json

import bench
import benches
import pytest

FIELDS = ["bench", "metric", "value", "unit", "peer", "peer_value", "ratio", "bar", "ok", "n", "note"]
GOOD = """
from benches.measuring.figure import Figure
def run(plan):
    yield Figure("good", "quick", float(plan.is_quick), "x", bar=0.5, note="measured")
"""
BROKEN = """
from bundles.errors import AskPerson
def run(plan):
    raise AskPerson("The broker is missing.", code="BROKER_MISSING", remedy="Install it.")
    yield
"""


@pytest.fixture
def made_benches(tmp_path, monkeypatch):
    """Two benches: one that misses its bar, one that cannot run."""
    for name, code in (("a_broken", BROKEN), ("a_good", GOOD)):
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setattr(benches, "__path__", [str(tmp_path), *benches.__path__])


def test_every_module_beside_the_shared_ones_is_a_bench():
    assert {"agent", "inference", "sketch", "trust"} <= set(bench.names())
    assert "measuring" not in bench.names()


def test_an_unknown_name_is_a_usage_error_that_lists_the_known(capsys):
    assert bench.main(["sketch", "sketches"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "sketches" in err
    assert "inference" in err


def test_a_real_bench_prints_one_complete_object_a_line(capsys):
    assert bench.main(["sketch", "--json", "--quick"]) == 0
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [figure["metric"] for figure in figures] == [
        "update_ns_per_value", "row_us", "flush_p99_ms", "merge_us", "decision_ms"
    ]  # fmt: skip
    for figure in figures:
        assert list(figure) == FIELDS
        assert figure["value"] > 0
        assert figure["n"] >= 3
        assert figure["ok"] is (figure["value"] <= figure["bar"])
        assert "load" in figure["note"]


def test_a_missed_bar_fails_nothing(capsys, made_benches):
    assert bench.main(["a_good", "--quick", "--json"]) == 0
    figure = json.loads(capsys.readouterr().out)
    assert (figure["ok"], figure["value"], figure["bar"]) == (False, 1.0, 0.5)


def test_a_bench_that_cannot_run_is_told_and_the_others_go_on(capsys, made_benches):
    assert bench.main(["a_broken", "a_good"]) == 1
    out, err = capsys.readouterr()
    assert "[BROKER_MISSING] The broker is missing. Install it." in err
    assert "quick" in out


def test_a_folder_of_models_that_does_not_exist_is_a_usage_error(capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        bench.main(["inference", "--models", str(tmp_path / "none")])
    assert "is not a folder" in capsys.readouterr().err
