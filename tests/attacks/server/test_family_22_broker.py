"""Attack 22: a hostile device, or its thief, at the real broker. Deliveries are counted, not what SUBACK promises."""

import datetime as dt

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner

from agent.identity import signing_request
from bundles.trust import director
from bundles.trust.director import sign_desired
from bundles.wire import codec, topics
from bundles.wire.messages import Desired, ModelReported, Profile, Reported
from control_plane.broker import configuration
from control_plane.services import devices

VICTIM, THIEF, MODEL = "dev-1", "dev-2", "vision/digits"
DAY = dt.timedelta(days=1)
ACL = "control_plane.broker.supervisor.acl_text"
CONFIGURATION = "control_plane.broker.supervisor.configuration_text"


def everybody_may_do_everything():
    return "pattern readwrite #\n"


def without(line):
    """The broker's configuration without the lines that begin so."""

    def text(*told):
        lines = configuration.configuration_text(*told).splitlines()
        return "\n".join(one for one in lines if not one.startswith(line)) + "\n"

    return {CONFIGURATION: text}


def forged_order(site):
    """An order to go back to 1.0.0, signed by the attacker as if its own key were the director's."""
    now = site.clock.now_ms()
    quiet = Profile(heartbeat_s=86_400, report_s=86_400, probation_s=0.05, poll_s=86_400)
    document = Desired(VICTIM, 99, now, now + 86_400_000, {MODEL: site.wanted["1.0.0"]}, profile=quiet)
    return sign_desired(document, CryptoSigner.generate_ed25519())


def leave_an_order(site):
    """Leave a retained order on the victim's topic; return how many of those reached it, then and at its next birth."""
    thing, order = site.thing(), forged_order(site)
    assert thing.connect()
    thing.say(VICTIM, topics.DOWN_DESIRED, order, retain=True).wait_for_publish(20)
    assert site.reach_victim()
    site.victim.restart()
    site.until(lambda: len(site.victim.told(topics.DOWN_DESIRED)) >= 2)
    site.reach_victim()
    return site.victim.told(topics.DOWN_DESIRED).count(order)


def empty_the_topic(site):
    """Clear the retained order of the victim; return how many orders are there at its next birth."""
    thing = site.thing()
    assert thing.connect()
    thing.say(VICTIM, topics.DOWN_DESIRED, b"", retain=True).wait_for_publish(20)
    assert site.reach_victim()
    site.victim.heard.clear()
    site.heard.clear()
    site.victim.restart()
    # It says that it is there after it has subscribed: what was retained is on its way by then.
    site.until(lambda: any(one[:2] == (VICTIM, topics.UP_PRESENCE) and b'"online"' in one[2] for one in site.heard))
    site.reach_victim()
    return len(site.victim.told(topics.DOWN_DESIRED))


def speak_in_anothers_name(site):
    """Report in the victim's name that it runs nothing; return what the control plane took from the victim."""
    thing = site.thing()
    assert thing.connect()
    lie = Reported(
        VICTIM, "e" * 16, 9_000, 1, site.clock.now_ms(), 1, 99, {MODEL: ModelReported(version="6.6.6")}, hardware="x"
    )
    site.heard.clear()
    thing.say(VICTIM, topics.UP_REPORTED, codec.encode(lie)).wait_for_publish(20)
    thing.say(THIEF, topics.UP_EVENT, b"its own").wait_for_publish(20)
    site.until(lambda: any(device == THIEF for device, _, _ in site.heard))
    lies = [payload for device, _, payload in site.heard if device == VICTIM and b"6.6.6" in payload]
    if lies:
        site.until(lambda: "6.6.6" in site.row(VICTIM).reported_json)
    return len(lies)


def listen_to_others(site):
    """Subscribe to everything; return how many messages meant for others were delivered."""
    thing = site.thing()
    assert thing.connect("#", "wg/1/d/+/down/#", f"wg/1/d/{VICTIM}/#", "wg/1/d/+/up/#", "$SYS/#")
    assert site.reach_victim()
    return min(1, len([one for one in site.drained(thing) if VICTIM in one[0]]))


