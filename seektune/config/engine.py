"""The `engine` section: how much one step computes and how much memory keys and values take; vLLM's names."""

from __future__ import annotations

from pydantic import Field

from seektune.config.section import Section


class EngineConfig(Section):
    """Limits of the generation engine."""

    max_num_seqs: int = Field(64, gt=0)  # sequences that are computed together
    max_num_batched_tokens: int = Field(512, gt=0)  # tokens of one step; longer prompts come in chunks
    max_model_len: int | None = Field(None, gt=0)  # prompt and answer together; none: the model's context
    page_size: int = Field(16, gt=0)  # tokens whose keys and values are allocated and shared together
    num_pages: int | None = Field(None, gt=0)  # above all: overrides kv_cache_memory_bytes
    kv_cache_memory_bytes: int = Field(2**30, gt=0)  # keys and values of all layers
    enable_prefix_caching: bool = True
