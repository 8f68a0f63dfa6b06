"""One real agent against a small control plane: real TLS, real signatures, real runtimes; reports over HTTPS."""

import hashlib
import json

import numpy as np
import pytest

from agent.client import Client
from agent.config import AgentConfig, Stream
from agent.core import route
from agent.core.retry import Backoff
from agent.runner import link
from agent.runner.control import ask
from agent.runner.credentials import enroll_over_https
from agent.runner.wiring import Agent
from bundles.build import VariantSource
from bundles.errors import AskPerson, InputRefused, Refused
from bundles.wire import codec
from bundles.wire.commands import Command

MODEL = "vision/digits"


@pytest.fixture
def make_agent(short_path, server, server_ca, publisher, probed):
    agents = []

    def make(device="cam-1", start=True, **settings):
        folder = short_path / device
        enroll_over_https(
            folder / "identity", url=server.url, token="good-token", server_ca_pem=server_ca.pem, name=device
        )
        (folder / "root.json").write_bytes(publisher.root)
        settings = {"hardware": "cam-a", "runtimes": ("onnxruntime",), "heartbeat_s": 0.5, "poll_s": 0.3, **settings}
        probed(folder, *settings["runtimes"])
        agent = Agent(folder, AgentConfig(**settings))
        agents.append(agent)
        if start:
            agent.start()
        return agent

    yield make
    for agent in agents:
        agent.stop()


def status(agent):
    try:
        return json.loads(agent.folders.status.read_text())
    except FileNotFoundError:
        return {}


def model(agent):
    return status(agent).get("models", {}).get(MODEL, {})


def events(server, kind="phase", device="cam-1"):
    found = [codec.decode_up(leaf, p) for d, leaf, p in list(server.reports) if d == device and leaf == "up/event"]
    unique = {(event.boot_epoch, event.seq): event for event in found}
    return [unique[key] for key in sorted(unique) if unique[key].kind == kind]


def test_a_release_is_fetched_tried_activated_and_confirmed(make_agent, publisher, server, until):
    publisher.desire("cam-1", publisher.publish("1.0.0", 1))
    agent = make_agent(stream=Stream(str(publisher.stream), 20.0))
    until(lambda: model(agent).get("phase") == "confirmed", 60, "the release confirmed")
    until(lambda: [e.data["phase"] for e in events(server)][-1:] == ["confirmed"], what="its report")
    phases = [event.data["phase"] for event in events(server)]
    assert phases == ["accepted", "downloading", "verified", "staged", "activating", "probation", "confirmed"]
    assert model(agent)["runtime"].startswith("onnxruntime ")
    until(lambda: sum(entry["n"] for entry in status(agent)["labelled"].values()) >= 20, what="labelled answers")
    (labelled,) = status(agent)["labelled"].values()
    assert labelled["right"] / labelled["n"] > 0.8

    def windows():
        return [codec.decode_up(leaf, p).window for _, leaf, p in list(server.reports) if leaf == "up/tel"]

    until(lambda: any(window.labels_n for window in windows()), what="a window")
    with Client(agent.folders.socket) as client:
        assert [entry["name"] for entry in client.models()] == [MODEL]
        with pytest.raises(InputRefused):
            client.infer(MODEL, {"image": np.full((1, 8, 8, 1), np.nan, np.float32)})


def test_a_blurred_lens_shows_in_the_sketches_and_goes_away(make_agent, publisher, server, until):
    publisher.desire("cam-1", publisher.publish("1.0.0", 1))
    agent = make_agent(stream=Stream(str(publisher.stream), 50.0))
    until(lambda: model(agent).get("phase") == "confirmed", 60, "the release confirmed")

    def sharpness():
        windows = [codec.decode_up(leaf, p).window for _, leaf, p in list(server.reports) if leaf == "up/tel"]
        column = windows[-1].columns["sharpness"]
        return column.sum_q / column.n if column.n >= 10 else None

    until(lambda: windows_told(server) >= 2, what="sharp windows")
    sharp = until(sharpness)
    agent.folders.blur.touch()
    until(lambda: (sharpness() or sharp) < sharp - 200, what="the blur")


def windows_told(server):
    return len([1 for _, leaf, _ in list(server.reports) if leaf == "up/tel"])


def test_without_requests_a_release_is_proved_by_its_goldens(make_agent, publisher, server, until):
    publisher.desire("cam-1", publisher.publish("1.0.0", 1))
    agent = make_agent(runtimes=("litert",))
    until(lambda: model(agent).get("phase") == "confirmed", 60, "the release confirmed")
    assert model(agent)["variant"] == "litert-int8"
    agent.stop()
    assert windows_told(server) == 0, "self-tests are in no window"


