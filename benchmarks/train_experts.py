"""Training routed experts beside PEFT, attention-only LoRA and full fine-tuning: CPU-seconds and peak memory.

One optimiser step (forward, loss on every token, backward, clipping, AdamW) of a 300M DeepSeek-V3 (hidden
512, 8 layers, 64 experts of which 6 serve a token, random weights), float32, one thread; T tokens in rows of
at most 256. seektune and PEFT train r = 8 on q_proj, o_proj and every routed expert. Attention-only is PEFT
on q_proj and o_proj; it and full fine-tuning run the model's stock experts. The peers use whichever of
transformers' experts implementations (eager, grouped_mm) is faster. All use torch's fused AdamW; full
fine-tuning, where the optimiser counts, is also timed with AdamW as torch builds it by default. Each case has
its own process and its best step counts, the first left out.

    python benchmarks/train_experts.py [--quick]

Last line, JSON. Per T: `vs_…` = their CPU-seconds over ours, but `vs_attention_only` = ours over theirs;
`memory_vs_…` = our peak memory over theirs; `vs_full` with torch's default AdamW there, `vs_full_fused` with
the fused one; `subset` = 8 chosen experts per layer over all 64; `floor_ratio` = the step's matrix products
alone, at the rate measured here on warm operands, over ours. `experts_256_vs_64` = our step with 256 experts
over 64 at T = 4096, as many tokens on the experts in both; `…_at_1024`, and the same of attention-only LoRA,
show how much of it is reading four times the weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

from measure import Result, best_of, finish, gemm_rate, log, machine, peak_gb

HIDDEN, WIDTH, LAYERS, CHOICES, VOCABULARY, ROW = 512, 352, 8, 6, 32_000, 256
RANK, ALPHA, LEARNING_RATE, CLIP = 8, 16, 1e-4, 1.0
TARGETS = r".*self_attn\.(q_proj|o_proj)|.*mlp\.experts"
SUBSET = tuple(range(0, 64, 8))
EAGER_STEPS, STEPS = 2, 8

Case = tuple[str, str, int, int]
"""What trains, experts implementation, tokens, experts."""


def main() -> None:
    """Run every case in its own process and compare; with --case, be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="only T = 256, without eager and full")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        what, implementation, tokens, experts = options.case
        finish(run_case(what, implementation, int(tokens), int(experts)))
    else:
        finish(compare(options.quick))


def cases(quick: bool) -> list[Case]:
    """All cases, those that are compared next to each other."""
    if quick:
        return [
            ("seektune", "own", 256, 64),
            ("peft", "grouped_mm", 256, 64),
            ("attention", "grouped_mm", 256, 64),
        ]
    chosen: list[Case] = []
    for tokens in (64, 256, 1024):
        chosen.append(("seektune", "own", tokens, 64))
        whats = ("peft", "attention", "full") if tokens == 256 else ("peft", "attention")
        chosen += [(what, way, tokens, 64) for what in whats for way in ("grouped_mm", "eager")]
    chosen += [("full_default", "grouped_mm", 256, 64), ("subset", "own", 256, 64)]
    chosen += [("seektune", "own", 1024, 256), ("attention", "grouped_mm", 1024, 256)]
    return chosen + [("seektune", "own", 4096, experts) for experts in (64, 256)]


def compare(quick: bool) -> Result:
    """Every case, printed as it ends, and the ratios."""
    log("CPU-seconds of one optimiser step, peak memory")
    results: dict[Case, Result] = {}
    for case in cases(quick):
        what, way, tokens, experts = case
        slow = way == "eager" or tokens > 1024
        result = results[case] = best_of(1 if slow else 2, __file__, "--case", *case)
        log(
            f"T {tokens:>5} {experts:>4} experts  {what:<13}{way:<11}{result['cpu_seconds']:8.3f} CPU-s"
            f"{result['peak_gb']:7.2f} GB  {result['trainable']:>11,} trainable"
            f"  losses {result['losses'][0]:.4f} {result['losses'][1]:.4f}"
        )
    check_same_work(results)
    answer: Result = {
        f"T{tokens}": ratios(results, tokens) for tokens in ((256,) if quick else (64, 256, 1024))
    }
    if not quick:
        answer |= scaling(results)
    return answer | {
        "machine": machine(),
        "cases": {" ".join(map(str, case)): r for case, r in results.items()},
    }


