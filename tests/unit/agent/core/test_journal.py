"""The journal's bytes, and what is made of bytes that are not whole or not ours."""

import json
from dataclasses import replace

import pytest

from agent.core.journal import JournalUnreadable, decode_state, encode_state
from agent.core.state import MAX_HISTORY, Asked, Passage, Release, Step, Tried, UpdaterState
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
    factory=A,
    transitions=3,
    asks="activate",
    history=tuple(
        Passage(1_700_000_000_000 + n, "rolled_back", "b" * 64, "golden_mismatch", "GOLDEN_MISMATCH")
        for n in range(MAX_HISTORY)
    ),
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
    assert len(encode_state(replace(FULL, history=()))) < 4096
    assert len(encode_state(FULL)) < 8192


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


def test_a_journal_that_release_0_1_0_wrote_is_read_whole():
    """Bytes as that agent wrote them in the middle of a probation; it knew no factory, conditions, cap or history."""
    a, b, c = "a" * 64, "b" * 64, "c" * 64
    data = (
        b'3d20073cb505c688e963098f89f6f8f03402f6878fe045d17681fb866898a438\n{"state":{"model":"t/m","step":"probation",'
        b'"gen":7,"rollout":"r1","profile":{"probation_s":3,"v":1},"target":{"target":"t/m/2.0.0/bundle.json","sha256":'
        b'"%s","length":100,"counter":2,"version":"2.0.0","variant":"v"},"committed":{"target":"t/m/1.0.0/bundle.json",'
        b'"sha256":"%s","length":100,"counter":1,"version":"1.0.0","variant":"v"},"previous":null,"revert_to":null,'
        b'"landing":"rolled_back","pending":null,"attempts":1,"recoveries":2,"deferrals":0,"wrong_content":1,"tried":'
        b'[{"sha256":"%s","attempts":2,"gen":3,"rollout":"r0","reason":"health"}],"floor":1,"since_ms":1700000000000,'
        b'"deadline_ms":1700000060000,"reason":"","code":"","detail":"","tries":0,"retry_ms":0,"verdict":"unknown",'
        b'"verdict_ms":0,"has_contact":false,"serves_previous":true,"revoked":["%s"],"declared":"stop","safe_mode":""},'
        b'"v":1}' % (b.encode(), a.encode(), c.encode(), c.encode())
    )
    state = decode_state(data)
    assert state == UpdaterState(
        "t/m",
        Step.PROBATION,
        gen=7,
        rollout="r1",
        profile=Profile(probation_s=3),
        target=replace(A, target="t/m/2.0.0/bundle.json", sha256=b, counter=2, version="2.0.0"),
        committed=A,
        attempts=1,
        recoveries=2,
        wrong_content=1,
        tried=(Tried(c, 2, 3, "r0", "health"),),
        floor=1,
        since_ms=1_700_000_000_000,
        deadline_ms=1_700_000_060_000,
        revoked=(c,),
        declared="stop",
    )
    assert decode_state(encode_state(state)) == state
