"""Commands that look at this device or ask the running agent: status, infer, selftest, rollback, accelerators."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from agent.cli.words import say, tell
from bundles import __version__
from bundles.errors import AskPerson

_LEVELS = {
    "fresh": "",
    "warn": ": WARNING, none has come for one life of a timestamp; the model keeps answering",
    "alarm": ": ALARM, none has come for three lives of a timestamp; the model keeps answering",
}
_REVOKED = {"warned": "revoked by too few signatures to stop it", "revoked": "REVOKED"}
_SAFE_MODE = {
    "keep_with_alarm": "; nothing may stand in for it, so it keeps answering, as its bundle declares",
    "constant": "; requests are refused with SAFE_MODE: applications use their constant",
    "stop": "; requests are refused with SAFE_MODE, as its bundle declares",
}


def version(_options: argparse.Namespace) -> int:
    """Print the version."""
    say(__version__)
    return 0


def status(options: argparse.Namespace) -> int:
    """Print how the agent of the folder stands."""
    import json

    from agent.config import Folders

    try:
        text = Folders(options.dir).status.read_text("utf-8")
    except OSError as error:
        raise AskPerson(
            "This folder has no status yet.", code="NOT_FOUND", remedy="Start the agent: wavegate-agent run --dir DIR."
        ) from error
    if options.json:
        say(text.rstrip())
        return 0
    status = json.loads(text)
    say(f"{status['device']}  {status['state']}  by {status['route']}  generation {status['gen']}")
    for name, model in sorted(status["models"].items()):
        version = model.get("version") or "nothing"
        runs = f"{version} ({model.get('variant', '-')}, {model.get('runtime', '-')})"
        say(f"  {name}: {runs}, {model.get('phase', 'idle')}")
        if model.get("reason"):
            say(f"    {model['reason']}: {model.get('detail', '')}")
        if model.get("revoked"):
            say(f"    {_REVOKED[model['revoked']]}{_SAFE_MODE.get(model.get('safe_mode', ''), '')}")
        labelled = status["labelled"].get(model.get("sha256", ""))
        if labelled and labelled["n"]:
            say(f"    {labelled['right'] / labelled['n']:.1%} right of {labelled['n']} labelled inputs")
    age = f"trust metadata is {status.get('trust_age_s', 0) / 86400:.1f} days old"
    say(f"  {age}{_LEVELS[status.get('trust_level', 'fresh')]}")
    for area, code in sorted(status.get("troubles", {}).items()):
        say(f"  {area}: {code}")
    say(f"  reports waiting: {status.get('spool_pending', 0)}, dropped: {status.get('spool_dropped', 0)}")
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

    if not options.dir.is_dir():
        raise AskPerson(
            f"There is no folder {str(options.dir)!r}.",
            code="NOT_FOUND",
            remedy="Give the agent's folder with --dir, or enrol this device first: wavegate-agent enroll --help.",
        )
    findings = selftest(options.dir)
    for finding in findings:
        mark = "ok  " if finding.is_ok else "FAIL"
        say(f"{mark} {finding.what}: {finding.detail}")
    return 0 if all(finding.is_ok for finding in findings) else 1


def rollback(options: argparse.Namespace) -> int:
    """Ask the running agent to go back to the previous release."""
    import getpass

    from agent.config import Folders
    from agent.runner.control import ask

    folders = Folders(options.dir)
    request = {"do": "rollback", "model": options.model, "actor": getpass.getuser()}
    # What the person saw answering is what is left: the same command twice goes back once.
    answer = ask(folders.control, {**request, "sha256": _answering(folders.status, options.model)})
    tell(f"{answer['model']} goes back to its previous release; see: wavegate-agent status")
    return 0


def _answering(status: Path, model: str) -> str:
    """Return the bundle that answers for ``model`` (or for the only model) by the status; empty if that is unknown."""
    import json

    try:
        models = json.loads(status.read_text("utf-8"))["models"]
    except (OSError, ValueError, KeyError):
        return ""
    found = models.get(model) or (next(iter(models.values())) if len(models) == 1 else {})
    return str(found.get("sha256", ""))


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
