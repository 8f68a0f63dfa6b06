"""The engine on real workers: contract, swap, retry, restart, guards and what is counted."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

import agent
from agent.errors import ModelRefused, ModelUnknown, NotReady, RunFailed, SafeMode, WorkerLost
from bundles.errors import InputRefused


@pytest.fixture(params=["worker", "inproc"])
def mode(request):
    return request.param


def test_the_package_offers_engine_and_client_by_name():
    from agent.client import Client
    from agent.inference.engine import Engine

    assert agent.Engine is Engine
    assert agent.Client is Client
    with pytest.raises(AttributeError):
        agent.Motor  # noqa: B018 - the access is what is tested


def test_an_answer_names_the_bundle_it_came_from(engine, fake, x, mode):
    engine.load(fake(spec_mode=mode))
    first, second = engine.infer(x), engine.infer(x, "team/fake")
    assert np.allclose(first.outputs["y"], 0.25)
    assert (first.model, first.version, first.sha256) == ("team/fake", "1.0.0", "f" * 64)
    assert first.id != second.id
    assert first.latency_ms > 0
    status = engine.status()
    assert status.ready
    assert (status.worker_pid is None) == (mode == "inproc")


@pytest.mark.parametrize("backend", ["onnxruntime", "litert", "tflite"])
def test_real_digits_are_read_right_on_every_runtime(engine, digits, backend):
    spec = digits("1.0.0", backend)
    engine.load(spec)
    with np.load(spec.model_path.parent / "digits-goldens-1.0.0.npz", allow_pickle=False) as goldens:
        images, wanted = goldens["input.image"], goldens["output.probabilities"]
    answers = [engine.infer({"image": image[None]}).outputs["probabilities"][0] for image in images]
    assert (np.argmax(answers, axis=1) == wanted.argmax(axis=1)).mean() >= 0.99


def test_two_models_answer_side_by_side(engine, fake, digits, x):
    engine.load(fake())
    engine.load(digits("1.0.0", "onnxruntime"))
    image = {"image": np.zeros((1, 8, 8, 1), dtype=np.float32)}
    assert engine.infer(x, "team/fake").model == "team/fake"
    assert engine.infer(image, "shop/digits").outputs["probabilities"].shape == (1, 10)
    assert [status.spec.model for status in engine.models()] == ["shop/digits", "team/fake"]
    with pytest.raises(ModelUnknown):
        engine.infer(x)


def test_a_model_that_is_not_loaded_is_unknown(engine, fake, x):
    with pytest.raises(ModelUnknown):
        engine.infer(x)
    engine.load(fake())
    with pytest.raises(ModelUnknown) as unknown:
        engine.infer(x, "team/other")
    assert "team/fake" in unknown.value.remedy
    engine.unload("team/fake")
    with pytest.raises(ModelUnknown):
        engine.infer(x, "team/fake")


def test_a_withheld_model_refuses_with_a_code_of_its_own_until_it_is_loaded(engine, fake, x, mode):
    engine.load(fake(spec_mode=mode))
    engine.withhold("team/fake", "constant")
    for name in ("team/fake", None):
        with pytest.raises(SafeMode) as caught:
            engine.infer(x, name)
        assert caught.value.code == "SAFE_MODE"
        assert "constant" in caught.value.sentence
    assert engine.models() == []
    with pytest.raises(ModelUnknown):
        engine.infer(x, "team/other")
    engine.load(fake(spec_mode=mode))
    assert engine.infer(x).model == "team/fake"
    engine.withhold("team/fake", "stop")
    engine.unload("team/fake")
    with pytest.raises(ModelUnknown):
        engine.infer(x, "team/fake")


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.zeros((1, 4), np.float64), "INPUT_DTYPE"),
        (np.zeros((1, 5), np.float32), "INPUT_SHAPE"),
        (np.full((1, 4), np.nan, np.float32), "INPUT_MISSING_VALUE"),
        (np.full((1, 4), 3.0, np.float32), "INPUT_RANGE"),
    ],
)
def test_a_bad_request_is_counted_and_never_reaches_the_model(engine, fake, x, array, code):
    engine.load(fake(behaviour="crash", after=1))  # whatever reaches the model after the warm-up kills it
    with pytest.raises(InputRefused) as refused:
        engine.infer({"x": array})
    assert refused.value.code == code
    stats = engine.stats()
    assert stats.schema_rejects == {code: 1}
    assert stats.crashes == 0
    assert stats.requests == 1


def test_a_worker_killed_between_requests_costs_no_request(engine, fake, x):
    engine.load(fake())
    killed = engine.status().worker_pid
    os.kill(killed, signal.SIGKILL)
    assert np.allclose(engine.infer(x).outputs["y"], 0.25)
    stats = engine.stats()
    assert (stats.ok, stats.crashes, stats.retries) == (1, 1, 1)
    assert engine.status().worker_pid != killed


def test_a_worker_killed_in_the_middle_of_a_request_costs_no_request(engine, fake, x):
    engine.load(fake(behaviour="hang", after=1))  # the new worker's first run is answered
    threading.Timer(0.2, os.kill, (engine.status().worker_pid, signal.SIGKILL)).start()
    assert np.allclose(engine.infer(x).outputs["y"], 0.25)
    stats = engine.stats()
    assert (stats.ok, stats.crashes, stats.retries) == (1, 1, 1)


def test_a_dead_worker_is_not_ready_until_it_is_revived(engine, fake, wait_until):
    engine.load(fake())
    os.kill(engine.status().worker_pid, signal.SIGKILL)
    wait_until(lambda: not engine.status().ready, "the death to show")
    engine.tick()
    assert engine.status().ready
    assert engine.stats().crashes == 1


def test_a_request_that_loses_two_workers_is_given_up(engine, fake, x):
    engine.load(fake("1"))
    os.kill(engine.status().worker_pid, signal.SIGKILL)
    fake("1", behaviour="crash")  # the same file: what is started again dies on its first request
    with pytest.raises(WorkerLost):
        engine.infer(x)
    stats = engine.stats()
    assert stats.errors == {"crash": 1}
    assert (stats.crashes, stats.retries) == (2, 1)


def test_three_crashes_within_five_minutes_flag_the_model(engine, fake, x, clock):
    engine.load(fake())
    for _ in range(2):
        os.kill(engine.status().worker_pid, signal.SIGKILL)
        engine.infer(x)
    clock.now += 299
    assert engine.stats().unhealthy == ()
    os.kill(engine.status().worker_pid, signal.SIGKILL)
    engine.infer(x)
    assert engine.stats().unhealthy == ("crashes",)
    assert engine.stats().ok == 3


def test_a_hang_is_ended_counted_and_the_next_request_is_answered(engine, fake, x):
    engine.load(fake(behaviour="hang", after=1, spec_run_deadline_s=0.2))
    prediction = engine.infer(x)  # hangs on the warmed worker, and is answered by the new one's first run
    assert np.allclose(prediction.outputs["y"], 0.25)
    stats = engine.stats()
    assert (stats.hangs, stats.crashes, stats.retries, stats.ok) == (1, 0, 1, 1)


def test_a_hang_in_process_is_cancelled_where_the_runtime_can(engine, fake, x):
    engine.load(fake(behaviour="hang", after=1, spec_mode="inproc", spec_run_deadline_s=0.2))
    assert np.allclose(engine.infer(x).outputs["y"], 0.25)
    assert engine.stats().hangs == 1


def test_an_answer_that_is_not_finite_is_withheld(engine, fake, x, mode):
    engine.load(fake(behaviour="nan", spec_mode=mode))
    with pytest.raises(RunFailed) as failed:
        engine.infer(x)
    assert failed.value.code == "OUTPUT_NONFINITE"
    assert engine.stats().errors == {"nonfinite": 1}


def test_an_error_of_the_runtime_is_an_error_of_that_request_only(engine, fake, x):
    engine.load(fake(behaviour="error", after=2))
    assert engine.infer(x)
    with pytest.raises(RunFailed):
        engine.infer(x)
    stats = engine.stats()
    assert stats.errors == {"run": 1}
    assert stats.crashes == 0


def test_a_model_that_cannot_come_back_is_tried_again_after_a_pause(engine, fake, x, clock):
    spec = fake()
    engine.load(spec)
    good = spec.model_path.read_bytes()
    spec.model_path.write_bytes(b"damaged")
    os.kill(engine.status().worker_pid, signal.SIGKILL)
    for _ in range(3):
        with pytest.raises(NotReady):
            engine.infer(x)
    assert not engine.status().ready
    spec.model_path.write_bytes(good)
    with pytest.raises(NotReady):
        engine.infer(x)
    clock.now += 1.0
    assert engine.infer(x)
    assert engine.stats().errors == {"not_ready": 4}


def test_a_load_that_fails_changes_nothing(engine, fake, x):
    engine.load(fake("1.0.0"))
    pid = engine.status().worker_pid
    for broken in (
        fake("2.0.0", inputs="none"),
        fake("2.0.1", behaviour="error"),
        fake("2.0.2", behaviour="crash"),
        fake("2.0.3", behaviour="crash", on="load"),
    ):
        with pytest.raises((ModelRefused, RunFailed, WorkerLost)):
            engine.load(broken)
        assert engine.infer(x).version == "1.0.0"
    assert engine.status().worker_pid == pid
    assert engine.stats().ok == 4


def test_no_request_falls_between_two_models_while_they_are_swapped(engine, fake, x):
    engine.load(fake("0"))
    stop = threading.Event()
    versions: list[str] = []
    failures: list[Exception] = []

    def ask() -> None:
        while not stop.is_set():
            try:
                versions.append(engine.infer(x).version)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 11):
        engine.load(fake(str(number)))
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(set(versions)) > 1
    assert engine.infer(x).version == "10"


def test_the_old_worker_is_gone_after_a_swap(engine, fake, x, is_running):
    engine.load(fake("1"))
    old = engine.status().worker_pid
    engine.load(fake("2"))
    assert not is_running(old)
    assert engine.stats().requests == 0  # a new model is judged by its own requests


def test_the_observer_hears_every_outcome(engine, fake, x):
    heard = []
    engine.load(fake(behaviour="nan", after=2), lambda *what: heard.append(what))
    engine.infer(x)
    with pytest.raises(InputRefused):
        engine.infer({"x": np.zeros((1, 5), np.float32)})
    with pytest.raises(RunFailed):
        engine.infer(x)
    assert [outcome for _, _, _, outcome in heard] == ["ok", "reject:INPUT_SHAPE", "error:nonfinite"]
    inputs, outputs, latency_ns, _ = heard[0]
    assert inputs["x"] is x["x"]
    assert np.allclose(outputs["y"], 0.25)
    assert latency_ns > 0
    assert heard[1][1] is heard[2][1] is None


def test_an_observer_that_fails_costs_no_answer(engine, fake, x):
    def broken(*what):
        raise ValueError("no")

    engine.load(fake(), broken)
    assert engine.infer(x)
    assert engine.infer(x)
    assert engine.stats().observer_errors == 2


def test_nothing_is_left_running_after_close(fake, is_running, wait_until):
    engine = agent.Engine()
    engine.load(fake())
    worker = engine.status().worker_pid
    server = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    engine.close()
    wait_until(lambda: not is_running(worker), "the worker to end")
    wait_until(lambda: not is_running(server), "the fork server to end")
    assert engine.models() == []
    engine.close()
