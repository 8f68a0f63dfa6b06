"""What the agent costs a device: start, memory, imports, what it does while idle; in an environment of ``[agent]``."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benches.measuring.figure import Figure, Plan
from benches.measuring.idle import Idle
from benches.measuring.installed_agent import RUNTIME, InstalledAgent, environment, installed_agent
from benches.measuring.memory import Memory
from benches.measuring.timing import medians, program_s

NAME = "agent"
PSS_BAR_MIB = 120.0
SKETCH_IMPORT_BAR_S, SKETCH_IMPORT_BAR_MIB = 0.05, 3.0
WARM_UP_REQUESTS = 200
IDLE_S = 60.0
IDLE_CPU_BAR = 0.5
PASS = "python -c pass"
_SKETCH_IMPORT = """
import json, time
import msgspec, numpy
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096
before, started = resident(), time.perf_counter()
import bundles.sketch.baseline, bundles.sketch.columns, bundles.sketch.latency, bundles.sketch.merge
import bundles.sketch.update
took_s = time.perf_counter() - started
print(json.dumps([took_s, (resident() - before) / 2**20]))
"""
"""What a monitor needs, beyond what the agent has loaded for its other work."""


def run(plan: Plan) -> Iterator[Figure]:
    """Measure.

    Raises:
        AskPerson: the environment, the control plane or the agent could not be started.
    """
    bin_folder = environment() / "bin"
    yield from _programs(bin_folder, plan.repeats(15, 5))
    yield from _sketch_import(bin_folder, plan.repeats(11, 3))
    with installed_agent(bin_folder) as agent:
        agent.memory()  # the first look lets the agent settle
        idle = [agent.memory() for _ in range(3)]
        yield from _memory("agent_idle_rss_mib", idle, None, "agent alone, connected, no model")
        agent.install()
        agent.ask(WARM_UP_REQUESTS)
        working = [agent.memory() for _ in range(3)]
        note = f"agent, fork server and one worker with {RUNTIME} and a model that has answered"
        yield from _memory("agent_rss_mib", working, PSS_BAR_MIB, note)
        yield _start("agent_start_s", agent, bin_folder, plan.repeats(5, 3), "control plane reachable")
        agent.cut_off()
        yield _start("agent_offline_start_s", agent, bin_folder, plan.repeats(5, 3), "control plane gone")
    with installed_agent(bin_folder, is_hurried=False) as agent:
        agent.install()
        agent.ask(1)
        agent.memory()  # as above
        yield from _idle([agent.idle(IDLE_S) for _ in range(plan.repeats(3, 1))])


def _programs(bin_folder: Path, rounds: int) -> Iterator[Figure]:
    """Time the two commands against the interpreter alone."""
    commands = {
        PASS: [str(bin_folder / "python"), "-c", "pass"],
        "wavegate version": [str(bin_folder / "wavegate"), "version"],
        "wavegate-agent version": [str(bin_folder / "wavegate-agent"), "version"],
    }
    for command in commands.values():
        program_s(command)  # compiles to bytecode, warms the page cache
    found = medians({name: partial(program_s, command) for name, command in commands.items()}, rounds)
    peer_s = found[PASS]
    for metric, name in (("cli_start", "wavegate version"), ("agent_cli_start", "wavegate-agent version")):
        own_s = found[name]
        note = f"`{name}`: {own_s * 1e3:.1f} ms against {peer_s * 1e3:.1f} ms"
        yield Figure(NAME, f"{metric}_ratio", own_s / peer_s, "x", PASS, 1.0, n=rounds, note=note)


def _sketch_import(bin_folder: Path, rounds: int) -> Iterator[Figure]:
    command = [str(bin_folder / "python"), "-c", _SKETCH_IMPORT]
    found = [json.loads(subprocess.check_output(command, text=True)) for _ in range(rounds + 1)][1:]
    note = "beyond numpy and msgspec, in a new process"
    took_s, grown_mib = (statistics.median(column) for column in zip(*found, strict=True))
    yield Figure(NAME, "sketch_import_s", took_s, "s", bar=SKETCH_IMPORT_BAR_S, n=rounds, note=note)
    yield Figure(NAME, "sketch_import_mib", grown_mib, "MiB", bar=SKETCH_IMPORT_BAR_MIB, n=rounds, note=note)


def _memory(metric: str, found: list[Memory], bar: float | None, what: str) -> Iterator[Figure]:
    def median(name: str) -> float:
        return float(statistics.median(getattr(memory, name) for memory in found))

    note = f"PSS over {found[-1].processes} processes: {what}"
    rss, name = median("rss_mib"), "RSS of the same processes"
    yield Figure(NAME, metric, median("pss_mib"), "MiB", name, rss, bar, n=len(found), note=note)
    note = f"the same if no other program here ran on this Python, as on a device: {what}"
    alone = median("alone_mib")
    yield Figure(NAME, metric.replace("rss", "alone"), alone, "MiB", name, rss, bar, n=len(found), note=note)


def _idle(found: list[Idle]) -> Iterator[Figure]:
    note = f"agent, fork server and worker; heartbeats every 60 s over MQTT, nobody asks; over {IDLE_S:.0f} s"
    cpu = statistics.median(idle.cpu_percent for idle in found)
    yield Figure(NAME, "agent_idle_cpu_percent", cpu, "% of a core", bar=IDLE_CPU_BAR, n=len(found), note=note)
    wakeups = statistics.median(idle.wakeups_s for idle in found)
    yield Figure(NAME, "agent_idle_wakeups_s", wakeups, "1/s", n=len(found), note=note)


def _start(metric: str, agent: InstalledAgent, bin_folder: Path, rounds: int, note: str) -> Figure:
    floor = [str(bin_folder / "python"), "-c", f"import numpy, {RUNTIME}, cryptography, msgspec"]
    found = medians({"agent": agent.restart_s, "imports": lambda: program_s(floor)}, rounds)
    what = f"restart of an enrolled agent with a model, to its first answer; {note}"
    peer = f"importing numpy, {RUNTIME}, cryptography and msgspec"
    return Figure(NAME, metric, found["agent"], "s", peer, found["imports"], n=rounds, note=what)
