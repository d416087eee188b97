"""The `serving` section: where the server listens and what one caller may ask of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from seektune.config.engine import EngineConfig
from seektune.config.section import Section, override, validated


def _origin(value: str) -> str:
    if not re.fullmatch(r"https?://[\w.-]+(:\d{1,5})?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?", value):
        raise ValueError(f"{value!r} is no origin: name each one as scheme://host or scheme://host:port")
    return value


class ServingConfig(Section):
    """Address and limits of the HTTP server; times in seconds, vLLM's names for what it has too."""

    host: str = "127.0.0.1"  # any other than a loopback address needs API keys
    port: int = Field(8000, ge=0, le=65535)  # 0: any free one
    adapter_root: Path | None = None  # the API loads adapters from here alone: name/version/ or name/
    adapter_state: Path | None = None  # what was served last, for a restart; default: a file in adapter_root
    adapter_poll: float = Field(0.0, ge=0)  # look for new and gone adapters this often; 0: only the API loads
    max_loras: int = Field(16, gt=0)  # adapters resident at a time
    max_lora_rank: int = Field(64, gt=0)
    adapter_memory_bytes: int | None = Field(None, gt=0)  # of all resident adapters
    cors_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()  # pages of these may call
    max_body_bytes: int = Field(1 << 20, gt=0)
    max_prompt_tokens: int | None = Field(None, gt=0)  # none: the model's context
    max_choices: int = Field(16, gt=0)  # answers of one call: n times its prompts
    max_concurrent_requests: int = Field(256, gt=0)  # answers under way or waiting; more are refused with 429
    max_connections: int = Field(1024, gt=0)
    default_max_tokens: int = Field(1024, gt=0)  # of a chat that names no length
    max_backlog_tokens: int = Field(4096, gt=0)  # a reader that falls further behind is cut off
    header_timeout: float = Field(10.0, gt=0)  # for the headers of a call, on a connection that waits for one
    body_timeout: float = Field(20.0, gt=0)  # for the whole body to arrive
    request_timeout: float = Field(600.0, gt=0)  # from admission to the last token
    drain_timeout: float = Field(30.0, gt=0)  # for answers under way when the server is asked to end


class ServeConfig(Section):
    """All that `seektune serve` can be told beside models."""

    serving: ServingConfig = ServingConfig()
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="after")
    def _root_to_look_at(self) -> ServeConfig:
        if self.serving.adapter_poll and self.serving.adapter_root is None:
            raise ValueError("serving.adapter_poll looks for adapters in serving.adapter_root: set it too")
        return self


def serve_config(settings: dict[str, Any], overrides: Sequence[str] = ()) -> ServeConfig:
    """`settings` of the serving section and `section.key=value` overrides, validated."""
    tree: dict[str, Any] = {"serving": dict(settings)}
    for text in overrides:
        override(tree, text)
    return validated(ServeConfig, tree, "settings")