@pytest.fixture
def running(make_agent, publisher, until):
    """An agent that runs 1.0.0, and what the director says of it."""
    wanted = publisher.publish("1.0.0", 1)
    publisher.desire("cam-1", wanted)
    agent = make_agent()
    until(lambda: model(agent).get("phase") == "confirmed", 60, "1.0.0 confirmed")
    return agent, wanted


def test_what_trust_refuses_is_told_with_its_code_and_the_old_model_answers(running, publisher, server, until):
    agent, wanted = running
    forged = publisher.desire("cam-1", wanted, signer=publisher.stranger)
    until(lambda: "TRUST_UNSIGNED_DIRECTOR" in {e.code for e in events(server, "refused")}, what="the forgery told")
    told = events(server, "refused")
    assert [event.data["document_sha256"] for event in told] == [hashlib.sha256(forged).hexdigest()], "told once"
    publisher.desire("cam-1", wanted, gen=1, rollout="replayed")
    until(lambda: "TRUST_ROLLBACK_DIRECTOR" in {e.code for e in events(server, "refused")}, what="the replay told")
    never_signed = type(wanted)("vision/digits/9.9.9/bundle.json", "0" * 64, 100, 9)
    publisher.desire("cam-1", never_signed, gen=50)
    until(lambda: "TRUST_NOT_LISTED" in {e.code for e in events(server, "refused")}, what="the invention told")
    until(lambda: model(agent)["phase"] == "failed", what="the instruction ended")
    assert (model(agent)["sha256"], model(agent)["reason"]) == (wanted.sha256, "verify")
    with Client(agent.folders.socket) as client:
        assert client.infer(MODEL, {"image": np.zeros((1, 8, 8, 1), np.float32)}).version == "1.0.0"


def test_a_better_release_replaces_it_and_a_person_can_go_back(running, publisher, server, until):
    agent, first = running
    second = publisher.publish("1.1.0", 2)
    publisher.desire("cam-1", second)
    until(lambda: model(agent).get("version") == "1.1.0" and model(agent)["phase"] == "confirmed", 60, "1.1.0")
    assert model(agent)["previous_sha256"] == first.sha256
    assert model(agent)["floor"] == 1
    seen = {"do": "rollback", "actor": "ann", "sha256": second.sha256}
    assert ask(agent.folders.control, seen)["model"] == MODEL
    until(lambda: model(agent).get("version") == "1.0.0" and model(agent)["phase"] == "rolled_back", 30, "the way back")
    with pytest.raises(Refused) as caught:
        ask(agent.folders.control, {"do": "rollback", "actor": "ann"})
    assert caught.value.code == "NO_PREVIOUS"
    with pytest.raises(Refused):
        ask(agent.folders.control, {"do": "dance"})


def test_the_control_plane_may_have_it_go_back_to_what_it_holds_and_only_once(running, publisher, server, until):
    agent, first = running
    second = publisher.publish("1.1.0", 2)
    publisher.desire("cam-1", second)
    until(lambda: model(agent).get("version") == "1.1.0" and model(agent)["phase"] == "confirmed", 60, "1.1.0")
    args = {"model": MODEL, "actor": "ada", "sha256": second.sha256}
    life = {"issued_ms": 0, "expires_ms": publisher.now() + 600_000}
    server.commands = [Command("rollback1", "rollback", args=args, **life)]
    until(lambda: "rollback1" in server.results, 30, "the answer")
    assert server.results["rollback1"].ok, server.results["rollback1"]
    until(lambda: model(agent).get("version") == "1.0.0" and model(agent)["phase"] == "rolled_back", 30, "the way back")
    assert (model(agent)["sha256"], model(agent)["reason"]) == (first.sha256, "user")
    server.commands.append(Command("rollback2", "rollback", args={**args, "sha256": first.sha256}, **life))
    until(lambda: "rollback2" in server.results, 30, "the second answer")
    assert server.results["rollback2"].code == "NO_PREVIOUS"
    assert model(agent)["version"] == "1.0.0"


def test_the_director_returns_to_previous_good_without_downloads(running, publisher, server, until):
    agent, first = running
    publisher.desire("cam-1", publisher.publish("1.1.0", 2))
    until(lambda: model(agent).get("version") == "1.1.0" and model(agent)["phase"] == "confirmed", 60, "1.1.0")
    server.blobs.clear()
    publisher.desire("cam-1", first)
    until(lambda: model(agent).get("version") == "1.0.0" and model(agent)["phase"] == "confirmed", 60, "1.0.0 again")


