from __future__ import annotations

from typing import Any, get_args

import pytest
import yaml

from seektune.config.run import RunConfig
from seektune.config.section import validated
from seektune.config.training import HealthConfig, TrainingConfig
from seektune.training.causes import NAMED_ROWS, advice, explained, number
from seektune.training.finding import Finding, Origin, Row

NAN = float("nan")
EVIDENCE = {
    "share": 0.9, "usual_tokens": 40, "steps": 200, "loss": 2.0, "first_loss": 3.0, "layer": 1,
    "effective_experts": 2.0, "base_effective_experts": 7.0, "best_epoch": 1.5,
}  # fmt: skip
KINDS = [name for name, field in HealthConfig.model_fields.items() if "warn" in get_args(field.annotation)]


def found(kind: str = "loss_spike", **evidence: float) -> Finding:
    settings = TrainingConfig()
    cause, change = advice(kind, EVIDENCE | evidence, settings)
    return Finding(kind, 3, "warn", evidence, cause, change)


def applied(change: tuple[str, ...]) -> RunConfig:
    """The configuration with the lines written into it, as a user would."""
    tree: dict[str, Any] = {"base_model": "tiny/llama", "output_dir": "x", "data": {"train": ["x.jsonl"]}}
    for line in change:
        key, _, value = line.partition(": ")
        node = tree
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = yaml.safe_load(value)
    return validated(RunConfig, tree, "change")


@pytest.mark.parametrize("kind", [*KINDS, "non_finite"])
def test_every_kind_has_a_cause_and_lines_that_the_configuration_takes(kind: str) -> None:
    cause, change = advice(kind, EVIDENCE, TrainingConfig(), ("shared",))
    assert cause
    assert change
    assert applied(change) != applied(())


def test_a_lower_learning_rate_is_the_guides_or_a_tenth() -> None:
    def change(**settings: Any) -> tuple[str, ...]:
        return advice("loss_spike", {}, TrainingConfig(**settings))[1]

    assert change(learning_rate=1e-4) == ("training.learning_rate: 1e-5", "training.max_grad_norm: 0.3")
    assert change(learning_rate=0.3)[0] == "training.learning_rate: 0.03"
    assert change(learning_rate=1e-5)[0] == "training.learning_rate: 1e-6"
    assert change(max_grad_norm=0.3)[1] == "training.max_grad_norm: 0.1"
    assert applied(("training.learning_rate: 1e-5",)).training.learning_rate == 1e-5


def test_numbers_are_written_as_people_do() -> None:
    assert [number(x) for x in (1e-5, 1e-4, 0.3, 1.5, 2.5e-06, 0)] == [
        "1e-5",
        "1e-4",
        "0.3",
        "1.5",
        "2.5e-6",
        "0",
    ]


def test_a_plateau_where_nothing_was_learnt_asks_for_more_and_a_late_one_for_less() -> None:
    evidence = {"steps": 200, "loss": 3.0, "first_loss": 3.01}
    assert "training.learning_rate: 0.001" in advice("plateau", evidence, TrainingConfig())[1]
    cause, change = advice("plateau", evidence | {"loss": 1.0}, TrainingConfig())
    assert "more epochs will not help" in cause
    assert not any("learning_rate" in line for line in change)


def rows(*losses: float | None, tokens: int = 40) -> list[Row]:
    return [Row(f"a.jsonl:{i}", tokens, 1 / len(losses), loss) for i, loss in enumerate(losses, start=1)]


def test_the_rows_without_a_finite_loss_are_named_alone() -> None:
    broken = explained(found("non_finite"), TrainingConfig(), rows(1.0, NAN, 2.0))
    assert [row.row_id for row in broken.rows] == ["a.jsonl:2"]


def test_the_row_with_a_loss_of_its_own_has_a_bad_label() -> None:
    spike = explained(found(), TrainingConfig(), rows(0.5, 0.6, None, 8.0))
    assert spike.rows[0].row_id == "a.jsonl:4"
    assert "a.jsonl:4 alone stands out, with loss 8" in spike.cause
    assert spike.change == ("training.health.loss_spike: skip",)


def test_a_step_whose_rows_all_got_worse_points_at_the_learning_rate() -> None:
    spike = explained(found(), TrainingConfig(), rows(7.0, 8.0, 7.5, 6.9))
    assert "learning rate 1e-4" in spike.cause
    assert spike.change[0] == "training.learning_rate: 1e-5"


def test_a_row_that_fills_the_step_is_too_long() -> None:
    long = Row("a.jsonl:9", 800, 0.87, 5.0)
    spike = explained(found(), TrainingConfig(), [*rows(4.0, 4.1, 4.2), long])
    assert spike.rows[0] == long
    assert "a.jsonl:9 is 20 times as long as other rows and holds 87% of the step" in spike.cause
    assert spike.change == ("data.max_length: 192",)


def test_a_row_alone_in_its_step_is_held_against_the_rows_before() -> None:
    long = Row("a.jsonl:9", 800, 1.0, 5.0)
    assert "20 times" in explained(found(usual_tokens=40), TrainingConfig(), [long]).cause
    assert "20 times" not in explained(found(usual_tokens=500), TrainingConfig(), [long]).cause


@pytest.mark.parametrize(
    ("origin", "said", "change"),
    [
        (Origin("layers.3.mlp", 3, "output"), "overflow in layers.3.mlp (layer 3)", "learning_rate"),
        (Origin("layers.3", 3, "gradient"), "the gradient overflows behind layers.3", "max_grad_norm"),
        (Origin("embed_tokens.weight", None, "parameter"), "embed_tokens.weight is damaged", "skip"),
        (Origin("a.deltas.default.lora_B", 0, "parameter"), "an earlier update broke it", "rollback"),
    ],
)  # fmt: skip
def test_the_origin_decides_what_a_broken_number_means(origin: Origin, said: str, change: str) -> None:
    broken = explained(found("non_finite"), TrainingConfig(), rows(NAN, 1.0), origin)
    assert said in broken.cause
    assert broken.origin == origin
    assert any(change in line for line in broken.change)
    assert applied(broken.change)


def test_an_overflow_in_float16_asks_for_bfloat16() -> None:
    settings = TrainingConfig(fp16=True)
    broken = explained(found("non_finite"), settings, rows(NAN), Origin("model.layers.0.mlp", 0, "output"))
    assert broken.change[:2] == ("training.fp16: false", "training.bf16: true")


def test_a_finding_names_a_few_rows_only() -> None:
    assert len(explained(found(), TrainingConfig(), rows(*[1.0] * 50)).rows) == NAMED_ROWS


def test_of_a_run_in_stages_it_is_the_stages_rate_that_changes() -> None:
    stages = ({"learning_rate": 1e-3, "max_steps": 2}, {"learning_rate": 1e-2, "max_steps": 2})
    settings = TrainingConfig(stages=stages)  # type: ignore[arg-type]
    cause, changes = advice("divergence", {}, settings)
    assert "0.01 is too high" in cause
    assert changes == ("training.stages: learning_rate: 0.001 in the stage of this step",)
