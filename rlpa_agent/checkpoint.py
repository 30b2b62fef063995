"""Everything a resumed run needs, written whole or not at all. No pickle: safetensors and JSON.

A checkpoint folder holds the policy folder (``policy/``, loads in transformers), ``state.safetensors`` (optimizers,
frozen reference) and ``state.json`` (counters, value normaliser, random states, hash of the config, machine and versions, and
checksums of itself and of all that holds weights: one with a flipped bit loads as well as the weight). Its bytes hold no time and no path.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlpa_agent.config import TrainConfig
from rlpa_agent.contexts import save_context
from rlpa_agent.loading import device_named, frozen_dtype, holds_model
from rlpa_agent.sharding import full, spread_like
from rlpa_agent.value import head_file
from rlpa_agent.world import World
from rlpa_env import ConfigError, RLPAError

FORMAT = 2
"""1, of earlier versions, is read too: it has no checksums."""


class CheckpointError(RLPAError, ValueError):
    """A checkpoint is corrupt, incomplete, or of another run."""


def _flatten(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{prefix}.{index}.{name}": torch.as_tensor(value) for index, entry in state.items() for name, value in entry.items()}


def _restore_optimizer(prefix: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in tensors.items():
        index, _, name = key.removeprefix(f"{prefix}.").partition(".")
        if key.startswith(f"{prefix}.") and index.isdigit():  # else it is of one whose name begins like this one's
            state.setdefault(int(index), {})[name] = spread_like(value.clone(), parameters[int(index)])
    full = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": full["param_groups"]})


def save_checkpoint(
    folder: Path,
    *,
    policy: Any,
    optimizers: Mapping[str, torch.optim.Optimizer],
    state: Mapping[str, Any],
    on_trial: bool = False,
    write: bool = True,
) -> None:
    """Write to a temporary folder beside ``folder`` and rename; a kill leaves the old checkpoint or the new one.

    ``on_trial``: the one before stays beside it until `settle` says which of the two is kept. One that is on trial
    itself is replaced instead. Several processes all have to call it, for a sharded policy is gathered, and one may ``write``.
    """
    plain = policy.whole()
    tensors: dict[str, Tensor] = {}
    for name, optimizer in optimizers.items():
        tensors |= _flatten(name, optimizer)
    tensors |= {f"reference.{key}": value for key, value in policy.reference_tensors().items()}
    for key, value in tensors.items():  # one by one: there is no room for all in processes that do not write
        whole = full(value)
        if write:
            tensors[key] = whole.cpu().contiguous()
    if not write:
        return
    folder = Path(folder)
    work = folder.with_name(folder.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    plain.save(work / "policy")
    save_context(work / "policy", policy.chat.kept)
    save_file(tensors, work / "state.safetensors", metadata={"format": "pt"})
    weights = [path for path in work.rglob("*") if path.suffix in (".safetensors", ".weights")]  # what is cut elsewhere does not parse
    content = {**state, "format": FORMAT, "crc32": {path.relative_to(work).as_posix(): _crc32(path) for path in weights}}
    content["crc32"]["state.json"] = zlib.crc32(_text(content))
    (work / "state.json").write_bytes(_text(content))
    for path in work.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    old = folder.with_name(folder.name + ".old")
    if old.exists():
        _aside(folder)
    elif folder.exists():
        folder.rename(old)
    work.rename(folder)
    shutil.rmtree(_gone(folder), ignore_errors=True)  # last, for it takes long: till then there is one of this name
    if not on_trial:
        _remove(old)


def _text(state: Mapping[str, Any]) -> bytes:
    return (json.dumps(state, indent=1, sort_keys=True) + "\n").encode()


def _crc32(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            found = zlib.crc32(block, found)
    return found


def settle(folder: Path, good: bool) -> None:
    """End the trial of a checkpoint: drop the one before it, or go back to that one. Nothing happens to one not on trial."""
    old = folder.with_name(folder.name + ".old")
    if not old.exists():
        return
    if good and folder.exists():
        _remove(old)
    else:
        _remove(folder)
        old.rename(folder)


def _gone(folder: Path) -> Path:
    return folder.with_name(folder.name + ".gone")


def _aside(folder: Path) -> None:
    """Give a checkpoint that is to be deleted another name, so that a kill leaves no half of it under its own."""
    shutil.rmtree(_gone(folder), ignore_errors=True)
    if folder.exists():
        folder.rename(_gone(folder))


def _remove(folder: Path) -> None:
    _aside(folder)
    shutil.rmtree(_gone(folder), ignore_errors=True)


def read_state(folder: Path) -> dict[str, Any]:
    """The JSON part. Raises CheckpointError with what is wrong; nothing is changed."""
    folder = recovered(Path(folder))
    path = folder / "state.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: expected a checkpoint with state.json; there is none. Check the run's folder.")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON; {error}. The checkpoint is corrupt.") from error
    if not isinstance(state, dict) or state.get("format") not in (1, FORMAT):
        raise CheckpointError(f"{path}: expected a checkpoint of format {FORMAT}; this is something else.")
    sums = state.get("crc32", {})
    if state["format"] == FORMAT and (not isinstance(sums, dict) or sums.pop("state.json", None) != zlib.crc32(_text(state))):
        raise CheckpointError(f"{path}: not as it was written. The checkpoint is corrupt.")
    return state


def recovered(folder: Path) -> Path:
    """``folder``, or the one before it if a kill came between the two renames."""
    old = folder.with_name(folder.name + ".old")
    return old if not folder.exists() and old.exists() else folder


def _check_weights(folder: Path, of_policy: bool) -> None:
    for name, crc32 in read_state(folder).get("crc32", {}).items():
        if name.startswith("policy/") == of_policy and (not (folder / name).is_file() or _crc32(folder / name) != crc32):
            raise CheckpointError(f"{folder / name}: missing, or not as it was written. The checkpoint is corrupt.")


def load_tensors(folder: Path, policy: Any, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
    """Put optimizer states and the frozen reference back. ``policy`` was loaded from ``folder/policy``, see `checkpointed_policy`.

    Raises CheckpointError, before anything is put back, where they are not as they were written.
    """
    folder = recovered(Path(folder))
    _check_weights(folder, of_policy=False)
    try:
        tensors = load_file(folder / "state.safetensors")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / 'state.safetensors'}: cannot be read: {error}. The checkpoint is corrupt.") from error
    for name, optimizer in optimizers.items():
        _restore_optimizer(name, optimizer, tensors)
    own = {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith("reference.")}
    try:
        policy.load_reference(own)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error} The checkpoint is of another kind of run.") from error


def base_dtype(config: TrainConfig, world: World, resume: bool) -> Any:
    """Type of a frozen base under ``model.base_dtype="auto"``, one for all processes; None where there is no choice.

    That of the run where it is resumed: a measurement may come out otherwise the next time, and the run would go on with other weights.
    """
    if not config.model.lora_rank or config.model.base_dtype != "auto":
        return None
    kept = read_state(config.out / "last").get("base_dtype") if resume else None  # not in checkpoints of earlier versions
    return getattr(torch, kept) if kept else world.agreed(frozen_dtype(device_named(config.model.device)))


def machine() -> dict[str, Any]:
    """What has to be the same for a resumed run to be bitwise the one that was not stopped."""
    versions = {"numpy": np.__version__, "torch": str(torch.__version__), "transformers": version("transformers")}  # torch's names its build
    made_for = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {"processor": made_for, "threads": torch.get_num_threads(), "python": platform.python_version(), **versions}


def check_machine(folder: Path, state: Mapping[str, Any]) -> None:
    """Warn where a checkpoint was written by something else than this machine with these versions and threads."""
    here, there = machine(), state.get("machine") or {}  # not in checkpoints of earlier versions
    other = [f"{name} {there[name]} (here {value})" for name, value in here.items() if name in there and there[name] != value]
    if other:
        warnings.warn(f"{folder}: written with {', '.join(other)}; the run goes on, but not bit for bit as it would have there.", stacklevel=3)


def seed_random(seed: int, rank: int) -> None:
    """Give Python's and numpy's global generators, from which environments of others may draw, the seed of a run's process."""
    own = int(np.random.default_rng([seed, rank]).integers(2**32))
    random.seed(own)
    np.random.seed(own)  # noqa: NPY002 -- the global one is meant, here and below


