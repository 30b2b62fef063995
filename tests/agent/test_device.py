"""Where the weights are changes nothing else: a run on another device is the run on the processor.

The device is `far_device`, which tells a tensor left behind as a GPU would. It takes a place that torch has once a process,
so each case runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CASES = ("full", "lora", "generic")


@pytest.mark.parametrize("case", CASES)
def test_a_run_on_another_device_is_the_run_on_the_processor(case):
    done = subprocess.run([sys.executable, "-W", "ignore", __file__, case], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == f"{case}: the same"


def test_a_device_that_is_not_there_is_named():
    import tiny_models

    from rlpa_env import ConfigError

    for name in ("cuda:77", "nowhere"):
        with pytest.raises(ConfigError, match=f"device: expected auto, cpu, or one that torch can use here.*got '{name}'"):
            tiny_models.policy(device=name)


def main(case: str, work: Path) -> None:
    import dataclasses

    import far_device  # noqa: F401 -- there is a device "far" from here on
    import tiny_models
    import torch
    from safetensors.torch import load_file
    from tiny_models import Script

    from rlpa_agent import generation
    from rlpa_agent.checkpoint import checkpointed_policy
    from rlpa_agent.config import TrainConfig
    from rlpa_agent.evaluate import PolicyAgent
    from rlpa_agent.lora import LoraSettings
    from rlpa_agent.policy import Policy
    from rlpa_agent.trainer import Trainer

    tiny_models.policy(sharpness=2.0, reference=False).save(work / "start")
    if case == "generic":
        generation.Qwen2Decoder = generation.GenericDecoder
    lora = LoraSettings(rank=4) if case == "lora" else None
    lines = ("Well, I bake.", "No.", "My sister is the nurse in the family, you know")

    def trainer(device: str, iterations: int, source: Path | None = None) -> Trainer:
        config = TrainConfig(iterations=iterations, out=work / device)
        config = dataclasses.replace(
            config,
            rollout=dataclasses.replace(config.rollout, dialogues=4, concurrent=3, max_turns=3, max_new_tokens=10),
            ppo=dataclasses.replace(config.ppo, critic_warmup=0, critic_steps=2, entropy=0.01, target_kl=None, beta=0.1, minibatches=2),
            model=dataclasses.replace(config.model, update_dtype="float32", device=device),
            optim=dataclasses.replace(config.optim, warmup_iterations=0, policy_lr=1e-2),
            eval=dataclasses.replace(config.eval, every=0),
        )
        policy = Policy.from_pretrained(source or work / "start", lora=lora, dtype=torch.float32, device=device, system_prompt="")
        assert {weight.device.type for weight in (*policy.lm.parameters(), *policy.parameters_value())} == {device}
        return Trainer(config, policy, lambda: Script(lines, turns=3, pay=lambda text, turn: float(len(text) % 3)), quiet=True)

    trainer("cpu", 3).run()
    trainer("far", 1).run()
    resumed = trainer("far", 3, checkpointed_policy(work / "far"))
    resumed.resume()
    resumed.run()
    if case != "lora":  # the files are those of a run on the processor; tied embeddings are one
        saved = [sorted(load_file(checkpointed_policy(work / device) / "model.safetensors")) for device in ("cpu", "far")]
        assert saved[0] == saved[1]
        assert "lm_head.weight" not in saved[0]
    moved = 0.0
    for name in ("return", "kl", "policy_loss", "value_loss", "entropy", "grad_norm", "explained_variance"):
        here, there = ([json.loads(line)[name] for line in (work / device / "metrics.jsonl").read_text().splitlines()] for device in ("cpu", "far"))
        assert len(here) == 3
        moved += abs(here[2] - here[0])
        assert all(abs(a - b) <= 1e-5 * max(1.0, abs(a)) for a, b in zip(here, there, strict=True)), (name, here, there)
    assert moved > 0.01

    messages = [[{"role": "user", "content": line}] for line in lines]
    said = []
    for device in ("cpu", "far"):
        policy = Policy.from_pretrained(checkpointed_policy(work / "far"), dtype=torch.float32, device=device, reference=False)
        said.append(PolicyAgent(policy, max_new_tokens=12).act_batch(messages))
    assert said[0] == said[1]
    assert len(set(said[0])) == 3
    with pytest.raises(RuntimeError, match="expected all tensors on one device"):  # else all this shows nothing
        policy.lm(input_ids=torch.zeros(1, 3, dtype=torch.int64))
    print(f"{case}: the same")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1], Path(folder))
