"""What is told of a device is bounded, stays what it was, and says what was left out."""

import json

from agent.diagnose.shorten import MAX_DEPTH, MAX_ITEMS, MAX_LINE, MAX_TEXT, newest_lines, shortened


def test_a_small_value_is_itself():
    value = {"a": [1, 2.5, None, True, "x"], "b": {"c": "y"}}
    notes = []
    assert shortened(value, notes) == value
    assert notes == []


def test_thousands_of_models_are_still_json():
    notes = []
    told = shortened(
        {"updates": {f"team/m{n}": {"step": "idle"} for n in range(5000)}, "list": list(range(300))}, notes
    )
    assert len(told["updates"]) == MAX_ITEMS + 1
    assert told["updates"]["..."] == "4800 more"
    assert told["list"][-1] == "100 more"
    assert notes == ["updates: 4800 of 5000 left out", "list: 100 of 300 left out"]
    json.dumps(told)


def test_long_texts_and_deep_values_are_cut():
    deep = "end"
    for _ in range(MAX_DEPTH + 3):
        deep = [deep]
    notes = []
    told = shortened({"text": "x" * (MAX_TEXT + 7), "deep": deep}, notes)
    assert told["text"] == "x" * MAX_TEXT + "..."
    assert "end" not in json.dumps(told)
    assert notes == [f"text: 7 signs of {MAX_TEXT + 7} left out", "deep: too deep, 1 left out"]


def test_the_newest_lines_stay():
    notes = []
    text = "".join(f"line {n}\n" for n in range(1000))
    kept = newest_lines(text, 100, notes)
    assert kept.endswith("line 998\nline 999\n")
    assert len(kept) <= 100
    assert text.endswith(kept)
    assert notes == [f"{1000 - kept.count(chr(10))} older lines left out"]


def test_a_line_without_an_end_loses_its_middle():
    notes = []
    kept = newest_lines("short\n" + "a" * 5000 + "b" * 5000, 1 << 20, notes)
    assert kept.startswith("short\naaa")
    assert kept.endswith("bbb\n")
    assert len(kept) < MAX_LINE + 20
    assert notes == [f"1 lines longer than {MAX_LINE} signs cut in their middle"]
