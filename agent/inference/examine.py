"""Asks one backend, in a throwaway child, to construct and run a tiny model: what ``agent.probe`` reports and keeps."""

from __future__ import annotations

import signal
import tempfile
from typing import Any

import msgspec

from agent.errors import WorkerLost
from agent.inference.launch import spawn
from agent.inference.messages import Examine, Examined
from agent.inference.process import exit_text
from bundles.errors import WavegateError

EXAMINE_TIMEOUT_S = 60.0
"""For the import of a runtime and its tiny model on a slow card."""


def examine(backend: str, timeout_s: float = EXAMINE_TIMEOUT_S) -> dict[str, Any]:
    """Find out whether a backend works here.

    Args:
        backend: a name of ``backend.REGISTRY``.
        timeout_s: after which the child is ended.

    Returns:
        ``backend``, ``usable``, ``reason`` (why not), ``accelerators`` (id, kind, usable, reason), and ``transient``:
        True when asking again may answer differently (the device was too busy).
    """
    with tempfile.TemporaryFile() as stderr:
        accelerators: list[dict[str, Any]] = []
        reason, transient = "", False
        try:
            child = spawn(stderr)
            try:
                answer, _ = child.ask(Examine(backend), [], timeout_s)
            finally:
                child.end()
            if isinstance(answer, Examined):
                accelerators = [msgspec.structs.asdict(found) for found in answer.accelerators]
        except WorkerLost as error:
            returncode = error.details.get("returncode")
            # SIGKILL comes from us (late) or from a kernel short of memory: neither says anything of the runtime.
            if isinstance(returncode, int) and returncode not in (0, -signal.SIGKILL):
                reason = f"it ended its process ({exit_text(returncode)})"
            else:
                reason, transient = error.sentence, True
        except WavegateError as error:
            reason = f"{error.sentence} {error.remedy}".strip()
        usable = any(accelerator["usable"] for accelerator in accelerators)
        if not usable and not reason:
            reason = "; ".join(f"{a['id']}: {a['reason']}" for a in accelerators) or "it offers no accelerator"
        return {
            "backend": backend,
            "usable": usable,
            "reason": reason,
            "accelerators": accelerators,
            "transient": transient,
        }
