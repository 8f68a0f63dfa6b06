"""What a person reads of a support bundle in the first minute: what stands out, and where to look on. Pure.

Made on the device, which knows its own words, so that whoever opens the bundle needs no program of the same release.
Every value is looked at as if it were not there: a sick device tells half of things.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

INDEX, README = "index.json", "README.txt"
LEAST_FREE_RATIO = 0.05
LEAST_MEMORY_RATIO = 0.1
HOT_C = 80.0
"""Boards of the kind that carry models begin to throttle between 80 and 85 degrees."""
NEWEST = 5
MOST_MODELS = 12
MOST_FINDINGS = 30
MOST_NOTES = 10
LONGEST = 400
ABOUT = {
    "about.json": "which device, agent, runtimes, Python, kernel",
    "agent.log": "the agent's log, the newest lines",
    "config.json": "its settings, secrets masked",
    "disk.txt": "names and sizes of the agent's files; no contents",
    "kernel.txt": "lines of the kernel on lack of memory, heat and failing storage",
    "network.json": "every step of the way to the control plane, as `wavegate-agent doctor --network` sees it",
    "processes.json": "the agent's own processes",
    "resources.json": "disk, memory, load, temperature",
    "slots.json": "releases on disk, and which one answers",
    "status.json": "the status: models, reasons, counts, the last steps",
    "trust.json": "age and version of trust, floors",
}


@dataclass(frozen=True)
class Gathered:
    """What was gathered of a device.

    Attributes:
        device: id.
        at: when, in words.
        values: name of a JSON file -> its value.
        texts: name of a text file -> its content.
        problems: name -> why it cannot be had.
        left_out: name -> what of it was left out, in words.
    """

    device: str
    at: str
    values: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)


def findings(seen: Gathered) -> list[str]:
    """Return what stands out, one sentence each, the likeliest causes first."""
    found = [*_machine(seen), *_kernel(seen), *_network(seen), *_trust(seen), *_updates(seen), *_agent(seen)]
    return [one if len(one) <= LONGEST else f"{one[:LONGEST]}..." for one in _few(found, MOST_FINDINGS)]


def index(seen: Gathered, files: Mapping[str, bytes], cuts: Mapping[str, str]) -> dict[str, Any]:
    """Return ``index.json``.

    Args:
        seen: what was gathered.
        files: what is in the bundle.
        cuts: name -> what had to be cut to fit.
    """
    return {
        "v": 1,
        "device": seen.device,
        "at": seen.at,
        "findings": findings(seen),
        "files": {name: {"bytes": len(data), "about": _about(name)} for name, data in sorted(files.items())},
        "problems": {name: reason[:LONGEST] for name, reason in seen.problems.items()},
        "left_out": {name: _few(notes, MOST_NOTES) for name, notes in seen.left_out.items() if notes},
        "cut": dict(cuts),
    }


def readme(seen: Gathered, files: Mapping[str, bytes], cuts: Mapping[str, str]) -> str:
    """Return ``README.txt``; the arguments are those of ``index``."""
    about = _dig(seen.values, "about.json", "versions")
    status = _dig(seen.values, "status.json")
    log = seen.texts.get("agent.log", "").splitlines()
    lines = [
        f"Support bundle of {seen.device}, {seen.at} by its own clock.",
        f"Agent {_dig(seen.values, 'about.json', 'agent') or '?'}, Python {_text(about, 'python')}, "
        f"{_text(about, 'system')}; {_text(status, 'state')}, reports go by {_text(status, 'route')}.",
        "",
        *_section("Stands out", findings(seen) or ["nothing"]),
        *_section("Models", _models(seen)),
        *_section("Machine", _standing(seen)),
        *_section("Newest warnings and errors of the log", list(filter(_is_bad, log))[-NEWEST:] or ["none"]),
        *_section("Files", [f"{len(data):8} {name}: {_about(name)}" for name, data in sorted(files.items())]),
    ]
    missing = [f"{name}: {reason[:LONGEST]}" for name, reason in seen.problems.items()]
    missing += [f"{name}: {note}" for name, notes in seen.left_out.items() for note in _few(notes, MOST_NOTES)]
    missing += [f"{name}: {note}" for name, note in cuts.items()]
    lines += _section("Not in here", missing or ["nothing was left out"])
    lines += [
        "Keys, certificates, models, goldens and what models were asked are never in a support bundle.",
        "[removed] stands where something looked like a secret.",
    ]
    return "\n".join(lines) + "\n"


def _few(items: Sequence[str], most: int) -> list[str]:
    return [*items[:most], *([f"... and {len(items) - most} more"] if len(items) > most else [])]


def _section(title: str, items: Sequence[str]) -> list[str]:
    return [title, *(f"  {item[:LONGEST]}" for item in items), ""]


def _about(name: str) -> str:
    return ABOUT.get(name, "the journal of a model's updates" if name.startswith("journal/") else "")


def _machine(seen: Gathered) -> list[str]:
    told, found = _dig(seen.values, "resources.json"), []
    disk, memory = _dig(told, "disk"), _dig(told, "memory_kib")
    free, size = _number(disk, "free_bytes"), _number(disk, "bytes")
    if _dig(disk, "is_read_only") is True:
        found.append("disk: the agent's folder is mounted read-only.")
    if size and free is not None and free < LEAST_FREE_RATIO * size:
        found.append(f"disk: {_mib(free)} free of {_mib(size)}.")
    if _number(disk, "free_files") == 0 and _number(disk, "files"):
        found.append("disk: no file can be made any more (inodes).")
    available, total = _number(memory, "MemAvailable"), _number(memory, "MemTotal")
    if total and available is not None and available < LEAST_MEMORY_RATIO * total:
        found.append(f"memory: {_mib(available * 1024)} available of {_mib(total * 1024)}.")
    temperatures = _dig(told, "temperatures")
    if isinstance(temperatures, Mapping):
        hot = {name: heat for name, heat in temperatures.items() if isinstance(heat, int | float) and heat >= HOT_C}
        found += [f"temperature: {name} has {heat:.0f} degrees." for name, heat in hot.items()]
    return found


def _kernel(seen: Gathered) -> list[str]:
    lines = [line for line in seen.texts.get("kernel.txt", "").splitlines() if not line.startswith("#")]
    return [f"kernel: {len(lines)} lines on memory, heat or storage, the newest: {lines[-1]}"] if lines else []


def _network(seen: Gathered) -> list[str]:
    steps = _dig(seen.values, "network.json")
    bad = [step for step in (steps if isinstance(steps, list) else []) if _dig(step, "is_ok") is False]
    words = ([_text(step, name) for name in ("what", "detail", "code", "remedy")] for step in bad)
    return [f"network: {what}: {detail} [{code}] {remedy}" for what, detail, code, remedy in words]


def _trust(seen: Gathered) -> list[str]:
    told = _dig(seen.values, "trust.json")
    level = _dig(told, "level")
    if level in (None, "fresh"):
        return []
    return [f"trust: {level}: the newest verified metadata is {_text(told, 'age_s')} s old."]


def _updates(seen: Gathered) -> list[str]:
    found = []
    for model, story in _items(_dig(seen.values, "status.json", "updates")):
        if _dig(story, "safe_mode"):
            found.append(f"{model}: in its safe mode {_text(story, 'safe_mode')}; what answered is revoked.")
        if _dig(story, "reason"):
            step, reason, code, detail = (_text(story, name) for name in ("step", "reason", "code", "detail"))
            found.append(f"{model}: {step}, reason {reason} [{code}] {detail}")
        elif past := _last_reason(story):
            # Told to go back, a device rests again within seconds: what it was told for is what is looked for.
            step, reason, code, bundle = (_text(past, name) for name in ("step", "reason", "code", "sha256"))
            found.append(f"{model}: was {step} before, reason {reason} [{code}], bundle {bundle[:12]}")
    return found


def _last_reason(story: Any) -> Any:
    """Return the newest step that had a reason, None where none had."""
    steps = _dig(story, "history")
    return next((one for one in reversed(steps) if _dig(one, "reason")), None) if isinstance(steps, list) else None


def _agent(seen: Gathered) -> list[str]:
    status = _dig(seen.values, "status.json")
    found = [f"agent: {area}: {code}" for area, code in _items(_dig(status, "troubles")) if code]
    if dropped := _number(status, "spool_dropped"):
        found.append(f"reports: {dropped} were dropped, the spool was full.")
    if failures := _number(status, "failures"):
        found.append(f"agent: {failures} of its own calls failed; see its log.")
    bad = [line for line in seen.texts.get("agent.log", "").splitlines() if " ERROR " in line or " CRITICAL " in line]
    if bad:
        found.append(f"log: {len(bad)} errors, the newest: {bad[-1]}")
    return found


def _models(seen: Gathered) -> list[str]:
    found = []
    for model, story in _items(_dig(seen.values, "status.json", "updates"))[:MOST_MODELS]:
        kept = (f"{name} {_text(one, 'version')}" for name, one in _items(_dig(story, "releases")))
        waits = _dig(story, "waits_for")
        found.append(f"{model}: {_text(story, 'step')}; {', '.join(kept)}" + (f"; waits for {waits}" if waits else ""))
    return found or ["none"]


def _standing(seen: Gathered) -> list[str]:
    told = _dig(seen.values, "resources.json")
    disk, memory = _dig(told, "disk"), _dig(told, "memory_kib")
    heat = ", ".join(f"{name} {value}" for name, value in _items(_dig(told, "temperatures")))
    return [
        f"disk {_mib(_number(disk, 'free_bytes'))} free of {_mib(_number(disk, 'bytes'))}; "
        f"memory {_mib((_number(memory, 'MemAvailable') or 0) * 1024)} available of "
        f"{_mib((_number(memory, 'MemTotal') or 0) * 1024)}; load {_text(told, 'load')}; "
        f"up {_text(told, 'uptime_s')} s",
        f"temperatures: {heat or 'none can be read'}",
    ]


def _is_bad(line: str) -> bool:
    return any(f" {level} " in line for level in ("WARNING", "ERROR", "CRITICAL"))


def _dig(value: Any, *path: str) -> Any:
    """Return what a path leads to, None where it leads nowhere; ``_dig(value, name)`` is one step of it."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []


def _text(value: Any, name: str) -> str:
    found = value.get(name) if isinstance(value, Mapping) else None
    return "?" if found is None or found == "" else str(found)


def _number(value: Any, name: str) -> int | None:
    found = value.get(name) if isinstance(value, Mapping) else None
    return int(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def _mib(count: int | None) -> str:
    return "?" if count is None else f"{count / 2**20:.0f} MiB"