def test_a_release_that_cannot_be_loaded_never_answers(running, publisher, until):
    agent, first = running
    garbage = publisher.folder / "garbage.onnx"
    garbage.write_bytes(b"no model at all" * 100)
    variants = [VariantSource("onnx-int8", "onnxruntime", garbage)]
    publisher.desire("cam-1", publisher.publish("1.2.0", 3, variants=variants))
    until(lambda: model(agent)["phase"] == "failed", 60, "the trial failed")
    assert model(agent)["reason"] == "load"
    assert model(agent)["sha256"] == first.sha256


def test_nothing_asked_for_means_nothing_answers(running, publisher, until):
    agent, _ = running
    publisher.desire("cam-1", None)
    until(lambda: model(agent)["phase"] == "idle" and not model(agent)["sha256"], 30, "nothing answering")
    with Client(agent.folders.socket) as client:
        assert client.models() == []


def test_a_restart_serves_from_disk_with_the_server_gone_and_counts_a_session(running, make_agent, server, until):
    agent, wanted = running
    session = status(agent)["session"]
    agent.stop()
    assert status(agent)["state"] == "stopped"
    server.fail_next = [503] * 1000
    again = make_agent()
    until(lambda: again.engine.models() and model(again).get("sha256") == wanted.sha256, 30, "serving from disk")
    assert status(again)["session"] == session + 1
    with Client(again.folders.socket) as client:
        assert client.infer(MODEL, {"image": np.zeros((1, 8, 8, 1), np.float32)}).sha256 == wanted.sha256


def test_reports_wait_for_a_busy_server_and_arrive_once(running, publisher, server, until):
    agent, _ = running
    until(lambda: status(agent).get("spool_pending", 0) == 0, 30, "everything acked")
    before = events(server)
    server.fail_next = [503] * 40
    publisher.desire("cam-1", publisher.publish("1.1.0", 2))
    until(lambda: not server.fail_next, 60, "the server busy for a while")
    until(lambda: model(agent).get("version") == "1.1.0" and model(agent)["phase"] == "confirmed", 90, "1.1.0")
    until(lambda: status(agent).get("spool_pending", 0) == 0, 60, "everything acked")
    seqs = [event.seq for event in events(server)]
    assert seqs[: len(before)] == [event.seq for event in before]
    assert len(seqs) == len(set(seqs))


def test_a_second_agent_in_the_folder_is_turned_away(running, make_agent):
    agent, _ = running
    with pytest.raises(AskPerson) as caught:
        Agent(agent.folders.root, agent.config)
    assert caught.value.code == "AGENT_RUNNING"


def test_an_identity_past_two_thirds_of_its_life_is_renewed(make_agent, server, until):
    import datetime

    server.certificate_life, server.certificate_age = datetime.timedelta(days=30), datetime.timedelta(days=25)
    agent = make_agent(start=False)
    server.certificate_age = datetime.timedelta(minutes=5)
    agent.start()
    until(lambda: server.renewals == 1, what="the renewal")
    until(lambda: not agent.credentials.is_renewal_due(agent._clock.wall_ms()), what="the new certificate in use")


def test_where_the_broker_is_lost_reports_go_over_https_until_it_returns(
    make_agent, publisher, server, broker, consumer, until, monkeypatch
):
    monkeypatch.setattr(route, "RECONNECT", Backoff(base_s=0.2, cap_s=0.5))
    consumer.acks = True
    server.mqtt = {"host": "127.0.0.1", "port": broker.port}
    publisher.desire("cam-1", publisher.publish("1.0.0", 1))
    agent = make_agent()
    until(lambda: model(agent).get("phase") == "confirmed" and status(agent)["route"] == "mqtt", 60, "1.0.0 by MQTT")
    assert server.reports == []
    monkeypatch.setattr(link, "FALLBACK_AFTER_MS", 300)
    broker.kill()
    until(lambda: any(leaf == "up/reported" for _, leaf, _ in list(server.reports)), 30, "heartbeats over HTTPS")
    publisher.desire("cam-1", publisher.publish("1.1.0", 2))
    until(lambda: [e.data["phase"] for e in events(server)][-1:] == ["confirmed"], 60, "1.1.0 reported over HTTPS")
    broker.start()
    until(lambda: status(agent)["route"] == "mqtt", 30, "the broker in use again")
    beats = len(consumer.of("cam-1", "up/reported"))
    until(lambda: len(consumer.of("cam-1", "up/reported")) > beats, 30, "heartbeats by MQTT")
