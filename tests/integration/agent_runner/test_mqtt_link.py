"""One device's connection against a real broker with mutual TLS."""

import json
import threading

import pytest
from cryptography.hazmat.primitives import serialization

from agent.identity import enroll
from agent.mqtt import Edges, MqttLink
from bundles.errors import TryAgain
from bundles.wire import codec
from bundles.wire.messages import Presence


class Ears:
    def __init__(self, device):
        self.device, self.down, self.states, self.session = device, [], [], 1

    def edges(self):
        return Edges(
            on_down=lambda leaf, payload: self.down.append((leaf, payload)),
            on_state=lambda up, reason: self.states.append((up, reason)),
            presence=lambda state: codec.encode(Presence(self.device, self.session, 0, state)),
        )


@pytest.fixture
def make_link(tmp_path, broker, server_ca, device_ca):
    links = []

    def make(device, folder=None, keepalive_s=30):
        def post(_path, body):
            from cryptography import x509

            csr = x509.load_pem_x509_csr(json.loads(body)["csr"].encode())
            return json.dumps({"device": device, "certificate": device_ca.issue(device, csr.public_key())}).encode()

        identity = enroll(
            folder or tmp_path / device, post, url="https://x", token="t", server_ca_pem=server_ca.pem, name=device
        )
        ears = Ears(device)
        link = MqttLink(device, "127.0.0.1", broker.port, identity.broker_context, ears.edges(), keepalive_s)
        links.append(link)
        return link, ears

    yield make
    for link in links:
        link.close()


def connect(link, until):
    link.connect()
    until(lambda: link.connected, what="connected")


def is_told_of_loss(ears):
    return bool(ears.states) and not ears.states[-1][0]


def test_a_cable_cut_at_the_moment_of_connecting_is_told_all_the_same(make_link, until):
    """What is waiting to be sent then meets a socket that is shut, on paho's own thread."""
    link, ears = make_link("cam-1")
    told = link._edges.on_state
    cut = Edges(
        link._edges.on_down, lambda up, why: (told(up, why), link.drop() if up else None), ears.edges().presence
    )
    link._edges = cut
    for _ in range(5):
        ears.states.clear()
        link.connect()
        until(lambda: [up for up, _ in ears.states] == [True, False], what="up and lost")


def test_birth_follows_connecting_and_a_message_arrives(make_link, consumer, until):
    link, _ = make_link("cam-1")
    connect(link, until)
    until(lambda: [p.state for p in consumer.of("cam-1", "up/presence")] == ["online"], what="birth")
    event = b'{"device":"cam-1","boot_epoch":"0","seq":1,"event_id":"e","at_ms":1,"kind":"phase"}'
    assert link.publish("up/event", event)
    until(lambda: consumer.of("cam-1", "up/event"), what="event")


def test_retained_desired_acks_and_commands_arrive(make_link, consumer, until):
    consumer.tell("cam-1", "down/desired", b'{"signed":1}', retain=True)
    link, ears = make_link("cam-1")
    connect(link, until)
    until(lambda: ("down/desired", b'{"signed":1}') in ears.down, what="retained desired")
    consumer.tell("cam-1", "down/ack", b"{}")
    consumer.tell("cam-1", "down/cmd/7", b"go")
    until(lambda: {leaf for leaf, _ in ears.down} == {"down/desired", "down/ack", "down/cmd/7"}, what="all leaves")


def test_an_empty_desired_is_no_instruction(make_link, consumer, until):
    link, ears = make_link("cam-1")
    connect(link, until)
    consumer.tell("cam-1", "down/desired", b"")
    consumer.tell("cam-1", "down/ack", b"after")
    until(lambda: ears.down, what="the ack behind it")
    assert ears.down == [("down/ack", b"after")]


def test_orderly_leaving_says_goodbye_and_drops_the_will(make_link, consumer, until):
    link, ears = make_link("cam-1")
    connect(link, until)
    link.close(codec.encode(Presence("cam-1", 1, 0, "going_offline")))
    assert not link.connected
    other, _ = make_link("cam-2")
    connect(other, until)
    until(lambda: consumer.of("cam-2", "up/presence"), what="a later birth")
    assert [p.state for p in consumer.of("cam-1", "up/presence")] == ["online", "going_offline"]
    assert ears.states == [(True, "")]


def test_a_cut_cable_brings_the_will_and_what_was_queued_is_delivered_on_return(make_link, consumer, until):
    link, ears = make_link("cam-1")
    connect(link, until)
    # The birth goes out behind the subscriptions, and both behind the word that we are connected.
    until(lambda: consumer.of("cam-1", "up/presence"), what="the birth")
    link.drop()
    until(lambda: is_told_of_loss(ears), what="the loss noticed")
    until(lambda: [p.state for p in consumer.of("cam-1", "up/presence")] == ["online", "lost"], what="the will")
    consumer.tell("cam-1", "down/ack", b"while away")
    assert not link.publish("up/reported", b"{}")
    connect(link, until)
    until(lambda: ("down/ack", b"while away") in ears.down, what="the queued message")


def test_a_dead_broker_is_try_again_and_its_return_is_enough(make_link, broker, until):
    link, ears = make_link("cam-1")
    connect(link, until)
    broker.kill()
    until(lambda: is_told_of_loss(ears), what="the loss noticed")
    with pytest.raises(TryAgain) as caught:
        link.connect()
    assert caught.value.code == "PORT_CLOSED"
    broker.start()
    connect(link, until)


def test_a_clone_of_the_identity_takes_the_connection_and_the_loss_is_noticed(make_link, tmp_path, until):
    link, ears = make_link("cam-1")
    connect(link, until)
    clone, _ = make_link("cam-1", tmp_path / "clone")
    connect(clone, until)
    until(lambda: not link.connected and is_told_of_loss(ears), what="the loss noticed")
    assert clone.connected


def test_a_device_cannot_speak_on_another_devices_topics(make_link, consumer, until, monkeypatch):
    link, _ = make_link("cam-1")
    connect(link, until)
    link._client.publish("wg/1/d/cam-2/up/presence", codec.encode(Presence("cam-2", 1, 0, "online")), 1)

    def later_one_arrives():
        if not link.connected:
            connect(link, until)  # a publication that is refused ends the connection
        link.publish("up/presence", codec.encode(Presence("cam-1", 9, 0, "online")))
        return any(p.session == 9 for p in consumer.of("cam-1", "up/presence"))

    until(later_one_arrives, what="the later message")
    assert consumer.of("cam-2", "up/presence") == []


def test_a_certificate_of_another_ca_is_turned_away(make_link, device_ca, until, tmp_path):
    link, ears = make_link("cam-1")
    strangers = type(device_ca)("strangers' CA")
    folder = tmp_path / "cam-1"
    key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    (folder / "cert.pem").write_text(strangers.issue("cam-1", key.public_key()))
    failed = threading.Event()
    try:
        link.connect()  # TLS 1.3: the client's handshake is over before the broker has judged its certificate
    except TryAgain:
        failed.set()
    until(lambda: failed.is_set() or any(not up for up, _ in ears.states), what="the refusal")
    assert not link.connected
