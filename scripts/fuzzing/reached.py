"""How many lines of a target's modules a corpus reaches: every input is run again with the interpreter's line tracing.

Only lines inside functions count: importing a module runs all the others, which says nothing about an input. The
replay is a process of its own, so that neither the fuzzer's instrumentation nor what ran before can change it.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from fuzzing.target import Target


@dataclass(frozen=True)
class Reached:
    """Lines reached.

    Attributes:
        lines: how many.
        of: how many there are.
        modules: the share of each module.
    """

    lines: int
    of: int
    modules: dict[str, float]

    @property
    def share(self) -> float:
        """The share of all lines together."""
        return self.lines / self.of if self.of else 0.0


def measure(name: str, corpus: Path) -> Reached:
    """Replay the files of ``corpus`` through the target called ``name``, in a fresh process.

    Raises:
        subprocess.CalledProcessError: the replay broke off; what it said was printed.
    """
    command = [sys.executable, "-W", "ignore", "-c", _REPLAY, name, str(corpus)]
    scripts = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=scripts, stdout=subprocess.PIPE, check=True)
    return Reached(**json.loads(done.stdout))


_REPLAY = """
import sys
import pathlib
sys.path[:0] = [str(pathlib.Path.cwd()), str(pathlib.Path.cwd().parent)]
import json, dataclasses, importlib
from fuzzing.reached import replay
target = importlib.import_module(f"fuzzing.targets.{sys.argv[1]}").TARGET
print(json.dumps(dataclasses.asdict(replay(target, pathlib.Path(sys.argv[2])))))
"""


def replay(target: Target, corpus: Path) -> Reached:
    """Run the files of ``corpus`` with line tracing on, in this process; findings are of no interest here."""
    lines = {name: _lines_of(name) for name in target.modules}
    files = {str(Path(str(importlib.import_module(name).__file__)).resolve()): name for name in target.modules}
    seen: dict[str, set[int]] = {name: set() for name in target.modules}

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        name = files.get(frame.f_code.co_filename)
        if name is None:
            return None
        reached = seen[name]

        def trace_line(frame: FrameType, event: str, argument: Any) -> Any:
            reached.add(frame.f_lineno)
            return trace_line

        return trace_line(frame, event, argument)

    sys.settrace(trace)
    try:
        for path in sorted(corpus.iterdir()):
            try:
                target.try_one(path.read_bytes())
            except Exception:
                continue  # found and told by the run itself
    finally:
        sys.settrace(None)
    reached = {name: len(seen[name] & lines[name]) for name in target.modules}
    shares = {name: reached[name] / len(lines[name]) for name in target.modules}
    return Reached(sum(reached.values()), sum(map(len, lines.values())), shares)


def _lines_of(name: str) -> set[int]:
    """Return the numbers of the lines that functions of the module can run."""
    path = Path(str(importlib.import_module(name).__file__))
    waiting: list[CodeType] = [compile(path.read_text(), str(path), "exec")]
    found: set[int] = set()
    while waiting:
        code = waiting.pop()
        waiting += [part for part in code.co_consts if isinstance(part, CodeType)]
        if code.co_flags & _OPTIMIZED:  # functions have it, modules and class bodies have not
            found |= {line for _, _, line in code.co_lines() if line}
    return found


_OPTIMIZED = 0x1
"""``inspect.CO_OPTIMIZED``"""
