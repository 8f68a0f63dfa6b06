"""The journal's bytes, and what is made of bytes that are not whole or not ours."""

import json
from dataclasses import replace

import pytest

from agent.core.journal import JournalUnreadable, decode_state, encode_state
from agent.core.state import Asked, Release, Step, Tried, UpdaterState
from bundles.digest import sha256_hex
from bundles.wire.messages import Profile

A = Release("t/m/1.0.0/bundle.json", "a" * 64, 100, 1, "1.0.0", "v")
FULL = UpdaterState(
    "t/m",
    Step.REVERTING,
    gen=7,
    rollout="r",
    profile=Profile(probation_s=3),
    target=replace(A, sha256="b" * 64),
    committed=A,
    previous=A,
    revert_to=A,
    landing=Step.DEFERRED,
    pending=Asked(8, None, "q"),
    attempts=1,
    tried=(Tried("c" * 64, 2, 3, "r", "health"),),
    floor=1,
    reason="health",
)


def sealed(body: bytes) -> bytes:
    return sha256_hex(body).encode() + b"\n" + body


def test_a_state_comes_back_as_it_was():
    assert decode_state(encode_state(FULL)) == FULL
    assert decode_state(encode_state(UpdaterState("t/m"))) == UpdaterState("t/m")


def test_a_journal_is_small():
    assert len(encode_state(FULL)) < 4096


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: b"", lambda d: d[:70] + b"x" + d[71:], lambda d: b"\0" * len(d)]
)
def test_damage_is_seen(damage):
    with pytest.raises(JournalUnreadable) as caught:
        decode_state(damage(encode_state(FULL)))
    assert caught.value.code == "JOURNAL_CORRUPT"


def test_unknown_fields_are_passed_over_and_missing_ones_take_their_defaults():
    body = json.dumps({"v": 1, "state": {"model": "t/m", "step": "confirmed", "gen": 4, "later": [1]}, "more": 1})
    assert decode_state(sealed(body.encode())) == UpdaterState("t/m", Step.CONFIRMED, gen=4)


def test_a_later_version_is_refused_by_name():
    with pytest.raises(JournalUnreadable) as caught:
        decode_state(sealed(b'{"v": 2, "state": {}}'))
    assert caught.value.code == "JOURNAL_VERSION"


def test_bytes_of_the_first_version_are_read_for_good():
    body = (
        b'{"state":{"model":"t/m","step":"probation","gen":2,"rollout":"r1","target":{"target":"t/m/2.0.0/bundle.json",'
        b'"sha256":"' + b"b" * 64 + b'","length":9,"counter":2,"version":"2.0.0","variant":"v1"},"attempts":1},"v":1}'
    )
    state = decode_state(sealed(body))
    assert (state.step, state.attempts, state.target.version) == (Step.PROBATION, 1, "2.0.0")
