"""Fuzzing guided by coverage: atheris (libFuzzer) in a process of its own, which it ends as it likes.

libFuzzer keeps every input that reaches something new, and stops at a finding: an exception, an input that takes too
long, or too much memory. Its limits are the ones below.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from fuzzing.plain import Kept

HANG_S = 20
MEMORY_MIB = 1536
MAX_INPUT_BYTES = 65_536
GRACE_S = 60.0
"""How long past its time a run may go on before it is ended."""
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_SCRIPTS = Path(__file__).resolve().parents[1]


def is_available() -> bool:
    """Whether atheris is installed."""
    return importlib.util.find_spec("atheris") is not None


def run(name: str, samples: Mapping[str, bytes], seconds: int, seed: int, folder: Path) -> Kept:
    """Fuzz the target called ``name``.

    Args:
        name: of the target.
        samples: honest inputs to start from.
        seconds: how long.
        seed: of libFuzzer's choices.
        folder: for the corpus (``corpus``), findings and temporary files.
    """
    corpus, found, scratch = (folder / part for part in ("corpus", "found", "tmp"))
    for made in (corpus, found, scratch):
        made.mkdir()
    for number, data in enumerate(samples.values()):
        (corpus / f"honest-{number}").write_bytes(data)
    command = [
        *(sys.executable, "-W", "ignore", "-c", _CHILD, name, str(corpus)),
        *(f"-max_total_time={seconds}", f"-seed={seed}", f"-timeout={HANG_S}", f"-rss_limit_mb={MEMORY_MIB}"),
        *(f"-max_len={MAX_INPUT_BYTES}", f"-artifact_prefix={found}/", "-print_final_stats=1", "-verbosity=0"),
    ]
    # Whatever the child leaves behind when libFuzzer ends it lies in our folder.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    started = time.monotonic()
    with (folder / "log").open("w+b") as log:
        process = subprocess.Popen(command, cwd=_SCRIPTS, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            code = process.wait(seconds + GRACE_S + HANG_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    took_s = time.monotonic() - started
    executed = _EXECUTED.search(said)
    artefacts = sorted(found.iterdir())
    error = None if code == 0 else said[-6000:]
    found_data = artefacts[0].read_bytes() if artefacts else None
    return Kept(int(executed.group(1)) if executed else 0, took_s, found_data, error)


_CHILD = """
import sys
sys.path[:0] = [".", ".."]
import atheris
with atheris.instrument_imports(include=["bundles"]):
    import bundles.archive, bundles.manifest, bundles.trust.device.client, bundles.trust.director, bundles.wire.proof
from fuzzing.guided import child
child(sys.argv[1], sys.argv[2:])
"""
"""Modules must be instrumented while they are imported, so before the target is."""


def child(name: str, arguments: list[str]) -> None:
    """Fuzz in this process; does not return."""
    import random

    import atheris

    with atheris.instrument_imports(include=["bundles"]):
        target = importlib.import_module(f"fuzzing.targets.{name}").TARGET

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        # Half of the time libFuzzer's own: it knows which comparisons fail.
        if seed % 2:
            return bytes(atheris.Mutate(data, max_size))
        return bytes(target.mutate(bytes(data), random.Random(seed))[:max_size])

    atheris.Setup([sys.argv[0], *arguments], target.try_one, custom_mutator=mutate)
    atheris.Fuzz()
