"""Desired state: the generation rises with what is asked and with nothing else; being told twice is normal."""

from __future__ import annotations

import msgspec
import pytest

from bundles.wire.messages import Desired as Message
from bundles.wire.messages import DesiredModel, Profile
from control_plane.db.tables import Device
from control_plane.errors import NotFound
from control_plane.services import desired

NOW = 1_700_000_000_000
DAY = 24 * 3600 * 1000
ONE = {"vision/digits": DesiredModel("vision/digits/1/bundle.json", "a" * 64, 900, 1)}
TWO = {"vision/digits": DesiredModel("vision/digits/2/bundle.json", "b" * 64, 900, 2)}


class Signer:
    """Signs by writing the message down, and counts."""

    def __init__(self) -> None:
        self.signed: list[Message] = []

    def __call__(self, message: Message) -> bytes:
        self.signed.append(message)
        return msgspec.json.encode(message)


@pytest.fixture
def device(database) -> str:
    with database.write() as session:
        session.add(Device(id="cam-1", public_key_pem="k", enrolled_ms=NOW))
        session.flush()
        desired.ensure_desired(session, "cam-1", Profile(), NOW)
    return "cam-1"


def _set(database, device, models, *, rollout="r1", now_ms=NOW, profile=Profile()) -> int:  # noqa: B008
    with database.write() as session:
        return desired.set_desired(
            session, device, models, rollout=rollout, canary=False, profile=profile, now_ms=now_ms
        )


def test_a_change_raises_the_generation_and_a_repeat_does_not(database, device):
    assert _set(database, device, ONE) == 2
    assert _set(database, device, ONE, now_ms=NOW + 5) == 2
    assert _set(database, device, TWO) == 3
    assert _set(database, device, ONE) == 4, "a roll back is a new generation"
    assert _set(database, device, ONE, profile=Profile(heartbeat_s=1.0)) == 5
    with database.read() as session:
        assert desired.current_models(session, device) == ONE


def test_enrolling_twice_keeps_the_first_document(database, device):
    _set(database, device, ONE)
    with database.write() as session:
        assert desired.ensure_desired(session, device, Profile(), NOW) == 2
        assert desired.current_models(session, device) == ONE


def test_the_document_says_what_is_asked_and_is_signed_once(database, device):
    gen, sign = _set(database, device, ONE), Signer()
    with database.write() as session:
        body, etag = desired.document_for(session, device, sign, NOW)
    with database.write() as session:
        again = desired.document_for(session, device, sign, NOW + DAY)
    assert again == (body, etag)
    assert len(sign.signed) == 1
    message = msgspec.json.decode(body, type=Message)
    assert (message.device, message.gen, message.models, message.rollout) == (device, gen, ONE, "r1")
    assert etag == f"{gen}.{message.expires}"
    assert message.expires == NOW + 30 * DAY


def test_past_half_its_life_the_document_is_signed_again_with_the_same_generation_and_told_again(database, device):
    gen, sign = _set(database, device, ONE), Signer()
    with database.write() as session:
        desired.document_for(session, device, sign, NOW)
        desired.mark_published(session, device, gen, NOW)
        assert desired.unpublished(session, 10) == []
        assert desired.aging(session, NOW + 14 * DAY, 10) == []
        assert desired.aging(session, NOW + 16 * DAY, 10) == [device]
        desired.document_for(session, device, sign, NOW + 16 * DAY)
        assert desired.unpublished(session, 10) == [device]
    assert [message.gen for message in sign.signed] == [gen, gen]
    assert sign.signed[1].expires == NOW + 46 * DAY


def test_a_changed_request_throws_the_old_document_away(database, device):
    _set(database, device, ONE)
    sign = Signer()
    with database.write() as session:
        desired.document_for(session, device, sign, NOW)
    _set(database, device, TWO)
    with database.write() as session:
        body, _ = desired.document_for(session, device, sign, NOW)
    assert msgspec.json.decode(body, type=Message).models == TWO


def test_publishing_is_level_triggered(database, device):
    gen = _set(database, device, ONE)
    with database.write() as session:
        assert desired.unpublished(session, 10) == [device]
        desired.mark_published(session, device, gen - 1, NOW)
        assert desired.unpublished(session, 10) == [device], "an older publication is not enough"
        desired.mark_published(session, device, gen, NOW)
        assert desired.unpublished(session, 10) == []
        desired.mark_published(session, device, gen - 1, NOW)
        assert desired.unpublished(session, 10) == [], "a late note lowers nothing"
        desired.needs_republish(session, device)
        assert desired.unpublished(session, 10) == [device]
        desired.mark_published(session, device, gen, NOW)
        desired.republish_all(session)
    with database.read() as session:
        assert desired.unpublished(session, 10) == [device]


def test_a_device_that_never_enrolled_has_no_document(database):
    with database.write() as session, pytest.raises(NotFound) as caught:
        desired.document_for(session, "ghost", Signer(), NOW)
    assert caught.value.code == "DESIRED_UNKNOWN"
