"""Run benches by name and print their figures, as a table for people or one JSON object a line.

A bench is a module of ``benches`` with ``run(plan) -> Iterable[Figure]``. A missed bar is printed and fails nothing:
how fast a busy machine is decides no test. The exit status says only whether every bench could be run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import benches
from benches.measuring.figure import Figure, Plan, header, row

from bundles.errors import WavegateError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benches named on the command line, or all; return the exit status."""
    options = parse(arguments)
    known = names()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        print(f"No bench is called {', '.join(unknown)}; there are: {', '.join(known)}.", file=sys.stderr)
        return 2
    plan = Plan(is_quick=options.quick, models=options.models)
    if not options.json:
        print(header())
    failed = False
    for name in options.names or known:
        try:
            _print(importlib.import_module(f"benches.{name}").run(plan), as_json=options.json)
        except WavegateError as error:
            print(f"{name}: [{error.code}] {error.sentence} {error.remedy}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


def names() -> list[str]:
    """Return the names of all benches."""
    return sorted(module.name for module in pkgutil.iter_modules(benches.__path__) if not module.ispkg)


def machine() -> str:
    """Return what a reader must know of the machine to trust a figure: how many CPUs, how busy."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"


def _print(figures: Iterable[Figure], *, as_json: bool) -> None:
    for figure in figures:
        line = json.dumps(figure.with_note(machine()).as_dict()) if as_json else row(figure)
        print(line, flush=True)
    if not as_json:
        print(f"  ({machine()})", flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return ``names``, ``json``, ``quick`` and ``models`` of a command line; None = this process's."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; default: all")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--models", type=Path, help="folder of .onnx and .tflite files `inference` measures too")
    options = parser.parse_args(arguments)
    if options.models is not None and not options.models.is_dir():
        parser.error(f"--models: {options.models} is not a folder")
    return options


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what a bench has started ends with it
    sys.exit(main())