def ratios(results: dict[Case, Result], tokens: int) -> Result:
    """Ours against each peer at its faster implementation."""

    def best(what: str) -> Result | None:
        runs = [r for (w, _, t, e), r in results.items() if (w, t, e) == (what, tokens, 64)]
        return min(runs, key=lambda run: run["cpu_seconds"]) if runs else None

    ours, seconds, memory = best("seektune"), "cpu_seconds", "peak_gb"
    assert ours is not None
    peft, attention = best("peft"), best("attention")
    assert peft is not None
    assert attention is not None
    found: Result = {
        "vs_peft_best": peft[seconds] / ours[seconds],
        "vs_attention_only": ours[seconds] / attention[seconds],
        "memory_vs_peft_best": ours[memory] / peft[memory],
    }
    if eager := results.get(("peft", "eager", tokens, 64)):
        found["vs_peft_eager"] = eager[seconds] / ours[seconds]
    if (full := best("full")) and (default := best("full_default")):
        found["vs_full"] = default[seconds] / ours[seconds]
        found["vs_full_fused"] = full[seconds] / ours[seconds]
        found["memory_vs_full"] = ours[memory] / full[memory]
    if subset := best("subset"):
        found["subset"] = subset[seconds] / ours[seconds]
    found["floor_ratio"] = floor_seconds(tokens) / ours[seconds]
    return {name: round(value, 3) for name, value in found.items()}


def scaling(results: dict[Case, Result]) -> Result:
    """256 experts over 64."""

    def ratio(what: str, way: str, tokens: int) -> float:
        many, few = (results[what, way, tokens, experts]["cpu_seconds"] for experts in (256, 64))
        return round(many / few, 3)

    return {
        "experts_256_vs_64": ratio("seektune", "own", 4096),
        "experts_256_vs_64_at_1024": ratio("seektune", "own", 1024),
        "experts_256_vs_64_at_1024_attention_only": ratio("attention", "grouped_mm", 1024),
    }


def check_same_work(results: dict[Case, Result]) -> None:
    """Stop unless PEFT trains as many parameters as we do and every side starts from the same loss."""
    for (what, way, tokens, experts), result in results.items():
        ours = results["seektune", "own", tokens, experts]
        same = what != "peft" or result["trainable"] == ours["trainable"]
        if not same or abs(result["losses"][0] - ours["losses"][0]) > 1e-3:
            raise SystemExit(f"{what} {way} at T = {tokens} does not do our work:\n{result}\n{ours}")


