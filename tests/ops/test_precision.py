import pytest
import torch

from seektune.ops.precision import at_least_float32, check_dtype, check_frozen, compute_dtype


def test_without_autocast_the_input_decides_the_dtype():
    assert compute_dtype(torch.zeros(1, dtype=torch.bfloat16)) == torch.bfloat16


def test_under_autocast_float32_computes_in_bfloat16_and_float64_stays():
    with torch.autocast("cpu", torch.bfloat16):
        assert compute_dtype(torch.zeros(1)) == torch.bfloat16
        assert compute_dtype(torch.zeros(1, dtype=torch.float64)) == torch.float64


def test_statistics_are_never_narrower_than_float32():
    assert at_least_float32(torch.zeros(1, dtype=torch.float16)).dtype == torch.float32
    assert at_least_float32(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_a_trainable_base_weight_is_refused_where_a_gradient_could_be_lost():
    weight = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="freeze it"):
        check_frozen(None, weight)
    with torch.no_grad():
        check_frozen(weight)


def test_mixed_dtypes_are_refused_unless_autocast_is_on():
    x, weight = torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"float32 but the base weight is torch\.bfloat16"):
        check_dtype(x, None, weight)
    with torch.autocast("cpu", torch.bfloat16):
        check_dtype(x, weight)
