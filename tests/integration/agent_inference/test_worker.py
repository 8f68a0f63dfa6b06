"""Real worker processes: they answer, they die, and they never outlive the agent."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from agent.errors import BackendUnavailable, ModelRefused, RunFailed, WorkerLost
from agent.inference.launch import Launcher, spawn
from bundles.errors import InputRefused

ROOT = Path(__file__).parents[3]


@pytest.fixture
def launcher():
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture(params=["spawned", "forked"])
def start(request, launcher):
    """Start a worker either way; it is ended after the test."""
    started = []

    def launch():
        process = spawn() if request.param == "spawned" else launcher.launch("fake")
        started.append(process)
        return process

    yield launch
    for process in started:
        process.end()


def test_a_worker_answers_with_the_sessions_own_latency(start, fake, x):
    worker = start()
    loaded = worker.load(fake(behaviour="slow", delay_ms=20).load_message(), 30.0)
    outputs, latency_ns = worker.run(x, 30.0)
    assert loaded.placement.accelerator == "cpu"
    assert np.allclose(outputs["y"], 0.25)
    assert latency_ns >= 20_000_000
    assert worker.pid != os.getpid()


def test_answers_do_not_share_memory(start, fake, x):
    worker = start()
    worker.load(fake().load_message(), 30.0)
    first = worker.run(x, 30.0)[0]["y"]
    worker.run({"x": -x["x"]}, 30.0)
    assert np.allclose(first, 0.25)


@pytest.mark.parametrize(
    ("behaviour", "death"), [("crash", signal.SIGSEGV), ("abort", signal.SIGABRT)], ids=["crash", "abort"]
)
def test_a_native_crash_is_told_by_its_signal(start, fake, x, behaviour, death):
    worker = start()
    worker.load(fake(behaviour=behaviour).load_message(), 30.0)
    with pytest.raises(WorkerLost) as lost:
        worker.run(x, 30.0)
    assert lost.value.code == "WORKER_CRASHED"
    assert worker.returncode == -death
    assert death.name in lost.value.sentence


def test_a_hanging_run_is_ended_at_its_deadline(start, fake, x, is_running):
    worker = start()
    worker.load(fake(behaviour="hang").load_message(), 30.0)
    with pytest.raises(WorkerLost) as lost:
        worker.run(x, 0.1)
    assert lost.value.code == "RUN_DEADLINE"
    assert not is_running(worker.pid)


def test_a_kill_in_the_middle_of_a_run_is_noticed_at_once(start, fake, x):
    worker = start()
    worker.load(fake(behaviour="hang").load_message(), 30.0)
    threading.Timer(0.2, os.kill, (worker.pid, signal.SIGKILL)).start()
    with pytest.raises(WorkerLost) as lost:
        worker.run(x, 60.0)
    assert lost.value.code == "WORKER_CRASHED"
    assert worker.returncode == -signal.SIGKILL


def test_a_worker_killed_while_idle_is_seen_without_asking_it(start, wait_until):
    worker = start()
    assert worker.is_alive()
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: not worker.is_alive(), "the worker's death to show")


def test_errors_come_back_as_the_family_they_were(start, fake, x, tmp_path):
    worker = start()
    with pytest.raises(RunFailed):
        worker.run({}, 30.0)
    with pytest.raises(ModelRefused):
        worker.load(fake(spec_model_path=tmp_path / "none.fake").load_message(), 30.0)
    with pytest.raises(BackendUnavailable):
        worker.load(fake(spec_backend="abacus").load_message(), 30.0)
    worker.load(fake().load_message(), 30.0)
    with pytest.raises(InputRefused):
        worker.run({}, 30.0)
    with pytest.raises(InputRefused):
        worker.run({"x": np.zeros((1, 4), np.float64)}, 30.0)
    assert np.allclose(worker.run(x, 30.0)[0]["y"], 0.25)


def test_a_large_tensor_passes_both_ways(start, fake):
    from bundles.contract import Contract, TensorSpec

    side = 1000
    contract = Contract(
        inputs=[TensorSpec("x", "float32", [side, side])], outputs=[TensorSpec("y", "float32", [side, side])]
    )
    ports = {"inputs": [["x", "float32", [side, side]]], "outputs": [["y", "float32", [side, side]]]}
    worker = start()
    worker.load(fake(spec_contract=contract, **ports).load_message(), 30.0)
    outputs, _ = worker.run({"x": np.full((side, side), 0.5, dtype=np.float32)}, 30.0)
    assert outputs["y"].shape == (side, side)
    assert (outputs["y"] == 0.5).all()


def test_a_runtime_that_cannot_be_imported_is_told_when_forking(launcher):
    with pytest.raises(BackendUnavailable):
        launcher.launch("abacus")


def test_the_launcher_survives_the_death_of_its_fork_server(launcher, fake, x, is_running, wait_until):
    first = launcher.launch("fake")
    first.load(fake().load_message(), 30.0)
    server = int(Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: not is_running(first.pid), "the kernel to end the worker with its fork server")
    with pytest.raises(WorkerLost):
        first.run(x, 30.0)
    second = launcher.launch("fake")
    second.load(fake().load_message(), 30.0)
    assert np.allclose(second.run(x, 30.0)[0]["y"], 0.25)
    second.end()


AGENT = """
import sys, threading, time
import numpy as np, msgspec
from pathlib import Path
from agent.inference.engine import Engine
from agent.inference.spec import ModelSpec
from bundles.contract import Contract, TensorSpec

contract = Contract(inputs=[TensorSpec("x", "float32", [1, 4])], outputs=[TensorSpec("y", "float32", [1, 2])])
spec = ModelSpec("team/fake", "f" * 64, "1", "any", "fake", Path(sys.argv[1]), contract, run_deadline_s=600.0)
engine = Engine()
engine.load(spec)
if sys.argv[2] == "busy":
    x = {"x": np.zeros((1, 4), dtype=np.float32)}
    threading.Thread(target=engine.infer, args=(x,), daemon=True).start()
    time.sleep(0.5)
pid = engine.status().worker_pid
parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
print(pid, parent, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_workers_end_with_an_agent_that_is_killed(fake, state, is_running, wait_until):
    spec = fake(behaviour="hang", after=1)  # the warm-up is answered, the first request hangs in "native" code
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(spec.model_path), state],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with agent:
        worker, server = map(int, agent.stdout.readline().split())
        assert is_running(worker)
        assert is_running(server)
        agent.kill()
    wait_until(lambda: not is_running(worker), "the worker to end")
    wait_until(lambda: not is_running(server), "the fork server to end")
