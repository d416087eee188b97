from __future__ import annotations

import re

import pytest
from torch import nn

from seektune.data.templates.render import TEMPLATES
from seektune.errors import ModelError
from seektune.models.families import FAMILIES, GROUPS, family_of
from seektune.models.tiny import TINY, tiny_model


@pytest.mark.parametrize("name", TINY)
def test_every_linear_is_in_exactly_one_group_or_refused_with_a_reason(name: str) -> None:
    model, _ = tiny_model(name)
    family = family_of(model.config.model_type)
    for module_name, module in model.named_modules():
        groups = [group for group, pattern in family.groups.items() if re.fullmatch(pattern, module_name)]
        reasons = [reason for pattern, reason in family.refused.items() if re.fullmatch(pattern, module_name)]
        if isinstance(module, nn.Linear) and not groups:
            assert reasons, f"{module_name} is neither a target nor refused"
        assert len(groups) + bool(reasons) <= 1, f"{module_name}: {groups} {reasons}"


@pytest.mark.parametrize("name", TINY)
def test_every_pattern_of_a_family_exists_in_its_tiny_model(name: str) -> None:
    model, _ = tiny_model(name)
    family = family_of(model.config.model_type)
    names = [module_name for module_name, _ in model.named_modules()]
    patterns = [*family.groups.values(), *family.refused, *filter(None, [family.router])]
    assert [p for p in patterns if not any(re.fullmatch(p, module_name) for module_name in names)] == []


@pytest.mark.parametrize(
    "name", [name for name in TINY if name.startswith("deepseek_v") and "vl" not in name]
)
def test_the_router_pattern_holds_every_routing_buffer(name: str) -> None:
    model, _ = tiny_model(name)
    router = family_of(model.config.model_type).router
    assert router is not None
    routing = [
        tensor_name
        for tensor_name in model.state_dict()
        if tensor_name.endswith(("e_score_correction_bias", "tid2eid", "mlp.gate.weight"))
    ]
    assert routing
    assert all(re.fullmatch(router, tensor_name.rpartition(".")[0]) for tensor_name in routing)


def test_families_name_known_groups_and_templates() -> None:
    for family in FAMILIES.values():
        assert set(family.groups) <= set(GROUPS)
        assert family.template in TEMPLATES


def test_deepseek_moe_v1_is_refused_with_the_reason() -> None:
    with pytest.raises(ModelError, match=r"v1 .*remote code.*DeepSeek-V2-Lite"):
        family_of("deepseek")


def test_an_unknown_model_type_names_the_near_miss_and_what_exists() -> None:
    with pytest.raises(ModelError, match=r"did you mean deepseek_v3\?.*supported: llama, qwen2"):
        family_of("deepseek_v3x")
