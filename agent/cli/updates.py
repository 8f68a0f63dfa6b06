"""Commands about a device's updates: status, rollback, retry, lock."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.cli.words import say, tell
from bundles.errors import AskPerson, Refused, WavegateError

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
_RESTING = ("idle", "confirmed")


def status(options: argparse.Namespace) -> int:
    """Print how the agent of the folder stands, with the whole story of its updates."""
    import json

    from agent.config import Folders

    folders = Folders(options.dir)
    try:
        told = json.loads(folders.status.read_text("utf-8"))
    except OSError as error:
        raise AskPerson(
            "This folder has no status yet.", code="NOT_FOUND", remedy="Start the agent: wavegate-agent run --dir DIR."
        ) from error
    told["conditions"] = _conditions(options.dir)
    if options.json:
        say(json.dumps(told, indent=2))
        return 0
    say(f"{told['device']}  {told['state']}  by {told['route']}  generation {told['gen']}")
    for name, model in sorted(told["models"].items()):
        for line in _model_lines(name, model, told):
            say(f"  {line}")
    for condition in told["conditions"]:
        say(f"  no {condition['stage']} now: {condition['code']}: {condition['detail']}")
    age = f"trust metadata is {told.get('trust_age_s', 0) / 86400:.1f} days old"
    say(f"  {age}{_LEVELS[told.get('trust_level', 'fresh')]}")
    for area, code in sorted(told.get("troubles", {}).items()):
        say(f"  {area}: {code}")
    say(f"  reports waiting: {told.get('spool_pending', 0)}, dropped: {told.get('spool_dropped', 0)}")
    return 0


def rollback(options: argparse.Namespace) -> int:
    """Ask the running agent to go back to the previous release."""
    from agent.config import Folders

    folders = Folders(options.dir)
    # What the person saw answering is what is left: the same command twice goes back once.
    answer = _ask(options, {"do": "rollback", "sha256": _answering(folders.status, options.model)})
    tell(f"{answer['model']} goes back to the release before; see: wavegate-agent status")
    return 0


def retry(options: argparse.Namespace) -> int:
    """Ask the running agent to take up again what was put off, failed or was denied."""
    answer = _ask(options, {"do": "retry"})
    tell(f"{answer['model']} is looked at again; see: wavegate-agent status")
    return 0


def lock(options: argparse.Namespace) -> int:
    """Run a command in the place of this one, with the update lock held until it and all it started have ended."""
    import os

    from agent.config import Folders
    from agent.lock import take

    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise Refused(
            "There is no command to run.", code="USAGE", remedy="Write it behind --: lock --dir DIR -- COMMAND."
        )
    try:
        os.set_inheritable(take(Folders(options.dir).update_lock), True)
    except OSError as error:
        raise AskPerson(
            f"The update lock of {str(options.dir)!r} cannot be taken: {error.strerror}.",
            code="LOCK_FORBIDDEN",
            remedy="Run it as a member of the agent's group, and give the agent's folder with --dir.",
        ) from error
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise AskPerson(
            f"{command[0]!r} cannot be run: {error.strerror}.", code="NOT_FOUND", remedy="Check its path."
        ) from error


def _ask(options: argparse.Namespace, request: dict[str, Any]) -> dict[str, Any]:
    import getpass

    from agent.config import Folders
    from agent.runner.control import ask

    return ask(Folders(options.dir).control, {**request, "model": options.model, "actor": getpass.getuser()})


def _answering(path: Path, model: str) -> str:
    """Return the bundle that answers for ``model`` (or for the only model) by the status; empty if that is unknown."""
    import json

    try:
        models = json.loads(path.read_text("utf-8"))["models"]
    except (OSError, ValueError, KeyError):
        return ""
    found = models.get(model) or (next(iter(models.values())) if len(models) == 1 else {})
    return str(found.get("sha256", ""))


def _conditions(folder: Path) -> list[dict[str, Any]]:
    """Return what speaks against an update now: looked at here, because the agent looks only where it has to."""
    import time

    from agent.conditions import Conditions
    from agent.config import Folders, load_config

    folders = Folders(folder)
    try:
        limits = load_config(folders.config).limits()
        return Conditions(limits, folders.update_lock, lambda: time.time_ns() // 1_000_000).now()
    except (WavegateError, OSError) as error:
        return [{"stage": "look", "code": getattr(error, "code", "STORE_IO"), "detail": str(error), "wait_ms": 0}]


def _model_lines(name: str, model: dict[str, Any], told: dict[str, Any]) -> Iterator[str]:
    story = told.get("updates", {}).get(name, {})
    runs = f"{model.get('version') or 'nothing'} ({model.get('variant', '-')}, {model.get('runtime', '-')})"
    since = f" since {_time(story['since_ms'])}" if story.get("since_ms") else ""
    yield f"{name}: {runs}, {model.get('phase', 'idle')}{since}"
    if model.get("reason"):
        yield f"  {model['reason']}: {model.get('detail', '')}"
    if model.get("revoked"):
        yield f"  {_REVOKED[model['revoked']]}{_SAFE_MODE.get(model.get('safe_mode', ''), '')}"
    labelled = told["labelled"].get(model.get("sha256", ""))
    if labelled and labelled["n"]:
        yield f"  {labelled['right'] / labelled['n']:.1%} right of {labelled['n']} labelled inputs"
    if story:
        yield from (f"  {line}" for line in _story_lines(story))


def _story_lines(story: dict[str, Any]) -> Iterator[str]:
    yield ", ".join(f"{what.replace('_', ' ')} {r['version']}" for what, r in story["releases"].items())
    if story["waits_for"]:
        due = [("until", story["deadline_ms"]), ("looked at again", story["looked_at_ms"])]
        yield ", ".join([f"waits for {story['waits_for']}", *(f"{word} {_time(at)}" for word, at in due if at)])
    if story["download"]:
        yield f"{story['download']['bytes'] / 1e6:.1f} of {story['download']['of'] / 1e6:.1f} MB are here"
    if story["step"] not in _RESTING:
        counts = story["counts"]
        bounded = ("attempts", "recoveries", "transitions")
        yield ", ".join(f"{what} {counts[what][0]} of {counts[what][1]}" for what in bounded)
    for denied in story["denied"]:
        yield f"denied here: {denied['sha256'][:12]} ({denied['reason']}, {denied['attempts']} attempts); see: retry"
    for passage in story["history"]:
        why = " ".join(word for word in (passage["reason"], passage["code"]) if word)
        yield f"{_time(passage['at_ms'])}  {passage['step']:12} {passage['sha256'][:12]:12} {why}".rstrip()


def _time(at_ms: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
