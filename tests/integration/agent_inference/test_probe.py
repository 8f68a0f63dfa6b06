"""Probing runtimes in real children, and keeping what was found."""

import pytest

from agent.inference.backend import REAL_BACKENDS, REGISTRY
from agent.inference.examine import examine
from agent.probe import CACHE_NAME, describe_cpu, probe

DISTRIBUTIONS = {name: REGISTRY[name].distribution for name in REAL_BACKENDS}


class Examiner:
    """Answers as told and keeps count."""

    def __init__(self, **answer) -> None:
        self.asked: list[str] = []
        self.answer = {"usable": True, "reason": "", "accelerators": [], "transient": False} | answer

    def __call__(self, backend: str) -> dict:
        self.asked.append(backend)
        return self.answer


def test_every_installed_runtime_runs_a_model(tmp_path):
    reports = {report.backend: report for report in probe(DISTRIBUTIONS, examine, tmp_path)}
    assert set(reports) == set(REAL_BACKENDS)
    for report in reports.values():
        assert report.usable, report
        assert report.version
        assert [accelerator.id for accelerator in report.accelerators] == ["cpu"]


def test_a_runtime_that_is_not_there_says_so_and_what_to_do():
    found = examine("abacus")
    assert not found["usable"]
    assert "abacus" in found["reason"]
    assert not found["transient"]


def test_a_child_that_is_late_is_no_lasting_verdict():
    found = examine("onnxruntime", timeout_s=0.001)
    assert not found["usable"]
    assert found["transient"]


def test_what_was_found_is_kept(tmp_path):
    first, second = Examiner(), Examiner()
    reports = probe(DISTRIBUTIONS, first, tmp_path)
    assert probe(DISTRIBUTIONS, second, tmp_path) == reports
    assert first.asked == list(DISTRIBUTIONS)
    assert second.asked == []


@pytest.mark.parametrize("change", ["cpu", "version"])
def test_another_processor_or_version_is_found_out_afresh(tmp_path, change):
    again = Examiner()
    probe({"litert": "ai-edge-litert"}, Examiner(), tmp_path, lambda: "old")
    distribution = "numpy" if change == "version" else "ai-edge-litert"
    probe({"litert": distribution}, again, tmp_path, lambda: "new" if change == "cpu" else "old")
    assert again.asked == ["litert"]


def test_a_passing_failure_is_not_kept(tmp_path):
    again = Examiner()
    (report,) = probe({"litert": "ai-edge-litert"}, Examiner(usable=False, transient=True), tmp_path)
    assert not report.usable
    (report,) = probe({"litert": "ai-edge-litert"}, again, tmp_path)
    assert again.asked == ["litert"]
    assert report.usable


@pytest.mark.parametrize("damage", [b"", b"{", b'{"fingerprint": 3}', b'{"fingerprint": "\xb4"}'])
def test_a_damaged_cache_is_found_out_afresh(tmp_path, damage):
    probe(DISTRIBUTIONS, Examiner(), tmp_path)
    (tmp_path / CACHE_NAME).write_bytes(damage)
    again = Examiner()
    probe(DISTRIBUTIONS, again, tmp_path)
    assert again.asked == list(DISTRIBUTIONS)


def test_the_processor_is_described():
    assert describe_cpu().strip()
