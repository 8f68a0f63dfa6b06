"""The slow report: each suite's own last run, whichever of them ran this time."""

import json
from pathlib import Path

import run_suites

ROOT = Path(run_suites.__file__).resolve().parents[1]


def row(suite, commit, passed, **more):
    return {
        "suite": suite,
        "date": "2026-11-24",
        "commit": commit,
        "took_s": 1.0,
        "budget_s": 9,
        "passed": passed,
        **more,
    }


def test_a_suite_that_did_not_run_keeps_what_was_said_of_it():
    first = run_suites.report({}, [row("crash", "a", 30), row("web", "a", 5, failed=1)])
    second = run_suites.report(first, [row("web", "b", 6)])
    assert [(one["suite"], one["commit"]) for one in second["suites"]] == [("crash", "a"), ("web", "b")]
    assert second["totals"] == {"passed": 36, "failed": 0, "skipped": 0}


def test_a_suite_that_is_no_more_is_forgotten():
    assert run_suites.report({"v": 2, "suites": [row("gone", "a", 30)]}, [row("web", "b", 6)])["totals"]["passed"] == 6


def test_the_report_that_is_committed_is_of_this_form_and_nothing_in_it_failed():
    told = json.loads((ROOT / "tests" / "slow-report.json").read_text())
    assert told == run_suites.report(told, [])
    assert told["totals"]["failed"] == 0
