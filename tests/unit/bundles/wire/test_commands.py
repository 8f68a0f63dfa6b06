"""Commands, results and their topics, as bytes and back; nothing larger than it may be, nothing of another version."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.errors import MessageRefused
from bundles.wire import commands as wire
from bundles.wire.codec import MAX_PAYLOAD_BYTES
from bundles.wire.commands import Command, CommandResult

COMMAND = Command("0123456789abcdef01234567", wire.DIAGNOSE, 5, 9, {"a": 1})


@pytest.mark.parametrize("command", [COMMAND, Command("abcdefgh", "later-word", 0, 0)])
def test_a_command_is_read_back(command):
    assert wire.decode_command(wire.encode(command)) == command


def test_a_result_is_read_back():
    result = CommandResult("abcdefgh", False, "CODE", "why", {"x": [1, None, "y"]})
    assert wire.decode_result(wire.encode(result)) == result


@pytest.mark.parametrize("message", [COMMAND, CommandResult("abcdefgh", True)])
def test_both_carry_their_version(message):
    assert msgspec.json.decode(wire.encode(message))["v"] == 1


def test_one_command_of_a_list_that_cannot_be_read_hides_no_other():
    raws = wire.decode_commands(b'[{"v": 9}, ' + wire.encode(COMMAND) + b"]")
    assert wire.decode_command(raws[1]) == COMMAND
    with pytest.raises(MessageRefused) as caught:
        wire.decode_command(raws[0])
    assert caught.value.code == "MESSAGE_VERSION"
    assert wire.decode_commands(b"[]") == []


def test_fields_of_later_releases_are_passed_over():
    later = {**msgspec.to_builtins(COMMAND), "priority": "high", "nested": {"a": []}}
    assert wire.decode_command(msgspec.json.encode(later)) == COMMAND
    assert wire.decode_result(b'{"id":"abcdefgh","ok":true,"took_ms":5}') == CommandResult("abcdefgh", True)


@pytest.mark.parametrize("decode", [wire.decode_command, wire.decode_result])
@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b'{"v":2,"id":"abcdefgh","something":"else"}', "MESSAGE_VERSION"),
        (b"", "MESSAGE_INVALID"),
        (b"[]", "MESSAGE_INVALID"),
        (b'{"id":5}', "MESSAGE_INVALID"),
        (b"\xff\xfe", "MESSAGE_INVALID"),
        (b'{"id":"abcdefgh","args":' + b"[" * 5000, "MESSAGE_INVALID"),
        (b" " * (wire.MAX_RESULT_BYTES + 1), "MESSAGE_TOO_LARGE"),
    ],
)
def test_what_is_no_message_is_refused(decode, payload, code):
    with pytest.raises(MessageRefused) as caught:
        decode(payload)
    assert caught.value.code == code
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["", "short", "UPPERCASE1", "a" * 33, "abcdefg/", "../../etc", "abcdefgh\n", "+", "#"])
def test_a_command_id_is_a_level_of_a_topic_and_no_path(name):
    assert not wire.is_command_id(name)
    with pytest.raises(MessageRefused):
        wire.decode_command(wire.encode(Command(name, wire.STATUS, 0, 0)))


def test_leaves_are_split_as_they_are_made():
    assert wire.down_leaf("abcdefgh") == "down/cmd/abcdefgh"
    assert wire.split_leaf(wire.result_leaf("abcdefgh")) == ("abcdefgh", None)
    assert wire.split_leaf(wire.part_leaf("abcdefgh", 7)) == ("abcdefgh", 7)
    assert wire.split_up_topic("wg/1/d/cam-1/up/cmd/abcdefgh/part/0") == ("cam-1", "up/cmd/abcdefgh/part/0")


@pytest.mark.parametrize(
    "leaf",
    [
        "up/cmd/abcdefgh",
        "up/cmd/abcdefgh/part/10",
        "up/cmd/abcdefgh/part/",
        "up/cmd/abcdefgh/result/x",
        "up/cmd/ABCDEFGH/result",
        "down/cmd/abcdefgh/result",
        "up/event",
        "up/cmd/abcdefgh/result\n",
    ],
)
def test_what_is_no_answer_is_none(leaf):
    assert wire.split_leaf(leaf) is None
    assert wire.split_up_topic(f"wg/1/d/cam-1/{leaf}") is None


@pytest.mark.parametrize("topic", ["wg/2/d/cam-1/up/cmd/abcdefgh/result", "xwg/1/d/cam-1/up/cmd/abcdefgh/result", ""])
def test_other_topics_are_none(topic):
    assert wire.split_up_topic(topic) is None


def test_a_bundle_in_parts_fits_the_broker():
    assert wire.MAX_PARTS * wire.PART_BYTES == wire.MAX_BUNDLE_BYTES == 1 << 20
    assert wire.MAX_PARTS <= 10, "the number of a part is one digit"
    assert wire.PART_BYTES + 1024 < 262_144, "the broker's max_packet_size"
    assert max(wire.MAX_COMMAND_BYTES, wire.MAX_RESULT_BYTES) <= max(MAX_PAYLOAD_BYTES, wire.MAX_RESULT_BYTES)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(payload):
    for decode in (wire.decode_command, wire.decode_commands, wire.decode_result):
        with contextlib.suppress(MessageRefused):
            decode(payload)
