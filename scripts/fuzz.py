"""Run fuzz targets and say what was tried, what was found, and how much of each target's modules was reached.

With atheris installed a run is guided by coverage and lasts ``--seconds``; with ``--runs`` it is a fixed number of
inputs drawn from ``--seed``. A finding's input is saved, and how to replay it is printed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# The product is imported from this checkout; what is beside this file is found by itself.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzzing import guided, plain, reached, report, targets
from fuzzing.target import Target

SECONDS = 60
FINDINGS = Path("fuzz-findings")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz the targets named on the command line, or all; return the exit status."""
    options = _parse(arguments)
    unknown = [name for name in options.targets if name not in names()]
    if unknown:
        print(f"No target is called {', '.join(unknown)}; there are: {', '.join(names())}.", file=sys.stderr)
        return 2
    if options.replay is not None:
        return _replay(options.targets, options.replay)
    if options.runs is None and not guided.is_available():
        print("atheris is not installed: pip install 'wavegate[fuzz]', or use --runs N.", file=sys.stderr)
        return 2
    if not options.json:
        print(report.header())
    is_clean = True
    for name in options.targets or names():
        outcome = _run(name, options)
        is_clean &= outcome.finding is None
        print(json.dumps(outcome.as_dict()) if options.json else outcome.row(), flush=True)
        if outcome.finding is not None:
            print(f"{outcome.finding}\nreplay with: scripts/fuzz {name} --replay {outcome.saved}", file=sys.stderr)
    return 0 if is_clean else 1


def names() -> list[str]:
    """Return the names of all targets."""
    found = (module.name for module in pkgutil.iter_modules(targets.__path__))
    return sorted(name for name in found if hasattr(importlib.import_module(f"fuzzing.targets.{name}"), "TARGET"))


def load(name: str) -> Target:
    """Return the target called ``name``."""
    target: Target = importlib.import_module(f"fuzzing.targets.{name}").TARGET
    return target


def _run(name: str, options: argparse.Namespace) -> report.Outcome:
    with tempfile.TemporaryDirectory(prefix="wg-fuzz-run-") as scratch:
        folder = Path(scratch)
        if options.runs is not None:
            found = plain.run_and_keep(load(name), options.runs, options.seed, folder / "corpus")
        else:
            found = guided.run(name, load(name).samples(), options.seconds, options.seed, folder)
        lines = reached.measure(name, folder / "corpus")
        saved = report.save(options.findings / name, found.data) if found.data is not None else None
        return report.Outcome(name, found.executions, found.took_s, lines, found.error, saved)


def _replay(chosen: Sequence[str], file: Path) -> int:
    if len(chosen) != 1:
        print("Name the one target that the input is for.", file=sys.stderr)
        return 2
    load(chosen[0]).try_one(file.read_bytes())  # a finding shows itself with its traceback
    print(f"{file}: nothing found.")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(names())}; default: all")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for each target (default %(default)s)")
    parser.add_argument("--runs", type=int, help="so many inputs drawn from the seed, without atheris")
    parser.add_argument("--seed", type=int, default=1, help="of all random choices (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="try one saved input")
    parser.add_argument("--findings", type=Path, default=FINDINGS, help="folder for inputs found (default %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
