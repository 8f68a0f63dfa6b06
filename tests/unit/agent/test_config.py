import pytest

from agent.conditions import Maintenance
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
        rate_limit_kib_s=500,
        byte_budget_mib_day=50,
        blob_sources=("mqtt", "https"),
        maintenance=(Maintenance("0 2 * * sat", 4), Maintenance("30 3 * * *", 0.5, "Europe/Berlin")),
        min_battery_percent=30,
        metered="yes",
        metered_download=True,
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
        ("blob_sources = []", "blob_sources"),
        ("blob_sources = ['https', 'https']", "blob_sources"),
        ("blob_sources = ['ftp']", "blob_sources"),
        ("blob_sources = 'https'", "blob_sources"),
        ("rate_limit_kib_s = -1", "rate_limit_kib_s"),
        ("byte_budget_mib_day = 'much'", "byte_budget_mib_day"),
        ("min_battery_percent = 101", "min_battery_percent"),
        ("min_battery_percent = true", "min_battery_percent"),
        ("metered = 'maybe'", "maybe"),
        ("metered_download = 1", "metered_download"),
        ("[[maintenance]]\nstart = '0 2 * * *'", "maintenance"),
        ("[[maintenance]]\nstart = '0 2 * *'\nhours = 4", "4 fields"),
        ("[[maintenance]]\nstart = '0 2 * * *'\nhours = 200", "200 hours"),
        ("[[maintenance]]\nstart = '0 2 * * *'\nhours = 4\ntz = 'Europe/Atlantis'", "Atlantis"),
        ("[[maintenance]]\nstart = 2\nhours = 4", "maintenance"),
        ("[[maintenance]]\nstart = '0 2 * * *'\nhours = 4\nday = 1", "maintenance"),
        ("maintenance = 'nightly'", "maintenance"),
        ("not toml", "read"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(tmp_path, text, word):
    with pytest.raises(AskPerson) as caught:
        load_config(write(tmp_path, text))
    assert caught.value.code == "CONFIG_INVALID"
    assert word in caught.value.sentence