def floor_seconds(tokens: int) -> float:
    """CPU-seconds of the products with frozen weights alone: forward, and the gradient of the input."""
    attention = [(768, HIDDEN), (160, HIDDEN), (1024, 128), (HIDDEN, HIDDEN)]
    shared, dense = [(2 * 704, HIDDEN), (HIDDEN, 704)], [(2 * 1408, HIDDEN), (HIDDEN, 1408)]
    routed = [(2 * WIDTH, HIDDEN), (HIDDEN, WIDTH)]
    seconds = 0.0
    for shapes, rows, times in (
        (attention, tokens, LAYERS),
        (dense, tokens, 1),
        (shared, tokens, LAYERS - 1),
        (routed, max(1, tokens * CHOICES // 64), 64 * (LAYERS - 1)),
        ([(VOCABULARY, HIDDEN)], tokens, 1),
    ):
        for out, wide in shapes:
            flop = 2 * rows * out * wide * times
            seconds += flop / gemm_rate([(rows, wide, out)]) + flop / gemm_rate([(rows, out, wide)])
    return seconds


def run_case(what: str, implementation: str, tokens: int, experts: int) -> Result:
    """Some optimiser steps of one case: the best one's CPU-seconds, peak memory, losses."""
    import torch

    torch.set_num_threads(1)
    model = build_model(experts)
    rows = torch.randint(VOCABULARY, (max(1, tokens // ROW), min(tokens, ROW)))
    if what in ("seektune", "subset"):
        steps = seektune_steps(model, rows, None if what == "seektune" else SUBSET)
    else:
        model.set_experts_implementation(implementation)
        steps = peer_steps(model, rows, what)
    seconds, losses, before = [], [], time.process_time()
    for _, loss in zip(range(EAGER_STEPS if implementation == "eager" else STEPS), steps, strict=False):
        seconds.append(time.process_time() - before)
        losses.append(round(loss, 4))
        before = time.process_time()
    return {
        "cpu_seconds": round(min(seconds[1:]), 4),
        "steps": [round(second, 3) for second in seconds],
        "peak_gb": round(peak_gb(), 3),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "losses": losses,
    }


def build_model(experts: int) -> Any:
    """The model, with a router that spreads the tokens."""
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    torch.manual_seed(0)
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "v_head_dim": 64}
    heads |= {"q_lora_rank": None, "kv_lora_rank": 128, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64}
    config = DeepseekV3Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=1408,
        moe_intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        first_k_dense_replace=1,
        n_shared_experts=2,
        n_routed_experts=experts,
        num_experts_per_tok=CHOICES,
        n_group=1,
        topk_group=1,
        max_position_embeddings=2048,
        **heads,
    )
    model = DeepseekV3ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("gate.weight"):
            torch.nn.init.normal_(parameter, std=0.02)
    return model


class Repeated:
    """A batch source that is one ragged batch over and over."""

    def __init__(self, rows: Any) -> None:
        import torch

        from seektune.types import IGNORE, Batch

        count, length = rows.shape
        targets = torch.nn.functional.pad(rows[:, 1:], (0, 1), value=IGNORE).reshape(1, -1)
        self.batch = Batch(
            input_ids=rows.reshape(1, -1),
            position_ids=torch.arange(length).repeat(count)[None],
            cu_seqlens=torch.arange(0, rows.numel() + 1, length, dtype=torch.int32),
            targets=targets,
            weights=torch.ones(1, rows.numel()),
            row_ids=tuple(f"row:{i}" for i in range(count)),
        )

    def __len__(self) -> int:
        return 1

    def epoch(self, index: int, start: int = 0) -> Iterator[Any]:
        """The batch."""
        yield self.batch


def seektune_steps(model: Any, rows: Any, chosen: tuple[int, ...] | None) -> Iterator[float]:
    """The loss of each step of `seektune.train`."""
    import seektune as st
    from seektune.models.backends import install
    from seektune.models.families import family_of
    from seektune.models.load import Loaded

    family = family_of("deepseek_v3")
    install(model, family)
    loaded = Loaded(model, None, family, identity="", source="random weights")
    experts = None if chosen is None else dict.fromkeys(range(1, LAYERS), chosen)
    spec = st.AdapterSpec(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, experts=experts)
    st.attach(loaded, spec)
    for step in st.train(
        loaded,
        Repeated(rows),
        max_steps=STEPS,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=CLIP,
    ):
        yield step.loss


def peer_steps(model: Any, rows: Any, what: str) -> Iterator[float]:
    """The loss of each step of a plain loop: transformers' loss, torch's clipping and fused AdamW."""
    import torch
    from peft import LoraConfig, get_peft_model

    if not what.startswith("full"):
        routed = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"] if what == "peft" else None
        targets = {"target_modules": ["q_proj", "o_proj"], "target_parameters": routed}
        model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, task_type="CAUSAL_LM", **targets))
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    fused = None if what == "full_default" else True
    optimizer = torch.optim.AdamW(trainable, lr=LEARNING_RATE, weight_decay=0.0, fused=fused)
    while True:
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


if __name__ == "__main__":
    main()