def random_state() -> dict[str, Any]:
    """The global random states of Python, numpy and torch as JSON; everything that is random here is a function of seed and counter."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(legacy=False), "torch": torch.get_rng_state().tolist()}  # noqa: NPY002
    return dict(json.loads(json.dumps(state, default=lambda array: array.tolist())))


def restore_random(kept: Mapping[str, Any] | Sequence[Mapping[str, Any]], rank: int = 0) -> None:
    """Undo what was drawn since, in all three or, with a CheckpointError, in none.

    Args:
        kept: a state for each process; or one alone, which in checkpoints of earlier versions is torch's.
        rank: of this process. One that there was none of goes on with what it has.
    """
    states = [kept] if isinstance(kept, Mapping) else kept
    if rank >= len(states):
        return
    before = random_state()
    try:
        _set_random({**before, **states[rank]})
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        _set_random(before)
        raise CheckpointError(f"random: expected the random states of Python, numpy and torch; {error!r}. The checkpoint is corrupt.") from error


def _set_random(state: Mapping[str, Any]) -> None:
    kind, internal, gauss = state["python"]
    random.setstate((kind, tuple(internal), gauss))
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever is drawn inside, the global random states are afterwards what they were: as if it had not been."""
    before = random_state()
    try:
        yield
    finally:
        _set_random(before)


@contextmanager
def drawn_again() -> Iterator[None]:
    """Where what is inside fails, the global generators are as before: it will be done once more, and draw the same."""
    before = random_state()
    try:
        yield
    except BaseException:
        _set_random(before)
        raise


def checkpointed_policy(out: Path, which: str = "last") -> Path:
    """The policy folder of a run: that of ``best`` or ``last``, of the other where there is none, or the folder itself if it is one.

    Raises CheckpointError where there is neither, and for a damaged one: the weights of the other would not fit its state.
    """
    if holds_model(out):
        return out
    for name in (which, "best", "last"):
        folder = recovered(out / name)
        if not folder.exists():
            continue
        if holds_model(folder / "policy") and head_file(folder / "policy"):
            if (folder / "state.json").is_file():  # else a baseline's, which has nothing to resume
                _check_weights(folder, of_policy=True)
            return folder / "policy"
        raise CheckpointError(
            f"{folder / 'policy'}: expected a model or an adapter, with a value head; found neither or one of them. The checkpoint is "
            f"damaged. Put it back, or begin anew from another policy (--model {out / 'best' / 'policy'}) with another --out."
        )
    raise CheckpointError(f"{out}: expected a run or a policy folder; found neither best/policy, last/policy nor a model.")
