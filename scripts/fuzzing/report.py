"""What a run of one target came to, as a line for people or a JSON object; inputs found are saved by their digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundles.digest import sha256_hex
from fuzzing.reached import Reached

LINES_BAR = 0.6
"""Share of the lines of the target's modules that a run should reach."""
_COLUMNS = "{:<10} {:>11} {:>9} {:>9} {:>16}  {}"


@dataclass(frozen=True)
class Outcome:
    """A run.

    Attributes:
        target: its name.
        executions: inputs tried.
        took_s: seconds that took.
        reached: lines of the target's modules that its inputs reach.
        finding: what was found, with its traceback; None = nothing.
        saved: where the input of the finding lies.
    """

    target: str
    executions: int
    took_s: float
    reached: Reached
    finding: str | None
    saved: Path | None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of this run."""
        return {
            "target": self.target,
            "executions": self.executions,
            "took_s": round(self.took_s, 1),
            "findings": 0 if self.finding is None else 1,
            "line_coverage": round(self.reached.share, 3),
            "lines_reached": self.reached.lines,
            "lines": self.reached.of,
            "modules": {name: round(share, 3) for name, share in self.reached.modules.items()},
            "bar": LINES_BAR,
            "ok": self.finding is None and self.reached.share >= LINES_BAR,
            "saved": str(self.saved) if self.saved is not None else None,
            "error": self.finding,
        }

    def row(self) -> str:
        """Return the line of the table."""
        lines = f"{self.reached.share:.0%} of {self.reached.of}"
        note = "; ".join(f"{name.removeprefix('bundles.')} {share:.0%}" for name, share in self.reached.modules.items())
        found = 0 if self.finding is None else 1
        return _COLUMNS.format(self.target, self.executions, f"{self.took_s:.1f} s", found, lines, note)


def header() -> str:
    """Return the head of the table."""
    return _COLUMNS.format("target", "executions", "took", "findings", "lines reached", "by module")


def save(folder: Path, data: bytes) -> Path:
    """Write an input into ``folder`` and return its path; the same input always has the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / sha256_hex(data)[:16]
    path.write_bytes(data)
    return path