def flood_anothers_topic(site):
    """Send a thousand messages to the victim; return how many arrived."""
    thing = site.thing()
    assert thing.connect()
    for number in range(1_000):
        last = thing.say(VICTIM, "down/cmd/x", b"flood-%d" % number)
    last.wait_for_publish(20)
    assert site.reach_victim()
    return len(site.victim.told("down/cmd/x"))


def send_a_huge_payload(site):
    """Send more than the wire allows; return whether the control plane was handed it."""
    thing = site.thing()
    assert thing.connect()
    thing.say(THIEF, topics.UP_EVENT, b"x" * 300_000)
    site.until(lambda: thing.ended.is_set() or any(device == THIEF for device, _, _ in site.heard))
    assert site.reach_victim(), "others are served on"
    return max((len(payload) for _, _, payload in site.heard), default=0) >= 300_000


def take_over_by_client_id(site):
    """Connect with the victim's client id and our own certificate; return whether the victim still hears."""
    thing = site.thing(client_id=VICTIM)
    thing.connect(f"wg/1/d/{VICTIM}/down/#")
    return site.reach_victim(), site.victim.losses > 0


def come_back_when_revoked(site):
    """The operator revokes our device while it is connected; return whether it was thrown out, and came back in."""
    thing = site.thing()
    assert thing.connect()
    with site.db.write() as session:
        devices.end(session, THIEF, "revoked", reason="", actor="ada", now_ms=site.clock.now_ms())
    site.server._workers["revocations"].wake()
    site.until(thing.ended.is_set)
    return site.thing().connect()


def come_with_an_expired_certificate(site):
    """A device certificate issued 400 days ago; return whether it is taken."""
    key = ec.generate_private_key(ec.SECP256R1())
    then_ms = site.clock.now_ms() - 400 * DAY // dt.timedelta(milliseconds=1)
    issued = site.server._device_ca.issue_device(THIEF, key.public_key(), then_ms)
    return site.thing(issued.certificate_pem + pem_of(key)).connect()


