"""The log's three forms, and that none of them ever gets in the agent's way."""

import array
import json
import logging
import os
import socket

import pytest

from agent.logs import MESSAGE_IDS, RING_BYTES, RING_FILES, priority_of, set_up_logging
from bundles.errors import TryAgain

log = logging.getLogger("agent.test")


@pytest.fixture(autouse=True)
def as_before():
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    yield
    for handler in [one for one in root.handlers if one not in kept]:
        root.removeHandler(handler)
        handler.close()
    root.handlers, root.level = kept, level


@pytest.fixture
def journal(tmp_path):
    """A socket that stands for the journal's; ``read`` returns the fields of the next message."""

    class Journal:
        path = tmp_path / "journal"

        def read(self):
            data, ancillary, *_ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
            for _, _, rights in ancillary:
                (descriptor,) = array.array("i", rights[:4])
                with os.fdopen(descriptor, "rb") as file:
                    file.seek(0)
                    data = file.read()
            fields = {}
            while data:
                line, _, data = data.partition(b"\n")
                name, equals, value = line.partition(b"=")
                if not equals:
                    length, data = int.from_bytes(data[:8], "little"), data[8:]
                    value, data = data[:length], data[length + 1 :]
                fields[name.decode()] = value.decode()
            return fields

    made = Journal()
    made.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.socket.settimeout(10)
    made.socket.bind(str(made.path))
    yield made
    made.socket.close()


def test_the_journal_gets_fields(journal):
    set_up_logging("journal", is_verbose=True, journal=journal.path)
    log.warning("it went\nback", extra={"kind": "rolled_back", "model": "vision/digits", "reason": "health"})
    told = journal.read()
    assert told["MESSAGE"] == "it went\nback"
    assert (told["PRIORITY"], told["SYSLOG_IDENTIFIER"]) == ("4", "wavegate-agent")
    assert (told["MODEL"], told["REASON"]) == ("vision/digits", "health")
    assert told["MESSAGE_ID"] == MESSAGE_IDS["rolled_back"]
    log.info("not now: %s", TryAgain("No.", code="SERVER_UNREACHABLE", remedy="Wait."))
    assert journal.read()["CODE"] == "SERVER_UNREACHABLE"


def test_what_is_too_large_for_a_message_goes_as_a_sealed_file(journal):
    set_up_logging("journal", is_verbose=True, journal=journal.path)
    log.info("x" * 3_000_000)
    assert len(journal.read()["MESSAGE"]) == 3_000_000


def test_a_journal_that_has_gone_costs_nothing_but_the_line(journal):
    set_up_logging("journal", is_verbose=True, journal=journal.path)
    journal.path.unlink()
    log.error("nobody hears this")


def test_without_a_journal_it_is_text(tmp_path, capsys):
    set_up_logging("journal", is_verbose=False, journal=tmp_path / "none")
    log.warning("a line")
    log.info("too quiet")
    assert capsys.readouterr().err.endswith("WARNING agent.test: a line\n")


def test_json_lines_have_the_fields(capsys):
    set_up_logging("json", is_verbose=True)
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed", extra={"model": "a/b"})
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["level"], told["logger"], told["model"]) == ("error", "agent.test", "a/b")
    assert "ValueError: broken" in told["message"]


@pytest.mark.parametrize("form", ["text", "json", "journal"])
def test_arguments_that_do_not_fit_raise_nowhere(form, journal, monkeypatch, capsys):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    set_up_logging(form, is_verbose=True, journal=journal.path)
    log.warning("%d of %d", "one")


def test_the_ring_is_private_bounded_and_keeps_what_is_not_shown(tmp_path, capsys):
    ring = tmp_path / "log" / "agent.log"
    set_up_logging("text", is_verbose=False, ring=ring)
    log.info("only kept")
    assert "only kept" in ring.read_text()
    assert (ring.stat().st_mode & 0o777, ring.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    for _ in range(2_000):
        log.info("y" * 1_000)
    sizes = [path.stat().st_size for path in ring.parent.iterdir()]
    assert len(sizes) == RING_FILES + 1
    assert max(sizes) <= RING_BYTES


def test_a_ring_that_cannot_be_written_is_none(tmp_path):
    (tmp_path / "log").write_text("a file")
    set_up_logging("text", is_verbose=True, ring=tmp_path / "log" / "agent.log")
    log.info("goes on")


def test_levels_have_the_priorities_of_syslog():
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
    assert [priority_of(level) for level in levels] == [7, 6, 4, 3, 2]


SECRET = "hunter2-and-more"
TOLD = (
    "proxy http://ada:hunter2-and-more@proxy:3128 refused",
    "GET https://store/blob?X-Amz-Signature=hunter2-and-more",
    "Authorization: Bearer hunter2-and-more",
    "enrolment with token=hunter2-and-more",
)


@pytest.mark.parametrize("form", ["text", "json", "journal"])
@pytest.mark.parametrize("words", TOLD)
def test_no_form_tells_what_is_secret(form, words, journal, tmp_path, capsys):
    ring = tmp_path / "log" / "agent.log"
    set_up_logging(form, is_verbose=True, journal=journal.path, ring=ring)
    try:
        raise OSError(words)
    except OSError:
        log.exception("Because %s", words)
    shown = journal.read()["MESSAGE"] if form == "journal" else capsys.readouterr().err
    for text in (shown, ring.read_text()):
        assert SECRET not in text
        assert "Because" in text
        assert "OSError" in text


def test_what_is_known_to_be_secret_is_told_nowhere(tmp_path, capsys):
    ring = tmp_path / "log" / "agent.log"
    set_up_logging("json", is_verbose=True, ring=ring, secrets={"plain words"})
    log.warning("it said plain words and more")
    assert "plain words" not in capsys.readouterr().err + ring.read_text()


def test_as_a_service_the_journal_gets_fields_without_being_told_to(journal, monkeypatch):
    behind = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{behind.st_dev}:{behind.st_ino}")
    set_up_logging("auto", is_verbose=True, journal=journal.path)
    log.warning("a line", extra={"model": "vision/digits"})
    assert journal.read()["MODEL"] == "vision/digits"


@pytest.mark.parametrize("stream", ["", "1:2", "nonsense"])
def test_a_person_at_a_terminal_gets_text(journal, stream, monkeypatch, capsys):
    """A shell started by a service inherits the variable, and not its stderr."""
    monkeypatch.setenv("JOURNAL_STREAM", stream)
    set_up_logging("auto", is_verbose=True, journal=journal.path)
    log.warning("a line")
    assert capsys.readouterr().err.endswith("WARNING agent.test: a line\n")
