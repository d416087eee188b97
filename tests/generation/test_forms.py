from __future__ import annotations

import pytest
import torch
from engine_runs import far_adapter
from transformers import LlamaConfig, LlamaForCausalLM

from seektune.adapters.fused import FusedMLP
from seektune.generation.forms import FewRowsLinear, MixedLinear, StepNorm, in_forms, step_forms
from seektune.generation.heads import PagedAttention
from seektune.generation.latent import LatentAttention
from seektune.models.load import load_model
from seektune.ops.few_rows_linear import WIDE


@pytest.mark.parametrize("attached", [False, True])
def test_modules_are_themselves_again_after_the_block(attached: bool) -> None:
    loaded = load_model("tiny/deepseek_v3")
    if attached:
        far_adapter(loaded)
    forms = step_forms(loaded.model)
    before = [(type(module), dict(vars(module))) for module, *_ in forms]
    assert [one.form for one in forms].count(LatentAttention) == 2
    inside = []

    def fail() -> None:
        with in_forms(forms):
            inside.extend(type(module) for module, *_ in forms)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert inside == [one.form for one in forms]
    assert [(type(module), dict(vars(module))) for module, *_ in forms] == before


def test_linears_and_norms_in_float32_take_forms_of_the_same_values() -> None:
    config = LlamaConfig(
        vocab_size=WIDE, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).eval()
    forms = step_forms(model)
    few_rows = [module for module, form, _ in forms if form is FewRowsLinear]
    assert few_rows == [one for one in model.modules() if type(one) is torch.nn.Linear]  # numba compiles here
    assert [one.form for one in forms].count(PagedAttention) == 2
    assert [one.form for one in forms].count(StepNorm) == 5
    assert StepNorm not in [one.form for one in step_forms(model.double())]
    model.float()
    x = 3 * torch.randn(1, 5, 64)
    with torch.no_grad():
        plain = model.lm_head(model.model.norm(x))
        with in_forms(forms):
            torch.testing.assert_close(model.lm_head(model.model.norm(x)), plain)


@pytest.mark.parametrize("base", ["llama", "deepseek_v3"])
def test_an_attached_adapter_computes_the_same_in_the_forms(base: str) -> None:
    loaded = far_adapter(load_model(f"tiny/{base}", dtype="float64"))
    over_pages = (LatentAttention, PagedAttention)
    forms = [one for one in step_forms(loaded.model) if one.form not in over_pages]
    assert any(isinstance(module, FusedMLP) for module, *_ in forms)
    assert any(one.form is MixedLinear for one in forms)
    ids = torch.randint(3, 250, (1, 7))
    with torch.no_grad():
        plain = loaded.model(input_ids=ids, use_cache=False).logits
        with in_forms(forms):
            torch.testing.assert_close(loaded.model(input_ids=ids, use_cache=False).logits, plain)
