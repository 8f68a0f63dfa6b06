"""Figures judge themselves by the right number; comparisons take turns; memory counts all descendants."""

import subprocess
import sys
from pathlib import Path

import pytest
from benches.measuring.figure import Figure, header, row
from benches.measuring.memory import of_tree, tree
from benches.measuring.timing import interleave, medians, program_s


@pytest.mark.parametrize(
    ("more", "ratio", "ok"),
    [
        ({}, None, None),
        ({"bar": 4.0}, None, True),
        ({"bar": 3.9}, None, False),
        ({"peer_value": 2.0}, 2.0, None),
        ({"peer_value": 2.0, "bar": 3.0}, 2.0, False),
        ({"peer_value": 2.0, "bar": 3.0, "is_bar_of_ratio": True}, 2.0, True),
        ({"peer_value": 2.0, "bar": 1.9, "is_bar_of_ratio": True}, 2.0, False),
        ({"bar": 3.0, "is_bar_of_ratio": True}, None, None),
        ({"peer_value": 0.0, "bar": 5.0}, None, True),
        ({"bar": 3.9, "is_more_better": True}, None, True),
        ({"bar": 4.1, "is_more_better": True}, None, False),
        ({"peer_value": 5.0, "bar": 0.8, "is_bar_of_ratio": True, "is_more_better": True}, 0.8, True),
    ],
)
def test_a_figure_is_judged_by_its_value_or_its_ratio(more, ratio, ok):
    figure = Figure("b", "m", 4.0, "s", peer="p", **more)
    assert (figure.ratio, figure.ok) == (ratio, ok)
    assert figure.as_dict()["ok"] is ok


def test_a_figure_of_a_ratio_says_what_its_bar_is_on():
    figure = Figure("b", "m", 4.0, "s", "p", 2.0, 3.0, is_bar_of_ratio=True, note="cold").with_note("load 1.0")
    assert figure.as_dict()["note"] == "bar on the ratio; cold; load 1.0"
    assert "3x" in row(figure)


def test_a_figure_of_which_more_is_better_says_so():
    figure = Figure("b", "m", 4.0, "MB/s", "p", 5.0, 0.8, is_bar_of_ratio=True, is_more_better=True)
    assert figure.as_dict()["note"] == "bar on the ratio; more is better"


def test_a_missed_bar_stands_out_in_the_table():
    line = row(Figure("b", "m", 4.0, "s", bar=3.0, n=7, note="why"))
    assert "MISS" in line
    assert line.index("MISS") == header().index("ok ")


def test_sides_take_turns_and_every_second_round_goes_backwards():
    order = []
    sides = {name: lambda name=name: order.append(name) or float(len(order)) for name in "abc"}
    taken = interleave(sides, 3)
    assert "".join(order) == "abccbaabc"
    assert taken == {"a": [1.0, 6.0, 7.0], "b": [2.0, 5.0, 8.0], "c": [3.0, 4.0, 9.0]}


def test_one_slow_round_moves_no_median():
    values = iter([1.0, 900.0, 1.2])
    assert medians({"a": lambda: next(values)}, 3) == {"a": 1.2}


def test_a_program_that_fails_is_not_timed():
    with pytest.raises(subprocess.CalledProcessError):
        program_s([sys.executable, "-c", "raise SystemExit(3)"])


GRANDCHILD = """
import sys, time
ballast = bytearray(b"x") * (40 << 20)
print("ready", flush=True)
sys.stdin.read()
"""
PARENT = """
import subprocess, sys
subprocess.run([sys.argv[1], "-c", sys.argv[2]], start_new_session=True)
"""


def test_memory_counts_descendants_in_other_sessions_and_with_odd_names(tmp_path):
    odd = tmp_path / "a) 1 (b"  # a name that would shift the fields of /proc/PID/stat
    odd.symlink_to(Path(sys.executable).resolve())
    command = [sys.executable, "-c", PARENT, str(odd), GRANDCHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        pids = tree(process.pid)
        whole, alone = of_tree(process.pid), of_tree(pids[1])
        process.stdin.close()
    assert pids[0] == process.pid
    assert (len(pids), whole.processes, alone.processes) == (2, 2, 1)
    assert whole.rss_mib > alone.rss_mib > 40
    assert whole.pss_mib > 40
    assert whole.pss_mib < whole.rss_mib, "the two share the interpreter's pages"
    assert whole.pss_mib <= whole.alone_mib < whole.rss_mib, "which count once, whoever else maps them"


def test_memory_of_a_process_that_has_ended_is_an_error():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    with pytest.raises(OSError):
        of_tree(process.pid)
