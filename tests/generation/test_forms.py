from __future__ import annotations

import pytest
import torch
from engine_runs import far_adapter

from seektune.adapters.fused import FusedMLP
from seektune.generation.forms import FewRowsAdaptedLinear, FewRowsLinear, in_forms, step_forms
from seektune.generation.heads import PagedAttention
from seektune.generation.latent import LatentAttention
from seektune.models.load import load_model


@pytest.mark.parametrize("attached", [False, True])
def test_modules_are_themselves_again_after_the_block(attached: bool) -> None:
    loaded = load_model("tiny/deepseek_v3")
    if attached:
        far_adapter(loaded)
    forms = step_forms(loaded.model)
    before = [(type(module), dict(vars(module))) for module, _ in forms]
    assert [form for _, form in forms].count(LatentAttention) == 2
    inside = []

    def fail() -> None:
        with in_forms(forms):
            inside.extend(type(module) for module, _ in forms)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert inside == [form for _, form in forms]
    assert [(type(module), dict(vars(module))) for module, _ in forms] == before


def test_every_linear_of_a_model_takes_its_form_and_the_head_too() -> None:
    loaded = load_model("tiny/llama")
    forms = step_forms(loaded.model)
    linears = [module for module in loaded.model.modules() if isinstance(module, torch.nn.Linear)]
    assert [module for module, form in forms if form is FewRowsLinear] == linears
    assert [form for _, form in forms].count(PagedAttention) == 2
    assert loaded.model.lm_head in linears
    x = torch.randn(1, 5, 64)
    with torch.no_grad():
        plain = loaded.model.lm_head(x)
        with in_forms(forms):
            assert type(loaded.model.lm_head) is FewRowsLinear
            torch.testing.assert_close(loaded.model.lm_head(x), plain)


@pytest.mark.parametrize("base", ["llama", "deepseek_v3"])
def test_an_attached_adapter_computes_the_same_in_the_forms(base: str) -> None:
    loaded = far_adapter(load_model(f"tiny/{base}", dtype="float64"))
    over_pages = (LatentAttention, PagedAttention)
    forms = [(module, form) for module, form in step_forms(loaded.model) if form not in over_pages]
    assert any(isinstance(module, FusedMLP) for module, _ in forms)
    assert any(form is FewRowsAdaptedLinear for _, form in forms)
    ids = torch.randint(3, 250, (1, 7))
    with torch.no_grad():
        plain = loaded.model(input_ids=ids, use_cache=False).logits
        with in_forms(forms):
            torch.testing.assert_close(loaded.model(input_ids=ids, use_cache=False).logits, plain)