def pem_of(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def enrol_and_listen(name):
    """Enrol under ``name`` with an honest token, then listen as that to what devices say and are told."""

    def script(site):
        key = ec.generate_private_key(ec.SECP256R1())
        body = {"token": site.token(), "csr": signing_request(key, ""), "name": name}
        answer = site.http.post("/v1/enroll", json=body)
        if answer.status_code != 200:
            return answer.json()["code"]
        thing = site.thing(answer.json()["certificate"].encode() + pem_of(key))
        if not thing.connect("wg/1/d/+/up/#", "wg/1/d/+/down/#"):
            return "turned away"
        site.victim.restart()
        site.reach_victim()
        site.until(lambda: any(VICTIM in topic for topic, _ in list(thing.arrived.queue)))
        return "hears the victim"

    return script


def hold_a_pattern_for_a_name(name):
    """With the stolen device CA: a certificate called ``+``. Return how many of the victim's messages it was given."""

    def script(site):
        issued = site.server._device_ca.issue_client(name, site.clock.now_ms(), DAY)
        thing = site.thing(issued.pair_pem, client_id="odd")
        if not thing.connect("#", "wg/1/d/+/down/#", "wg/1/d/#", f"wg/1/d/{VICTIM}/down/#"):
            return 0
        thing.say(VICTIM, topics.DOWN_DESIRED, forged_order(site), retain=True).wait_for_publish(20)
        assert site.reach_victim()
        assert site.reach_victim()
        own = site.thing()
        assert own.connect(f"wg/1/d/{THIEF}/down/#")
        site.drained(own)
        return min(1, thing.arrived.qsize())

    return script


REFUSED = {
    "a forged retained order": (leave_an_order, 0),
    "a cleared retained order": (empty_the_topic, 1),
    "a report in another's name": (speak_in_anothers_name, 0),
    "a subscription to foreign topics": (listen_to_others, 0),
    "a flood on a foreign topic": (flood_anothers_topic, 0),
    "a huge payload": (send_a_huge_payload, False),
    "a takeover by client id": (take_over_by_client_id, (True, False)),
    "a revoked certificate": (come_back_when_revoked, False),
    "an expired certificate": (come_with_an_expired_certificate, False),
    "a device that wants to be called +": (enrol_and_listen("+"), "DEVICE_ID"),
    "a device that wants to be called #": (enrol_and_listen("#"), "DEVICE_ID"),
    "a device named like the control plane": (enrol_and_listen("cp.ingest"), "DEVICE_ID"),
    "a certificate called +": (hold_a_pattern_for_a_name("+"), 0),
    "a certificate called #": (hold_a_pattern_for_a_name("#"), 0),
}


@pytest.mark.parametrize("words", REFUSED)
def test_attack_22_broker(attack, words):
    attack(*REFUSED[words])


OPEN = {ACL: everybody_may_do_everything}
SUCCEEDS = {
    "a forged retained order": (2, OPEN),
    "a cleared retained order": (0, OPEN),
    "a report in another's name": (1, OPEN),
    "a subscription to foreign topics": (1, OPEN),
    "a flood on a foreign topic": (1_000, OPEN),
    "a huge payload": (True, without("max_packet_size")),
    "a takeover by client id": ((False, True), without("use_username_as_clientid")),
    "a revoked certificate": (True, without("crlfile")),
    "an expired certificate": (True, {"control_plane.identity.authority.DEVICE_LIFE": 3650 * DAY}),
}


@pytest.mark.parametrize("words", SUCCEEDS)
def test_attack_22_has_teeth(with_teeth, words):
    with_teeth(REFUSED[words][0], *SUCCEEDS[words])


def any_name(text):
    return True


def test_attack_22_a_device_named_like_the_control_plane_has_teeth(with_teeth):
    """A name is judged where it is asked for and where it is certified: both are taken away."""
    disabled = dict.fromkeys(
        ("control_plane.services.enrolment.is_device_id", "control_plane.identity.authority.is_device_id"), any_name
    )
    with_teeth(REFUSED["a device named like the control plane"][0], "hears the victim", disabled)


@pytest.mark.parametrize("name", ["+", "#"])
def test_attack_22_a_pattern_for_a_name_has_teeth(with_teeth, name):
    """Beside the two checks of names, the broker itself never fills + or # into a pattern: the list is opened too."""
    disabled = dict.fromkeys(
        ("control_plane.services.enrolment.is_device_id", "control_plane.identity.authority.is_device_id"), any_name
    )
    with_teeth(enrol_and_listen(name), "hears the victim", disabled | named_in_full(name))


@pytest.mark.parametrize("name", ["+", "#"])
def test_attack_22_a_certificate_called_so_has_teeth(with_teeth, name):
    """What a list would say that has the name filled in as text, which is what the broker refuses to do."""
    with_teeth(hold_a_pattern_for_a_name(name), 1, named_in_full(name))


def named_in_full(name):
    filled = "topic read wg/1/d/#" if name == "#" else "topic read wg/1/d/+/down/#"
    return {ACL: lambda: configuration.acl_text() + f"\nuser {name}\n{filled}\ntopic read wg/1/d/+/up/#\n"}


def test_attack_22_the_forged_order_that_arrives_is_refused_by_the_device(with_teeth):
    """The broker's list is the first line only: the device asks for the director's signature."""
    site = with_teeth(leave_an_order, 2, OPEN)
    site.until(lambda: any(d == VICTIM and b"TRUST_UNSIGNED_DIRECTOR" in told for d, _, told in list(site.heard)))
    assert site.victim.running() == "1.1.0"


def test_attack_22_the_forged_order_is_obeyed_without_both(with_teeth):
    disabled = {"bundles.trust.director.check_director_signature": lambda *_: None}
    site = with_teeth(leave_an_order, 2, OPEN | disabled)
    site.until(lambda: site.victim.running() == "1.0.0")
    assert director.check_director_signature(None, b"", []) is None, "the check was off"


def test_attack_22_flood_on_the_own_topic_starves_nobody(attack):
    """Nothing is switched off here: a device may fill its own topic, and it costs the others nothing."""

    def script(site):
        thing = site.thing()
        assert thing.connect()
        for number in range(1_000):
            last = thing.say(THIEF, topics.UP_EVENT, b"f" * 1_000)
            if number % 250 == 0:
                assert site.reach_victim()
        last.wait_for_publish(20)
        site.victim.agent.schedule.soon(site.victim.agent.device.link.heartbeat)
        site.until(lambda: any(one[:2] == (VICTIM, topics.UP_REPORTED) for one in site.heard[-2_000:]))
        return site.victim.losses

    attack(script, 0)
