"""A device named "far" that computes on the processor and refuses to mix with it: what a GPU says of a tensor left behind.

Importing this takes torch's one place for a device that it does not know (PrivateUse1), for the whole process. Indices may
lie on the processor, as they may for a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map


class _Module(backend_registration._DummyBackendModule):
    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("far", backend_module=_Module())
torch.__future__.set_swap_module_params_on_conversion(True)  # so that modules can be moved there

aten = torch.ops.aten
_MAY_MIX = {aten.copy_.default, aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}


class Far(torch.Tensor):
    """A tensor there; ``near`` holds its numbers."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor, requires_grad: bool = False) -> Far:
        where = {"dtype": near.dtype, "device": torch.device("far", 0), "requires_grad": requires_grad}
        made = torch.Tensor._make_wrapper_subclass(cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), **where)
        made.near = near
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    far = [tensor for tensor in tensors if isinstance(tensor, Far)]
    near = [tensor for tensor in tensors if not isinstance(tensor, Far) and tensor.ndim]
    if far and near and func not in _MAY_MIX:
        raise RuntimeError(f"{func}: expected all tensors on one device; one of {tuple(near[0].shape)} is on the processor")
    there = bool(far)
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]).type == "far"
        kwargs = kwargs | {"device": torch.device("cpu")}
    plain = tree_map(lambda x: x.near if isinstance(x, Far) else x, (args, kwargs))
    result = func(*plain[0], **plain[1])
    changed = [arg for arg, field in zip(args, func._schema.arguments, strict=False) if field.alias_info is not None and field.alias_info.is_write]
    if changed and func._schema.returns:
        return changed[0]
    return tree_map(lambda x: Far(x) if there and isinstance(x, torch.Tensor) else x, result)


_LIBRARY = torch.library.Library("aten", "IMPL")
for _name, _func in (("empty.memory_format", aten.empty.memory_format), ("empty_strided", aten.empty_strided.default)):
    _LIBRARY.impl(_name, lambda *args, _func=_func, **kwargs: _run(_func, args, kwargs | {"device": torch.device("far", 0)}), "PrivateUse1")
_LIBRARY.impl("_copy_from", lambda source, target, non_blocking=False: _run(aten.copy_.default, (target, source), {}), "PrivateUse1")
