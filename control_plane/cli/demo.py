"""``wavegate demo``: the main job on one machine. The story is ``control_plane.demo``'s."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(help="Play the main job with a real fleet on this machine.", invoke_without_command=True)

CLAIMS_FAILED = 1


@app.callback()
def demo(
    devices: Annotated[int, typer.Option(help="Devices in all, four of them real agents.", min=40, max=120)] = 60,
    scenario: Annotated[
        Literal["tour", "good", "bad-release", "drift"], typer.Option(help="All of it, or one part.")
    ] = "tour",
    seed: Annotated[int, typer.Option(help="Of the order of devices and of what they watch.")] = 28,
    once: Annotated[bool, typer.Option("--once", help="End with the story; exit 0 only if every claim held.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the facts there as JSON.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Keep everything there; default a temporary folder.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the web pages; 0 = any free one.")] = 0,
    patience: Annotated[float, typer.Option(help="Factor on every time limit.", min=1.0, max=20.0)] = 1.0,
) -> None:
    """Play the main job: a fleet receives a model in waves, a bad release is stopped, drift is named."""
    from bundles.errors import AskPerson
    from control_plane.demo.narrator import Narrator
    from control_plane.demo.processes import Processes
    from control_plane.demo.story import Options, Story

    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise AskPerson(
            f"The folder {folder} is not empty.", code="FOLDER_NOT_EMPTY", remedy="Choose another with --dir."
        )
    where = (folder or Path(tempfile.mkdtemp(prefix="wavegate-demo-"))).absolute()
    where.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _interrupt)
    narrator = Narrator()
    options = Options(where, devices, scenario, seed, port, patience)
    try:
        with Processes(where / "logs") as processes:
            story = Story(options, processes, narrator)
            facts = story.tell()
            if report is not None:
                report.write_text(json.dumps(facts.as_dict(), indent=2) + "\n")
            _summary(narrator, facts)
            if not once:
                print(f"Pages: {story.stage.url}/  sign in with the token of ada: {story.people.ada}", file=sys.stderr)
                print("Everything stays up until Ctrl-C.", file=sys.stderr)
                signal.pause()
    finally:
        if folder is None:
            shutil.rmtree(where, ignore_errors=True)
    if not facts.all_hold:
        raise typer.Exit(CLAIMS_FAILED)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _summary(narrator: Any, facts: Any) -> None:
    rows = [("holds" if claim.ok else "FAILS", claim.claim) for claim in facts.claims]
    narrator.table("Claims", ("", "claim"), rows)
    real = [device for device in facts.devices if device["tier"] == "real"]
    narrator.table(
        "Real devices, as they say themselves",
        ("device", "version", "runtime", "accelerator", "accuracy"),
        [(d["device"], d["version"], d["runtime"], d["accelerator"], f"{d['accuracy'] or 0:.1%}") for d in real],
    )
    timings = ", ".join(f"{name} {seconds:.0f}" for name, seconds in facts.timings.items())
    narrator.say(f"timings: {timings}")
