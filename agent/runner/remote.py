"""What the control plane's commands do on a real agent, and how their results travel. The table of ``commands``.

Results and support bundles go over the broker where it is connected, over HTTPS where it is not.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from agent.config import AgentConfig, Folders
from agent.diagnose.collect import Sources, collect
from agent.https import DeviceDoor
from agent.redact import masked, secrets_of
from agent.runner.assurance import Assurance
from agent.runner.commands import Doing, Done
from agent.runner.owner import request_rollback
from agent.runner.updates import Updates
from bundles.errors import Refused, TryAgain
from bundles.wire import commands as wire
from bundles.wire.commands import Command, CommandResult

MAX_DATA_BYTES = 96 * 1024
STEP_S = 5.0
"""For each step of the way to the control plane that a diagnosis looks at: it holds up one of a few threads."""
LEAST_BETWEEN_MS = 5_000
"""Between two diagnoses, whoever asks: collecting costs a small device some seconds."""
_SHA256 = re.compile(r"(?:[0-9a-f]{64})?\Z")


class Remote:
    """The doings of one real agent. Their calls come on background threads.

    Args:
        folders: of the agent.
        config: its settings.
        device: id.
        updates: its updaters.
        assurance: its trust.
        on_the_line: carries a call out on the schedule's line and returns what it returned or raised.
        now_ms: UTC epoch ms, the best this device has.
        write_status: writes the status file anew; on the line.
    """

    def __init__(
        self,
        folders: Folders,
        config: AgentConfig,
        device: str,
        updates: Updates,
        assurance: Assurance,
        on_the_line: Callable[[Callable[[], str]], str],
        now_ms: Callable[[], int],
        write_status: Callable[[], None],
    ) -> None:
        self._folders, self._config, self._device = folders, config, device
        self._updates, self._assurance, self._on_the_line, self._now_ms = updates, assurance, on_the_line, now_ms
        self._write_status = write_status
        self._diagnosed_ms = 0

    def doings(self) -> Mapping[str, Doing]:
        """Return the table."""
        return {
            wire.DIAGNOSE: self._diagnose,
            wire.SELFTEST: self._selftest,
            wire.STATUS: self._status,
            wire.ROLLBACK: self._rollback,
        }

    def _diagnose(self, _command: Command) -> Done:
        """``args``: none. Nothing in a command chooses what is collected."""
        now_ms = self._now_ms()
        if 0 <= now_ms - self._diagnosed_ms < LEAST_BETWEEN_MS:
            raise TryAgain(
                "This device was diagnosed a moment ago.", code="COMMAND_TOO_SOON", remedy="Ask again in some seconds."
            )
        self._diagnosed_ms = now_ms
        self._refresh()
        probes = {"trust": self._trust, "network": self._network}
        bundle = collect(Sources(self._folders, self._device, probes, os.environ), now_ms)
        parts = -(-len(bundle) // wire.PART_BYTES)
        data = {"sha256": hashlib.sha256(bundle).hexdigest(), "bytes": len(bundle), "parts": parts}
        return Done(data, bundle)

    def _selftest(self, _command: Command) -> Done:
        """``args``: none."""
        from agent.runner.selftest import selftest  # it imports the wiring, which imports this

        findings = selftest(self._folders.root)
        failed = [finding.what for finding in findings if not finding.is_ok]
        return Done(
            {"findings": [masked(msgspec.to_builtins(finding)) for finding in findings]},
            is_ok=not failed,
            code="SELFTEST_FAILED" if failed else "",
            detail=f"Not as it should be: {', '.join(failed)}." if failed else "Everything is as it should be.",
        )

    def _status(self, _command: Command) -> Done:
        """``args``: none. The document of ``wavegate-agent status --json``."""
        self._refresh()
        told = msgspec.json.decode(self._folders.status.read_bytes(), type=dict[str, Any])
        status = masked(told, secrets_of(msgspec.to_builtins(self._config)) | secrets_of(os.environ))
        if (length := len(msgspec.json.encode(status))) > MAX_DATA_BYTES:
            raise Refused(
                f"The status has {length} bytes; {MAX_DATA_BYTES} is the limit of an answer.",
                code="COMMAND_RESULT_TOO_LARGE",
                remedy="Diagnose the device: its status is in the support bundle.",
            )
        return Done(status)

    def _rollback(self, command: Command) -> Done:
        """``args``: ``model`` (may be left out where there is one), ``actor``, ``sha256``: the release to leave."""
        model, actor, sha256 = (str(command.args.get(name, "")) for name in ("model", "actor", "sha256"))
        if not _SHA256.match(sha256):
            raise Refused(
                "The release to leave is no digest.", code="COMMAND_ARGS", remedy="Check the server's release."
            )
        who = f"control plane: {actor[:100] or 'someone'}"
        model = self._on_the_line(lambda: request_rollback(self._updates, model, who, sha256))
        return Done({"model": model}, detail=f"{model} goes back to what this device holds.")

    def _refresh(self) -> None:
        """Have the status file say what is so now: what failed a moment ago is what is asked about."""

        def write() -> str:
            self._write_status()
            return ""

        with suppress(TryAgain):  # the line is busy, which the rest of a diagnosis may tell
            self._on_the_line(write)

    def _trust(self) -> dict[str, Any]:
        models = sorted(self._updates.states)
        return {
            "timestamp_version": self._assurance.version,
            "age_s": self._assurance.age_s(),
            "level": self._assurance.level(),
            "floors": {model: self._assurance.floor(model) for model in models},
            "metadata": [f"{path.stat().st_size} {path.name}" for path in _files(self._folders.trust)],
        }

    def _network(self) -> list[Any]:
        from agent.runner.doctor import preflight  # it imports the wiring, which imports this

        return [msgspec.to_builtins(finding) for finding in preflight(self._folders.root, timeout_s=STEP_S)]


def sender(publish: Callable[[str, bytes], bool], door: DeviceDoor) -> Callable[[CommandResult, bytes], None]:
    """Return what hands results over: by the broker while ``publish`` takes them, else by ``door``."""

    def send(result: CommandResult, attachment: bytes) -> None:
        pieces = [attachment[at : at + wire.PART_BYTES] for at in range(0, len(attachment), wire.PART_BYTES)]
        leaves = [(wire.part_leaf(result.id, number), piece) for number, piece in enumerate(pieces)]
        leaves.append((wire.result_leaf(result.id), wire.encode(result)))
        if all(publish(leaf, payload) for leaf, payload in leaves):
            return
        if attachment:
            door.post_signed(f"/v1/device/diagnosis/{result.id}", attachment)
        door.post_signed(f"/v1/device/commands/{result.id}/result", wire.encode(result))

    return send


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()][:100]
