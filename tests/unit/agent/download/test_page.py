"""The page about downloads: what it shows of config.toml is read as it stands."""

import re
from pathlib import Path

from agent.config import AgentConfig, load_config

PAGE = Path(__file__).parents[4] / "docs" / "downloads.md"


def test_the_settings_on_the_page_are_settings(tmp_path):
    (shown,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "config.toml").write_text(shown)
    config = load_config(tmp_path / "config.toml")
    assert (config.rate_limit_kib_s, config.byte_budget_mib_day) == (500, 200)
    assert config.blob_sources == AgentConfig().blob_sources, "it says that this is the default"
