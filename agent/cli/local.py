"""Commands that look at this device or ask the running agent: infer, selftest, doctor, accelerators."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.words import say
from bundles import __version__
from bundles.errors import AskPerson

if TYPE_CHECKING:
    from agent.runner.selftest import Finding


def version(_options: argparse.Namespace) -> int:
    """Print the version."""
    say(__version__)
    return 0


def infer(options: argparse.Namespace) -> int:
    """Ask a model of the running agent."""
    import json

    from agent.client import Client
    from agent.config import Folders

    with Client(Folders(options.dir).socket) as client:
        prediction = client.infer(options.model, _inputs(client, options.model, options.input))
    say(
        json.dumps(
            {
                "model": prediction.model,
                "version": prediction.version,
                "sha256": prediction.sha256,
                "latency_ms": round(prediction.latency_ms, 3),
                "outputs": {name: array.tolist() for name, array in prediction.outputs.items()},
            }
        )
    )
    return 0


def _inputs(client: Any, model: str, path: Path) -> dict[str, Any]:
    import json

    import numpy as np

    try:
        is_json = path.suffix == ".json"
        values = json.loads(path.read_text("utf-8")) if is_json else np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise AskPerson(
            f"The input {path.name!r} cannot be read: {error}.",
            code="INPUT_FILE",
            remedy='Give a .npy file, or a .json file such as {"image": [[0, 1], [2, 3]]}.',
        ) from error
    if isinstance(values, dict):
        return values
    return {str(client.metadata(model)["inputs"][0]["name"]): values}


def selftest(options: argparse.Namespace) -> int:
    """Look at everything and say what is wrong."""
    from agent.runner.selftest import selftest

    _check_folder(options.dir)
    findings = selftest(options.dir)
    _show(findings)
    return 0 if all(finding.is_ok for finding in findings) else 1


def _show(findings: Iterable[Finding]) -> None:
    for finding in findings:
        if finding.is_ok:
            say(f"ok   {finding.what}: {finding.detail}")
        else:
            say(f"FAIL {finding.what}: [{finding.code}] {finding.detail} {finding.remedy}")


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise AskPerson(
            f"There is no folder {str(folder)!r}.",
            code="NOT_FOUND",
            remedy="Give the agent's folder with --dir, or enrol this device first: wavegate-agent enroll --help.",
        )


def doctor(options: argparse.Namespace) -> int:
    """Look at the network, and without ``--network`` at everything else as well; say what to do about it."""
    import json
    from dataclasses import asdict

    from agent.runner.doctor import preflight
    from agent.runner.selftest import selftest

    _check_folder(options.dir)
    findings = [] if options.network else selftest(options.dir)
    findings += preflight(options.dir)
    if options.json:
        say(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _show(findings)
    return 0 if all(finding.is_ok for finding in findings) else 1


def accelerators(options: argparse.Namespace) -> int:
    """List runtimes and what they can run on."""
    import msgspec

    from agent.runner.wiring import probe_runtimes

    options.dir.mkdir(parents=True, exist_ok=True)
    reports = probe_runtimes(options.dir)
    if options.json:
        say(msgspec.json.encode(reports).decode())
        return 0
    for report in reports:
        usable = [accelerator.id for accelerator in report.accelerators if accelerator.usable]
        say(f"{report.backend:12} {report.version or '-':10} {', '.join(usable) or report.reason}")
    return 0
