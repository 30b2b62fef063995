"""`rlpa-agent`: names of policies, and mistakes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rlpa_agent import cli
from rlpa_env import ConfigError


def test_a_mistyped_run_is_no_model_of_a_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"policy: runs: expected one of 'tiny'; got 'tyny'. Did you mean 'tiny'"):
        cli.policy_path("runs/tyny")
    with pytest.raises(ConfigError, match="does not exist"):
        cli.policy_path("./nothing/here")
    assert cli.policy_path("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"  # of a hub, as it looks


@pytest.mark.parametrize("words", [["eval", "--env", "RLPA-v1"], ["eval", "--policy", "./runs/tyny"], ["inspect", "./nothing"]])
def test_mistakes_are_told_in_a_line(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert str(caught.value.code).startswith("rlpa-agent: ")
    assert len(str(caught.value.code).splitlines()) == 1


def test_version_as_a_module():
    done = subprocess.run([sys.executable, "-m", "rlpa_agent", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("rlpa-agent 0.")
