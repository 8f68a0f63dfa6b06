"""Run the test suites one after another, each against its wall-clock budget, and say what they took.

A suite over its budget is reported, not failed: time decides no test. Slow runs write ``tests/slow-report.json``, where
each suite keeps the date and the commit of its own last run: all of them together take longer than a sitting.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 4
"""Most tests wait for processes more than they compute. A file stays in one process, for its fixtures' sake."""
SEED = 20
"""Of Hypothesis, so that the same commit draws the same examples everywhere; slow runs draw a seed of their own."""
ALONE = frozenset({"e2e"})
"""Suites that fill the machine by themselves."""
BUDGETS_S: dict[str, tuple[tuple[str, ...], int]] = {
    "unit and property": (("unit", "properties", "sim", "backends", "compat"), 180),
    "integration": (("integration",), 360),
    "attacks": (("attacks",), 240),
    "crash": (("crash",), 90),
    "demo and end to end": (("e2e",), 180),
    "web": (("web",), 180),
}
_COUNTS = re.compile(r"(\d+) (passed|failed|error|errors|skipped)")


def main() -> int:
    """Run the suites named on the command line, or all; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", help="folders of tests/; default: all")
    parser.add_argument("--slow", action="store_true", help="run the slow tests too and write tests/slow-report.json")
    options = parser.parse_args()
    totals = {"passed": 0, "failed": 0, "skipped": 0}
    rows: list[dict[str, Any]] = []
    failed = False
    for name, (folders, budget_s) in BUDGETS_S.items():
        chosen = [f for f in folders if (ROOT / "tests" / f).is_dir() and f in (options.suites or folders)]
        if not chosen:
            continue
        with tempfile.NamedTemporaryFile(suffix=".xml") as results:
            code, counts, took_s = _run(name, chosen, slow=options.slow, results=results.name)
            seeded = _recorded(Path(results.name)) if options.slow else []
        failed |= code != 0
        for key in totals:
            totals[key] += counts.get(key, 0)
        told = {"date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "commit": _commit()}
        spent = {"took_s": round(took_s, 1), "budget_s": budget_s}
        rows.append({"suite": name, **told, **spent, **counts, "seeded": seeded})
    print("\nsuite                   took    budget")
    for row in rows:
        over = "  OVER BUDGET" if row["took_s"] > row["budget_s"] else ""
        print(f"{row['suite']:<20} {row['took_s']:>6.1f} s {row['budget_s']:>6} s{over}")
    if options.slow:
        _write_report(rows)
    if not rows:
        print("No suite of that name.", file=sys.stderr)
        return 2
    print(f"{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped")
    return 1 if failed or totals["failed"] else 0


def _run(name: str, folders: list[str], *, slow: bool, results: str) -> tuple[int, dict[str, int], float]:
    print(f"\n=== {name}: {', '.join(folders)}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "--durations=5", *(f"tests/{folder}" for folder in folders)]
    if not ALONE.intersection(folders):
        command += ["-n", str(WORKERS), "--dist", "loadfile"]
    seed = secrets.randbelow(1 << 32) if slow else SEED
    command += [f"--hypothesis-seed={seed}"]
    if not slow:
        command += ["-m", "not slow"]
    else:
        command += [f"--junitxml={results}", "-o", "junit_family=xunit1"]
        print(f"--hypothesis-seed={seed}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    last = ""
    for line in process.stdout or ():
        sys.stdout.write(line)
        sys.stdout.flush()
        if " in " in line and _COUNTS.search(line):
            last = line
    code = process.wait()
    counts: dict[str, int] = {}
    for number, word in _COUNTS.findall(last):
        key = "failed" if word.startswith("error") else word
        counts[key] = counts.get(key, 0) + int(number)
    return code, counts, time.monotonic() - started


def _recorded(results: Path) -> list[dict[str, str]]:
    """Return what tests recorded of themselves (``record_property``): seeds and figures."""
    recorded = []
    for case in ElementTree.parse(results).iter("testcase"):
        properties = {p.get("name", ""): p.get("value", "") for p in case.iter("property")}
        if properties:
            failed = case.find("failure") is not None
            recorded.append({"test": case.get("name", ""), "outcome": "failed" if failed else "passed", **properties})
    return recorded


def report(before: Mapping[str, Any], ran: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the slow report: what just ran, and what the one before says of suites that did not.

    Args:
        before: the report so far; empty = none.
        ran: for each suite ``suite``, ``date``, ``commit``, ``took_s``, ``budget_s``, ``seeded`` and its counts.
    """
    suites = {row["suite"]: dict(row) for row in before.get("suites", ()) if row["suite"] in BUDGETS_S}
    suites |= {row["suite"]: dict(row) for row in ran}
    rows = [suites[name] for name in BUDGETS_S if name in suites]
    totals = {key: sum(row.get(key, 0) for row in rows) for key in ("passed", "failed", "skipped")}
    return {"v": 2, "totals": totals, "suites": rows}


def _write_report(rows: Iterable[Mapping[str, Any]]) -> None:
    path = ROOT / "tests" / "slow-report.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(report(before if before.get("v") == 2 else {}, rows), indent=2) + "\n")


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
