"""Several processes that train one policy: who we are, and sums over all of them.

Started by ``torchrun`` or ``accelerate launch --multi_gpu``, which set RANK and WORLD_SIZE; without these there is one process. Every
process holds its share of the dialogues and then knows all of them, plans the same optimizer steps, and works through its
share of each step's micro-batches. What is added up are scores and gradients, already divided by the action tokens of the
whole step: so the steps are those of one process, however many there are, and a process may have nothing to do in one.
"""

from __future__ import annotations

import atexit
import gc
import os
import warnings
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: as long as the first may validate. One that has died ends all, its launcher sees to that."""


class World:
    """One of ``size`` processes. All of them have to call `summed`, `add_gradients`, `gathered` and `any` alike."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def from_environment(cls) -> World:
        """Join the process group that a launcher announced, or stand alone; with a warning where it was to be a group."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            if "WORLD_SIZE" not in os.environ and {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys():
                warnings.warn(
                    "accelerate launch: expected several processes; it has started one, as it does without several GPUs. The run is the same, "
                    "only slower. Add --multi_gpu, which needs no GPU, or start them with torchrun --nproc-per-node N.",
                    stacklevel=2,
                )
            return cls()
        import torch.distributed.nn.functional  # before there is a group: its defaults would hold one beyond `leave`
        from torch import distributed

        if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:  # a GPU each: "cuda" means this one from now on
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not distributed.is_initialized():
            distributed.init_process_group("gloo", timeout=PATIENCE)  # on machines with GPUs too: all that is summed lies in main memory
            atexit.register(leave)
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, items: Iterable[T], filler: T | None = None) -> list[T]:
        """Our part of what all processes list alike: every ``size``-th item from the ``rank``-th on.

        A ``filler`` makes it as long as the part of the first, which is the longest.

        >>> World(1, 2).share("abcde"), World(1, 2).share("abcde", "-")
        (['b', 'd'], ['b', 'd', '-'])
        """
        every = list(items)
        if filler is not None:
            every += [filler] * (-len(every) % self.size)
        return every[self.rank :: self.size]

    def gathered(self, share: list[T]) -> list[T]:
        """The whole list of which every process has its `share`, in the order it had."""
        if self.size == 1:
            return share
        from torch import distributed

        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, share)
        return [part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)]

    def agreed(self, value: T) -> T:
        """What the first process says."""
        return self.gathered([value])[0]

    def any(self, flag: bool) -> bool:
        """Whether a flag is up in any process."""
        return any(self.gathered([flag]))

    def summed(self, values: Tensor) -> Tensor:
        """The tensor summed over the processes."""
        if self.size == 1:
            return values
        from torch import distributed

        total = values.clone()
        distributed.all_reduce(total)
        return total

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum gradients over the processes, in place; a process that has none adds zeros. Spread ones are sums already."""
        if self.size == 1:
            return
        grads = []
        for parameter in parameters:
            if hasattr(parameter, "to_local"):
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            grads.append(parameter.grad)
        total = self.summed(torch.cat([grad.flatten() for grad in grads]).cpu())
        for grad, part in zip(grads, total.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))


def leave() -> None:
    """Leave the process group that `World.from_environment` joined, and wait for its threads; done at exit, before the interpreter ends.

    One of them frees the tensors of the last exchange, for which it needs the interpreter: one that is late aborts a process whose work is done.
    """
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()  # a spread model that is still in a cycle holds the group, too


ALONE = World()
"""One process."""
