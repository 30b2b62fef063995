"""`pip install .` alone: a venv that holds the wheel and what its metadata asks for, and nothing else, plays episodes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PLAY = """
import importlib.util, sys
import gymnasium as gym, rlpa_env
assert importlib.util.find_spec("torch") is None and importlib.util.find_spec("transformers") is None
assert "site-packages" in rlpa_env.__file__
env = gym.make("RLPA-v0")
_, info = env.reset(seed=0)
agent = rlpa_env.agents.make_agent("attentive")
while True:
    _, reward, terminated, truncated, info = env.step(agent.act(info["messages"]))
    if terminated or truncated:
        break
print("turns", info["turn"])
try:
    import rlpa_agent
    rlpa_agent.Policy
except ImportError as error:
    print("agent", error)
"""


def needed(name: str, found: dict[str, Distribution]) -> None:
    """Collect an installed distribution and, without extras, everything it requires."""
    own = distribution(name)
    found[name.lower()] = own
    for line in own.requires or []:
        requirement = Requirement(line)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name.lower() not in found:
            needed(requirement.name, found)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"  # building in place would leave a build folder behind, and read an old one
    ignored = shutil.ignore_patterns("__pycache__")
    for package in ("rlpa_env", "rlpa_agent"):
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    import zipfile

    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = archive.namelist()
    core: dict[str, Distribution] = {}
    (metadata,) = site.glob("rlpa-*.dist-info")
    for line in Distribution.at(metadata).requires or []:
        requirement = Requirement(line)
        if requirement.marker is None:
            needed(requirement.name, core)
    for own in core.values():
        for top in {Path(file).parts[0] for file in own.files or [] if not str(file).startswith("..")}:
            source, target = own.locate_file(top), site / top
            if not target.exists():
                target.symlink_to(source)
    return folder / "venv" / "bin" / "python", names


def test_the_wheel_alone_plays_without_torch(clean):
    python, _ = clean
    out = subprocess.run([python, "-I", "-c", PLAY], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert "turns 10" in out.stdout
    assert "torch" in out.stdout.split("agent", 1)[1]


def test_the_wheel_holds_data_types_and_nothing_of_the_tests(clean):
    _, names = clean
    for wanted in ("rlpa_env/py.typed", "rlpa_env/data/voice.json", "rlpa_agent/data/tiny/model.safetensors", "rlpa_env/data/world/interests.json", "rlpa_env/page/page.html", "rlpa_env/page/main.js"):
        assert wanted in names, wanted
    assert not any(name.startswith(("tests/", "benchmarks/", "examples/")) for name in names)
