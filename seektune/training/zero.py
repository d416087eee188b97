"""DeepSpeed's ZeRO-2: each process holds a part of the gradients and of the optimiser state.

Its engine steps within accelerate's `backward`, before anybody has seen the gradients. Here backward,
gradients and step are apart, as they are without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from seektune.errors import TrainingError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What Adam keeps of each parameter."""


def configure(accelerator: Accelerator, dtype: torch.dtype) -> bool:
    """Whether DeepSpeed was launched; if so, set what accelerate would take from a data loader.

    Raises TrainingError for float16, whose loss scaling DeepSpeed would do its own way.
    """
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return False
    if dtype == torch.float16:
        raise TrainingError("float16 does not train under DeepSpeed here: use training.bf16, or DDP or FSDP2")
    accelerator.state.deepspeed_plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": 1,  # only DeepSpeed's own statistics use it
        "gradient_accumulation_steps": 1,  # the boundary is set by hand
        "gradient_clipping": 0.0,  # clipped here, with the gradients in sight
    }
    return True


class ZeroOptimizer:
    """A DeepSpeed engine as an optimiser: gradients are whole in `.grad` until `step` or `zero_grad`."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._parts = engine.optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Learning rates and the like; their parameters are parts, for DeepSpeed alone."""
        groups: list[dict[str, Any]] = self._parts.optimizer.param_groups
        return groups

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What trains, by the names it has without DeepSpeed."""
        return ((name, p) for name, p in self._engine.module.named_parameters() if p.requires_grad)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of `loss`; after the `last` one of a step every process has them whole."""
        from deepspeed.utils import safe_get_full_grad

        self._engine.set_gradient_accumulation_boundary(is_boundary=last)
        self._engine.backward(loss, scale_wrt_gas=False)
        if last:
            for _, parameter in self.named_parameters():
                parameter.grad = safe_get_full_grad(parameter)

    def step(self) -> None:
        """Update the parameters by their gradients as they stand now."""
        self._give_back(lambda gradient: gradient)
        self._engine.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._give_back(torch.zeros_like)

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor], list[dict[str, Any]]]:
        """Whole parameters, whole state by `parameter.key`, and the groups; every process must ask."""
        from deepspeed.utils import safe_get_full_optimizer_state

        named = dict(self.named_parameters())
        states = self._parts.optimizer.state.values()
        steps = next(torch.as_tensor(state["step"], dtype=torch.float32) for state in states)
        moments = {
            f"{name}.{key}": safe_get_full_optimizer_state(parameter, key)
            for name, parameter in named.items()
            for key in MOMENTS
        }
        moments |= {f"{name}.step": steps for name in named}
        names = {id(parameter): name for name, parameter in named.items()}
        groups = [
            {**group, "params": [names[id(parameter)] for parameter in members]}
            for group, members in zip(self.param_groups, self._parts.bit16_groups, strict=True)
        ]
        return {name: parameter.detach() for name, parameter in named.items()}, moments, groups

    def restore(self, parameters: Mapping[str, Tensor], moments: Mapping[str, Tensor], groups: Any) -> None:
        """Put everything back; every process must."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        steps = [value for key, value in moments.items() if key.endswith(".step")]
        for part in self._parts.single_partition_of_fp32_groups:  # made at the first step otherwise
            zeros = {key: torch.zeros_like(part) for key in MOMENTS}
            self._parts.optimizer.state[part] = {"step": torch.stack(steps).max(), **zeros}
        self._parts._hp_optimizer_states_linked = False
        self._parts._lazy_init_hp_params_optimizer_state()
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(parameters[name])
                safe_set_full_fp32_param(parameter, parameter.detach().clone())
                for key in MOMENTS:
                    if (value := moments.get(f"{name}.{key}")) is not None:
                        safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)
        for group, saved in zip(self.param_groups, groups, strict=True):
            group |= {key: value for key, value in saved.items() if key != "params"}

    def _give_back(self, changed: Any) -> None:
        """The gradients, changed, to the processes that hold them in parts."""
        from deepspeed.utils import safe_set_full_grad

        for _, parameter in self.named_parameters():
            gradient, parameter.grad = parameter.grad, None  # one that is in place would hide the parts
            if gradient is not None:
                safe_set_full_grad(parameter, changed(gradient))
