"""Settings of the server: flag > environment (``WAVEGATE_SERVER_*``) > ``settings.toml`` in the data folder > default.

Read by ``app`` alone; every other room is handed what it needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from bundles.wire.messages import Profile

MAX_PUBLISH_BYTES = 2 * 1024**3


class Settings(BaseSettings):
    """Everything a person may set. Durations carry their unit in the name."""

    model_config = SettingsConfigDict(env_prefix="WAVEGATE_SERVER_", extra="forbid")

    dir: Path = Path("wavegate-data")
    database_url: str = ""
    blobs_url: str = ""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    device_host: str = "127.0.0.1"
    device_port: int = Field(default=8443, ge=0, le=65535)
    mqtt_host: str = "127.0.0.1"
    mqtt_port: int = Field(default=8883, ge=1, le=65535)
    mqtt_ws_port: int = Field(default=0, ge=0, le=65535)
    """Port of the private broker for MQTT over WebSocket (mutual TLS as well); 0 = none."""
    told_mqtt_port: int = Field(default=0, ge=0, le=65535)
    told_mqtt_ws_port: int = Field(default=0, ge=0, le=65535)
    """The ports that devices are told, where something stands before the broker (docs/network.md); 0 = its own."""
    names: list[str] = ["localhost", "127.0.0.1"]
    """DNS names and addresses in the server's own certificates; the first address is what devices are told."""

    broker: Literal["private", "none"] = "private"
    """``private`` = a supervised mosquitto; ``none`` = devices poll over HTTPS."""
    mosquitto: str = ""
    """Path of the mosquitto to run; looked for where it is usually installed if empty."""
    broker_required: bool = False
    """Refuse to start without a broker, instead of going on over HTTPS."""

    chunk_rate_kib_s: float = Field(default=1024.0, gt=0)
    """Of one device that fetches files over the broker."""

    enrolment: Literal["token", "approval"] = "token"
    """``approval`` = a device that comes without a claim token waits for a person; tokens work either way."""

    rollup_bucket_s: float = Field(default=3600.0, gt=0)
    reconcile_s: float = Field(default=1.0, gt=0)
    drift_s: float = Field(default=60.0, gt=0)
    publish_s: float = Field(default=0.5, gt=0)
    tell_again_s: float = Field(default=30.0, ge=1)
    """A command that a device has not answered is told to it again after so long."""
    raw_retention_h: float = Field(default=72.0, gt=0)
    diagnoses_days: float = Field(default=30.0, gt=0)
    diagnoses_mib: int = Field(default=1024, ge=1)
    """Support bundles of the whole fleet; the oldest go first."""
    max_publish_bytes: int = MAX_PUBLISH_BYTES
    profile: dict[str, float] = {}
    """Fields of the timing profile signed into desired documents; what is not named keeps its default."""

    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("profile")
    @classmethod
    def _known_profile_fields(cls, value: dict[str, float]) -> dict[str, float]:
        unknown = sorted(value.keys() - {field.name for field in msgspec.structs.fields(Profile)})
        if unknown:
            raise ValueError(f"no such field of the timing profile: {', '.join(unknown)}")
        return value

    def timing(self) -> Profile:
        """Return the timing profile."""
        return Profile(**self.profile)  # type: ignore[arg-type]

    @property
    def database(self) -> str:
        """The database's URL; SQLite in the data folder where none is set."""
        return self.database_url or f"sqlite:///{(self.dir / 'wavegate.db').absolute()}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags first, then the environment, then the file in the data folder."""
        folder = Path(init_settings().get("dir") or env_settings().get("dir") or "wavegate-data")
        toml = TomlConfigSettingsSource(settings_cls, folder / "settings.toml")
        return init_settings, env_settings, toml


def load(**flags: Any) -> Settings:
    """Return the settings; ``flags`` that are None were not given.

    Raises:
        pydantic.ValidationError: a value is out of range or has no such name.
    """
    return Settings(**{name: value for name, value in flags.items() if value is not None})
