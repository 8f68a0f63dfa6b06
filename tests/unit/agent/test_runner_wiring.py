"""What a start needs before anything else."""

import errno

from agent.runner import wiring


def test_every_start_has_a_number_of_its_own(tmp_path):
    assert [wiring.next_session(tmp_path / "session") for _ in range(3)] == [1, 2, 3]


def test_a_damaged_number_does_not_keep_the_agent_from_starting(tmp_path):
    (tmp_path / "session").write_bytes(b"\0\0")
    assert wiring.next_session(tmp_path / "session") == 1


def test_a_full_disk_does_not_keep_the_agent_from_starting(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "session").write_text("6")
    monkeypatch.setattr(wiring, "write_durably", full)
    assert wiring.next_session(tmp_path / "session") == 7
    assert "No space left" in caplog.text
