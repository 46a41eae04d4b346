"""Settings by environment (`SNAPENGINE_*`) or `snapengine.toml`; the AWS ones by the AWS SDK's own rules."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from platformdirs import user_data_path
from pydantic import Field, StringConstraints
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from snapengine.errors import UsageError

StoreURL = Annotated[str, StringConstraints(pattern=r"^(dynamodb://[A-Za-z0-9_.-]{3,255}|sqlite:///.+)$")]


def _default_store() -> str:
    return f"sqlite:///{user_data_path('snapengine') / 'snapengine.db'}"


class Settings(BaseSettings):
    """What a deployment chooses. The environment wins over the file."""

    model_config = SettingsConfigDict(env_prefix="SNAPENGINE_", frozen=True, extra="forbid")

    store: StoreURL = Field(
        default_factory=_default_store,
        description="Where the log is kept: `dynamodb://TABLE` or `sqlite:///PATH`.",
    )
    streams: int = Field(default=8, ge=1, le=1024, description="Streams of a newly enabled bucket's log.")
    settle_seconds: int = Field(
        default=120, ge=0, description="How long after an instant its events may come late."
    )
    actor: str | None = Field(
        default=None, description="Who the audit log names; by default the AWS identity."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The file is `SNAPENGINE_CONFIG_FILE`, or `snapengine.toml` in the working directory."""
        named = os.environ.get("SNAPENGINE_CONFIG_FILE")
        if named and not Path(named).is_file():
            raise UsageError(f"SNAPENGINE_CONFIG_FILE names {named}, and there is no such file.")
        path = Path(named or "snapengine.toml")
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=path)
