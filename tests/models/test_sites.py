from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from seektune.errors import TargetError
from seektune.models.families import ALL_LINEAR, Family, family_of
from seektune.models.sites import Site, all_sites, find_sites, groups_by_site
from seektune.models.tiny import TINY, tiny_model

MODELS = {name: tiny_model(name)[0] for name in TINY}
LLAMA_NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def parts(name: str) -> tuple[nn.Module, Family]:
    return MODELS[name], family_of(MODELS[name].config.model_type)


def found(name: str, targets: list[str] | str, exclude: list[str] | str = ()) -> list[str]:
    return [site.name for site in find_sites(*parts(name), targets, exclude)]


def refusal(name: str, targets: list[str] | str, exclude: list[str] | str = ()) -> str:
    with pytest.raises(TargetError) as caught:
        find_sites(*parts(name), targets, exclude)
    return str(caught.value)


@pytest.mark.parametrize("name", TINY)
def test_each_group_selects_its_sites_and_only_those(name: str) -> None:
    sites = all_sites(*parts(name))
    for group in parts(name)[1].groups:
        assert found(name, [group]) == [site.name for site in sites if site.group == group]


@pytest.mark.parametrize("name", TINY)
def test_all_linear_is_attention_dense_and_shared(name: str) -> None:
    expected = [s.name for s in all_sites(*parts(name)) if s.group in ("attention", "dense", "shared")]
    assert found(name, ALL_LINEAR) == found(name, [ALL_LINEAR]) == expected


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("targets", [".*", [ALL_LINEAR]])
def test_nothing_broad_ever_includes_router_head_or_refused_parts(
    name: str, targets: str | list[str]
) -> None:
    family = parts(name)[1]
    forbidden = [*family.refused, *filter(None, [family.router])]
    selected = found(name, targets)
    assert selected
    assert not [site for site in selected if any(re.fullmatch(pattern, site) for pattern in forbidden)]


def test_a_site_knows_its_module_group_and_layer() -> None:
    model, family = parts("deepseek_v3")
    site = find_sites(model, family, ["routed"])[0]
    experts = model.get_submodule("model.layers.1.mlp.experts")
    assert site == Site("model.layers.1.mlp.experts", experts, "routed", 1)
    assert find_sites(*parts("deepseek_vl"), ["aligner"])[0].layer is None


def test_sites_survive_a_wrapper_in_place_of_the_linear() -> None:
    model, _ = tiny_model("llama")
    before = [site.name for site in all_sites(model, family_of("llama"))]
    wrapper = nn.Module()
    wrapper.base_layer = model.model.layers[0].self_attn.q_proj
    model.model.layers[0].self_attn.q_proj = wrapper
    after = all_sites(model, family_of("llama"))
    assert [site.name for site in after] == before
    assert after[0].module is wrapper


@given(st.lists(st.sampled_from(LLAMA_NAMES), min_size=1, unique=True))
def test_names_match_as_in_peft(names: list[str]) -> None:
    config = LoraConfig(target_modules=names)
    linears = [n for n, module in MODELS["llama"].named_modules() if isinstance(module, nn.Linear)]
    assert sorted(found("llama", names)) == sorted(
        n for n in linears if check_target_module_exists(config, n)
    )


@given(st.sampled_from(LLAMA_NAMES), st.sampled_from(["0", "1", r"\d+"]), st.sampled_from(["", "x?", ".*"]))
def test_a_regex_matches_as_in_peft(name: str, layer: str, tail: str) -> None:
    pattern = rf".*layers\.{layer}\..*{name}{tail}"
    config = LoraConfig(target_modules=pattern)
    linears = [n for n, module in MODELS["llama"].named_modules() if isinstance(module, nn.Linear)]
    assert sorted(found("llama", pattern)) == sorted(
        n for n in linears if check_target_module_exists(config, n)
    )


@given(st.lists(st.sampled_from(["attention", "dense", "shared", "routed"]), min_size=1))
def test_groups_add_up_in_any_order_without_repeats(groups: list[str]) -> None:
    sites = all_sites(*parts("deepseek_v3"))
    assert found("deepseek_v3", groups) == [site.name for site in sites if site.group in groups]


def test_groups_and_names_mix() -> None:
    assert found("deepseek_v3", ["routed", "o_proj"]) == [
        "model.layers.0.self_attn.o_proj",
        "model.layers.1.self_attn.o_proj",
        "model.layers.1.mlp.experts",
    ]


def test_a_longer_name_selects_one_part() -> None:
    assert found("deepseek_v3", ["shared_experts.gate_proj"]) == [
        "model.layers.1.mlp.shared_experts.gate_proj"
    ]
    assert found("deepseek_v3", ["layers.0.mlp.up_proj"]) == ["model.layers.0.mlp.up_proj"]


