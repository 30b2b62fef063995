"""One model's weights, gradients and Adam states over several processes (FSDP2), for models that one device cannot train.

Every process holds an equal share of each layer and gathers a layer for as long as it computes with it. Held whole by all are the
embeddings and the LM head, which are read outside of the layers, and LoRA's adapters, which are small: their gradients are
summed by `World.add_gradients`. A gathering takes all processes, so all run through the model equally often, and forwards and
backwards alike (`Learner` fills shares up with micro-batches without an action token).
"""

from __future__ import annotations

import atexit
import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlpa_agent.trunk import layers_of
from rlpa_agent.world import PATIENCE, World
from rlpa_env.errors import ConfigError


class Shards:
    """The processes that hold a model together, and what a plain model is built from again."""

    def __init__(self, lm: Any, adapter: Any, world: World) -> None:
        """Spreads ``lm``, which all processes hold alike and in which ``adapter`` (None: there is none) has its layers."""
        from torch import distributed
        from torch.distributed.device_mesh import DeviceMesh

        if world.size == 1:
            raise ConfigError(
                "model.shard: expected several processes to spread the model over; got one. Start them with "
                "`torchrun --nproc-per-node N -m rlpa_agent.cli train …`, or leave --model.shard out."
            )
        if not layers_of(lm):
            raise ConfigError(
                f"model.shard: expected a model with its {lm.config.num_hidden_layers} layers in a list; {type(lm).__name__} has none. "
                "Leave --model.shard out."
            )
        device = lm.get_output_embeddings().weight.device
        # A group of their own: what else the processes tell each other lies in main memory, on machines with GPUs too.
        backend, patience = ("nccl", None) if device.type == "cuda" else ("gloo", PATIENCE)
        group = distributed.new_group(backend=backend, timeout=patience)
        self.world, self.mesh = world, DeviceMesh.from_group(group, device.type)
        atexit.register(vars(self.mesh).get("_pg_registry", {}).clear)  # caches of torch keep the mesh, and this the group, beyond `world.leave`
        empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False) for p in lm.parameters()}
        self._plain = copy.deepcopy((lm, adapter), empty)  # all but the weights
        self.spread(lm)

    def spread(self, lm: Any) -> None:
        """Leave this process its share of a model that all hold alike. Its gradients become sums over the processes."""
        from torch.distributed.fsdp import FSDPModule, fully_shard

        whole = {lm.get_input_embeddings().weight, lm.get_output_embeddings().weight}
        whole |= {parameter for name, parameter in lm.named_parameters() if ".lora_" in name}
        for module in (*layers_of(lm), lm.base_model):
            fully_shard(module, mesh=self.mesh, reshard_after_forward=True, ignored_params=whole)
        for module in lm.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # losses are divided by the action tokens of all processes
                module.set_force_sum_reduction_for_comms(True)  # the other way to do so is nccl's alone

    def whole(self, lm: Any, adapter: Any) -> tuple[Any, Any]:
        """A plain model with the weights of ``lm``, gathered, and its adapter. All processes have to call it.

        What every process holds whole is not copied.
        """
        now, filled = dict(lm.named_parameters()), {}
        for name, empty in self._plain[0].named_parameters():
            if name in now:
                filled[id(empty)] = nn.Parameter(full(now[name].detach()), requires_grad=False)
        made = copy.deepcopy(self._plain, filled)
        if adapter is not None:
            made[1].set_start(adapter.start())  # a resumed run may have got another since, or none
        return made


def local(tensor: Tensor) -> Tensor:
    """This process's share of a tensor; all of one that is not spread."""
    share: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return share


def full(tensor: Tensor) -> Tensor:
    """All of a tensor. Where it is spread, every process has to ask for it."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def spread_like(whole: Tensor, other: Any) -> Tensor:
    """Our share of what all processes hold whole, if ``other``, of the same shape, is spread; nothing is sent."""
    if not hasattr(other, "device_mesh") or whole.shape != other.shape:
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float, world: World) -> Tensor:
    """Scale gradients down to a norm of ``limit`` over all of them, wherever they are; the norm before that.

    What is not spread has the same gradient in all processes.
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    spread = [local(grad) for grad in grads if hasattr(grad, "to_local")]
    if not spread:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)
    whole = [grad for grad in grads if not hasattr(grad, "to_local")]
    squares = world.summed(torch.nn.utils.get_total_norm(spread).double().square().cpu())
    norm = (squares + torch.nn.utils.get_total_norm(whole).double().square().cpu()).sqrt()
    for grad in (*spread, *whole):
        grad.mul_(min(1.0, limit / (float(norm) + 1e-6)))  # as torch does it
    return norm.float()
