"""The engine: requests in, outputs out, one step at a time, every sequence under way in the same forward."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seektune.adapters.slots import Slots
from seektune.config.engine import EngineConfig
from seektune.errors import ConfigError, ModelError
from seektune.generation.adapters import Adapters, AttachedAdapters, ResidentAdapters
from seektune.generation.pages import Pages
from seektune.generation.request import FinishReason, Output, Request, TokenLogprob
from seektune.generation.runner import NativeRunner, PackedRunner, Runner, cache_shape, packs
from seektune.generation.sampling import Row, choose, logprobs
from seektune.generation.scheduler import Scheduler
from seektune.generation.sequence import Sequence
from seektune.generation.streaming import TextStream
from seektune.models.forward import evaluating
from seektune.models.load import Loaded


@dataclass(frozen=True, slots=True)
class Stats:
    """Where the engine stands."""

    waiting: int
    running: int
    used_pages: int
    num_pages: int
    preemptions: int  # since the engine was made, as are the tokens
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int


class Engine:
    """Answers many requests at once; not thread-safe: one thread owns it, and the model during a step.

    Between two steps the model is as it was: same modules, mode and active adapter.
    """

    def __init__(
        self, loaded: Loaded, slots: Slots | None = None, *, config: EngineConfig | None = None
    ) -> None:
        config = config or EngineConfig()
        context = loaded.model.config.get_text_config().max_position_embeddings
        if config.max_model_len is not None and config.max_model_len > context:
            raise ConfigError(f"max_model_len is {config.max_model_len}: the model's context is {context}")
        self.max_model_len: int = config.max_model_len or context
        self._loaded = loaded
        self._adapters: Adapters = ResidentAdapters(slots) if slots else AttachedAdapters(loaded)
        self._vocabulary = loaded.model.get_input_embeddings().num_embeddings
        self._stop_ids = stop_ids(loaded)
        packed = packs(loaded, self.max_model_len)
        self._pages = Pages(
            config.num_pages or _affordable_pages(loaded, config),
            config.page_size,
            caching=config.enable_prefix_caching and packed,
        )
        self._runner: Runner = (
            PackedRunner(loaded, self._adapters, self._pages.num_pages, config.page_size)
            if packed
            else NativeRunner(loaded, self._adapters)
        )
        self._scheduler = Scheduler(
            self._pages,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            preempts=packed,  # without packing a prompt is one forward: its cache may not take it in pieces
        )
        self._sequences: dict[str, Sequence] = {}
        self._cancelled: list[Output] = []
        self._arrivals = self._prompt_tokens = self._cached_tokens = self._generated_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would give an output or come nearer to one."""
        return bool(self._sequences or self._cancelled)

    @property
    def waiting(self) -> frozenset[str]:
        """Ids of the requests that wait: a step that fails takes nothing from them."""
        running = {sequence.request.id for sequence in self._scheduler.running}
        return frozenset(self._sequences.keys() - running)

    @property
    def stats(self) -> Stats:
        """Where the engine stands."""
        return Stats(
            self._scheduler.waiting,
            len(self._scheduler.running),
            self._pages.used,
            self._pages.num_pages,
            self._scheduler.preemptions,
            self._prompt_tokens,
            self._cached_tokens,
            self._generated_tokens,
        )

    def submit(self, request: Request) -> None:
        """Queue a request. Raises ConfigError, ModelError or AdapterError for one that cannot be answered."""
        longest = min(self.max_model_len, len(request.prompt) + request.sampling.max_tokens)
        self._check(request, longest)
        if request.adapter is not None:
            self._adapters.acquire(request.adapter)
        text = None
        if self._loaded.tokenizer is not None:
            text = TextStream(self._loaded.tokenizer, request.sampling.stop)
        if not request.cache_key:
            request = replace(request, cache_key=self._adapters.content_key(request.adapter))
        sequence = Sequence(request, longest, self._arrivals, text)
        self._arrivals += 1
        self._sequences[request.id] = sequence
        self._scheduler.add(sequence)

    def cancel(self, request_id: str) -> bool:
        """Stop a request at once, its last output follows in the next step; False if it is not under way."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return False
        sequence.finish_reason = "cancelled"
        self._drop(sequence)
        self._cancelled.append(self._output(sequence))
        return True

    def step(self) -> list[Output]:
        """Compute the tokens that are due; what each request gained by them."""
        outputs, self._cancelled = self._cancelled, []
        chunks = self._scheduler.schedule()
        if pages := self._pages.to_wipe():
            self._runner.clear(pages)
        with evaluating(self._loaded.model):
            for part in self._adapters.parts(chunks):
                done, logits = self._runner.run(part)
                for sequence, count in part:
                    sequence.computed += count
                    self._pages.seal(sequence.table, sequence.tokens, sequence.computed)
                if done:
                    outputs += self._choose(done, logits)
        return outputs

    def _choose(self, sequences: list[Sequence], logits: Tensor) -> list[Output]:
        finite = logits.amax(-1).isfinite()
        outputs = [self._fail(s) for s, fine in zip(sequences, finite.tolist(), strict=True) if not fine]
        if outputs:
            sequences = [s for s in sequences if s.finish_reason is None]
            logits = logits[finite]
        tokens = choose(logits, [self._row(sequence) for sequence in sequences])
        for index, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            top = sequence.request.sampling.logprobs
            chosen = () if top is None else (logprobs(logits[index], token, top),)
            outputs.append(self._append(sequence, token, chosen))
        return outputs

    def _fail(self, sequence: Sequence) -> Output:
        """End a sequence whose logits are not finite, and leave nothing of it behind."""
        sequence.finish_reason = "error"
        self._pages.spoil(sequence.table)
        self._drop(sequence)
        who = sequence.request.adapter or "the base model"
        place = len(sequence.tokens)
        reason = f"{who} gives logits that are not finite after token {place}: its weights or dtype overflow"
        return replace(self._output(sequence), error=reason)

    def _row(self, sequence: Sequence) -> Row:
        request = sequence.request
        if request.sampling.temperature > 0 and sequence.generator is None:
            seed = secrets.randbits(63) if request.sampling.seed is None else request.sampling.seed
            sequence.generator = torch.Generator(self._loaded.device).manual_seed(seed)
        answer = sequence.tokens[len(request.prompt) :]
        return Row(request.sampling, sequence.generator, request.prompt, answer)

    def _append(self, sequence: Sequence, token: int, chosen: tuple[TokenLogprob, ...]) -> Output:
        """Add a token to its sequence, end it where it is complete, and say what is new."""
        if not sequence.answered:
            self._prompt_tokens += len(sequence.request.prompt)
            self._cached_tokens += sequence.cached or 0
        self._generated_tokens += 1
        sequence.sound = sequence.computed
        sequence.tokens.append(token)
        ends = token in self._stop_ids and not sequence.request.sampling.ignore_eos
        text = sequence.text.push(token) if sequence.text and not ends else ""
        sequence.finish_reason = "stop" if ends else self._finish_reason(sequence)
        if sequence.finish_reason is not None:
            text += sequence.text.finish() if sequence.text else ""
            self._drop(sequence)
        return self._output(sequence, (token,), text, chosen)

    def _finish_reason(self, sequence: Sequence) -> FinishReason | None:
        if sequence.text is not None and sequence.text.stopped:
            return "stop"
        return "length" if len(sequence.tokens) == sequence.longest else None

    def _drop(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        del self._sequences[sequence.request.id]
        if sequence.request.adapter is not None:
            self._adapters.release(sequence.request.adapter)
        sequence.state = None

    def _output(
        self,
        sequence: Sequence,
        tokens: tuple[int, ...] = (),
        text: str = "",
        chosen: tuple[TokenLogprob, ...] = (),
    ) -> Output:
        return Output(
            id=sequence.request.id,
            tokens=tokens,
            text=text,
            logprobs=chosen,
            finish_reason=sequence.finish_reason,
            prompt_tokens=len(sequence.request.prompt),
            completion_tokens=sequence.answered,
            cached_tokens=sequence.cached or 0,
        )

    def _check(self, request: Request, longest: int) -> None:
        if request.id in self._sequences:
            raise ConfigError(f"a request with the id {request.id!r} is under way: give each its own")
        if not request.prompt:
            raise ConfigError("the prompt has no token: give at least one")
        wrong = [token for token in request.prompt if not 0 <= token < self._vocabulary]
        if wrong:
            raise ConfigError(f"the prompt has tokens {wrong[:3]}: they go from 0 to {self._vocabulary - 1}")
        length, limit = len(request.prompt), self.max_model_len
        if length >= limit:
            raise ModelError(f"the prompt has {length} tokens and the model's context is {limit}: shorten it")
        if self._pages.needed(longest) > self._pages.num_pages:
            room = self._pages.num_pages * self._pages.page_size
            raise ConfigError(
                f"prompt and answer need up to {longest} tokens and the cache holds {room}: raise "
                "kv_cache_memory_bytes, or lower max_tokens"
            )
        if request.sampling.stop and self._loaded.tokenizer is None:
            raise ModelError(f"{self._loaded.source} has no tokenizer files, so it has no text to stop at")


def stop_ids(loaded: Loaded) -> frozenset[int]:
    """Tokens that end an answer: end of sequence as the tokenizer and as the generation configuration say."""
    configured = loaded.model.generation_config.eos_token_id
    ids = list(configured) if isinstance(configured, list) else [configured]
    ids.append(loaded.tokenizer.eos_token_id if loaded.tokenizer else None)
    return frozenset(token for token in ids if token is not None)


def _affordable_pages(loaded: Loaded, config: EngineConfig) -> int:
    layers, heads, key_width, value_width = cache_shape(loaded)
    token: int = layers * heads * (key_width + value_width) * loaded.model.dtype.itemsize
    return max(1, config.kv_cache_memory_bytes // (token * config.page_size))
