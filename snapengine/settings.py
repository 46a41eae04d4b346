"""Settings by environment (`SNAPENGINE_*`) or `snapengine.toml`; the AWS ones by the AWS SDK's own rules."""

from __future__ import annotations

import os
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any

from platformdirs import user_cache_path, user_data_path
from pydantic import Field, SecretStr, StringConstraints, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from snapengine.errors import UsageError

StoreURL = Annotated[str, StringConstraints(pattern=r"^(dynamodb://[A-Za-z0-9_.-]{3,255}|sqlite:///.+)$")]


ArchiveURL = Annotated[str, StringConstraints(pattern=r"^(s3://[a-z0-9][a-z0-9.-]+(/.*)?|file:///.*)$")]


def _default_cache() -> str:
    return str(user_cache_path("snapengine"))


def _default_tensor_cache() -> str:
    return str(user_cache_path("snapengine-tensors"))


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
    archive: ArchiveURL | None = Field(
        default=None,
        description="Where archives are made: `s3://BUCKET/PREFIX`, in no watched bucket, or `file:///FOLDER`.",
    )
    cache: str = Field(
        default_factory=_default_cache,
        description="The folder in which files of archives are kept for the next reader; `off` for none.",
    )
    cache_bytes: int = Field(default=10 * 2**30, ge=0, description="How large that folder may grow.")
    tensor_cache: str = Field(
        default_factory=_default_tensor_cache,
        description="The folder with tensor snapshots, where a dataset asks for them; `off` for none.",
    )
    tensor_cache_bytes: int = Field(default=50 * 2**30, ge=0, description="How large that folder may grow.")
    deidentify: str = Field(
        default="off",
        description="Whether metadata is de-identified where nothing is said: `off`, `on`, or options of "
        "PS3.15's profile, with commas.",
    )
    deidentify_key: SecretStr | None = Field(
        default=None, description="Of the pseudonyms: at least 32 hexadecimal digits, kept secret."
    )
    actor: str | None = Field(
        default=None, description="Who the audit log names; by default the AWS identity."
    )

    @property
    def cache_folder(self) -> Path | None:
        """None if there is to be none."""
        return None if self.cache in {"off", ""} or not self.cache_bytes else Path(self.cache).expanduser()

    @property
    def tensor_folder(self) -> Path | None:
        """None if there is to be none. Raises `UsageError` where it would be mixed with the other."""
        if self.tensor_cache in {"off", ""} or not self.tensor_cache_bytes:
            return None
        folder, other = Path(self.tensor_cache).expanduser(), self.cache_folder
        if other is not None and (folder.is_relative_to(other) or other.is_relative_to(folder)):
            raise UsageError(
                f"SNAPENGINE_TENSOR_CACHE={folder} and SNAPENGINE_CACHE={other} must not be in each other: "
                "each has a size and files of its own."
            )
        return folder

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


def _wrong_setting(where: tuple[str | int, ...], kind: str, said: str, given: object) -> str:
    name = "_".join(map(str, where))
    words = said
    if kind == "extra_forbidden":
        words = "there is no such setting"
    elif name == "store":
        words = f"{given!r} is neither dynamodb://TABLE nor sqlite:///PATH"
    return f"SNAPENGINE_{name.upper()}: {words}"


def load_settings(**given: Any) -> Settings:
    """Settings from environment and file. Raises `UsageError` that names each wrong one."""
    try:
        return Settings(**given)
    except ValidationError as error:
        wrong = "; ".join(_wrong_setting(e["loc"], e["type"], e["msg"], e["input"]) for e in error.errors())
        raise UsageError(f"Wrong settings. {wrong}. See docs/settings.md.") from None
    except TOMLDecodeError as error:
        raise UsageError(f"The settings file is not TOML: {error}. See docs/settings.md.") from None