@pytest.mark.parametrize(
    "name", ["deepseek_v2", "deepseek_v2_lite", "deepseek_v3", "deepseek_v32", "deepseek_v4"]
)
def test_the_llama_names_on_latent_attention_name_the_group_attention(name: str) -> None:
    message = refusal(name, ["q_proj", "k_proj", "v_proj", "o_proj"])
    assert "use the group 'attention'" in message
    assert "attention (" in message


def test_latent_attention_names_on_llama_name_the_group_attention() -> None:
    message = refusal("llama", ["kv_a_proj_with_mqa"])
    assert "use the group 'attention'; this llama model has attention (q_proj, k_proj, v_proj" in message


def test_a_misspelt_name_gets_near_misses_and_what_exists() -> None:
    message = refusal("llama", ["q_porj"])
    assert "did you mean q_proj" in message
    assert "attention (q_proj, k_proj, v_proj, o_proj), dense (gate_proj, up_proj, down_proj)" in message


@pytest.mark.parametrize("name", ["proj", "attn.q_proj", "q_proj.weight", ""])
def test_a_name_matches_whole_parts_only(name: str) -> None:
    assert "matches no module" in refusal("llama", [name])


def test_one_good_name_does_not_excuse_a_misspelt_one() -> None:
    assert "'atention' matches no module; did you mean attention?" in refusal("llama", ["q_proj", "atention"])


def test_a_group_the_model_lacks_is_an_error_naming_what_it_has() -> None:
    assert "'routed' has no modules in this llama model, which has attention" in refusal("llama", ["routed"])


@pytest.mark.parametrize("name", ["gate_proj", "up_proj", "down_proj"])
def test_an_mlp_name_is_ambiguous_where_there_are_experts(name: str) -> None:
    assert "dense, shared, routed" in refusal("deepseek_v3", [name])
    assert "shared, routed" in refusal("deepseek_v4", [name])


def test_an_attention_name_is_ambiguous_where_there_is_a_vision_tower() -> None:
    assert "attention, vision" in refusal("deepseek_vl", ["q_proj"])


def test_a_bare_name_as_one_string_is_told_to_be_a_list() -> None:
    assert "write [q_proj]" in refusal("llama", "q_proj")


def test_a_broken_regex_is_an_error_of_its_own() -> None:
    assert "not a regular expression" in refusal("llama", "(q_proj")


def test_expert_parameters_are_told_to_be_the_group_routed() -> None:
    assert "use the group 'routed'" in refusal("deepseek_v3", ["experts.gate_up_proj"])


@pytest.mark.parametrize(
    ("name", "targets", "reason"),
    [
        ("deepseek_v3", ["gate"], "router stays frozen"),
        ("deepseek_v3", r".*\.mlp\.gate", "router stays frozen"),
        ("deepseek_v3", ["lm_head"], "never adapted"),
        ("llama", ["embed_tokens"], "never adapted"),
        ("deepseek_v32", ["wq_b"], "only selects positions"),
        ("deepseek_v32", r".*indexer\..*", "only selects positions"),
        ("deepseek_v4", ["o_a_proj"], "one matrix per head group"),
        ("deepseek_v4", ["compressor.kv_proj"], "finished windows"),
        ("deepseek_v4", ["indexer.q_b_proj"], "only selects positions"),
    ],
)
def test_what_must_not_train_is_refused_with_the_reason(
    name: str, targets: list[str] | str, reason: str
) -> None:
    assert reason in refusal(name, targets)


def test_a_v4_name_means_the_attention_itself() -> None:
    assert found("deepseek_v4", ["kv_proj", "q_b_proj"]) == [
        f"model.layers.{layer}.self_attn.{name}" for layer in range(3) for name in ("q_b_proj", "kv_proj")
    ]


def test_excluded_modules_and_groups_are_left_out() -> None:
    assert not [n for n in found("deepseek_v3", ALL_LINEAR, ["kv_b_proj"]) if n.endswith("kv_b_proj")]
    assert found("deepseek_v3", ALL_LINEAR, ["dense", "shared"]) == found("deepseek_v3", ["attention"])
    assert found("llama", ["dense"], r".*layers\.0.*") == [f"model.layers.1.mlp.{n}" for n in LLAMA_NAMES[4:]]


def test_an_exclusion_without_effect_is_an_error() -> None:
    assert "'gate_proj' excludes nothing" in refusal("llama", ["attention"], ["gate_proj"])


def test_half_an_expert_cannot_be_excluded() -> None:
    assert "adapted as a whole" in refusal("deepseek_v3", ["dense", "shared", "routed"], ["gate_proj"])


def test_excluding_everything_is_an_error() -> None:
    assert "leaves nothing" in refusal("llama", ["attention"], ["attention"])


@pytest.mark.parametrize("name", TINY)
def test_every_site_has_its_group_by_name(name: str) -> None:
    sites = all_sites(*parts(name))
    assert groups_by_site(*parts(name)) == {site.name: site.group for site in sites}
    assert len(groups_by_site(*parts(name))) == len(sites)
