"""Every Python block of README and docs runs; every `rlpa-env` and `rlpa-agent` command in them parses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rlpa_env.profiles import slot_names
from rlpa_env.text import normalise
from rlpa_env.world import world

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


def blocks(kind: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        matches = [m for m in _BLOCK.finditer(page.read_text(encoding="utf-8")) if m.group(1) == kind]
        found += [(f"{page.name}-{i}", match.group(2)) for i, match in enumerate(matches)]
    return found


@pytest.mark.parametrize(("name", "code"), blocks("python"), ids=[name for name, _ in blocks("python")])
def test_python_block(name, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = {"__name__": "readme"}
    exec(compile(code, name, "exec"), left)
    assert left.keys() - {"__name__", "__builtins__"}, "a block that leaves nothing behind shows nothing"


COMMANDS = [
    line.strip()
    for _, block in blocks("bash")
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip().startswith(("rlpa-", "make ", "python benchmarks"))
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_exist(line):
    words = shlex.split(line.split("#")[0])
    if words[0] == "make":
        verbs = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert words[1] in verbs
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    else:
        import tyro

        from rlpa_agent import cli as agent
        from rlpa_env import cli as env

        with pytest.raises(SystemExit) as caught:
            (env if words[0] == "rlpa-env" else agent).main([*words[1:], "--help"])
        assert caught.value.code == 0
        assert tyro is not None


def test_pages_have_blocks_and_links_lead_somewhere():
    assert blocks("python")
    assert blocks("bash")
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_table_of_slots_is_the_one_that_is_used():
    lines = (ROOT / "docs/environment.md").read_text(encoding="utf-8").split("| slot | also read as |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    listed = {name.removesuffix(" (extended)"): {*also.split(", "), normalise(name.removesuffix(" (extended)"))} for name, also in (line.strip("| ").split(" | ") for line in lines)}
    used = {name: {alias for alias, slot in slot_names().items() if slot == name} for name in world().slots}
    assert listed == used
