import pytest

from agent.config import AgentConfig, Stream, dump_config, load_config
from bundles.errors import AskPerson


def write(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_a_missing_file_is_all_defaults(tmp_path):
    assert load_config(tmp_path / "none.toml") == AgentConfig()


def test_what_is_written_is_read_back(tmp_path):
    config = AgentConfig(
        hardware='cam "a"',
        labels={"site": "north", "line 2": "x"},
        channel="canary",
        runtimes=("litert", "onnxruntime"),
        factory=("ab" * 32,),
        allow_demo_keys=True,
        commit_offline=True,
        mqtt=False,
        heartbeat_s=1.5,
        stream=Stream("/a/b.npz", 20.0),
    )
    assert load_config(write(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("hardwear = 'x'", "hardwear"),
        ("channel = 'beta'", "beta"),
        ("heartbeat_s = -1", "heartbeat_s"),
        ("heartbeat_s = 0", "heartbeat_s"),
        ("mqtt = 1", "mqtt"),
        ("hardware = 3", "hardware"),
        ("runtimes = 'onnxruntime'", "runtimes"),
        ("factory = ['abc']", "factory"),
        ("factory = 'abc'", "factory"),
        ("allow_demo_keys = 'yes'", "allow_demo_keys"),
        ("[labels]\nsite = 3", "labels"),
        ("[stream]\nfile = 'x'\nspeed = 2", "stream"),
        ("[stream]\nrate_hz = 0", "rate_hz"),
        ("not toml", "read"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(tmp_path, text, word):
    with pytest.raises(AskPerson) as caught:
        load_config(write(tmp_path, text))
    assert caught.value.code == "CONFIG_INVALID"
    assert word in caught.value.sentence
