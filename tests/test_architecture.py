"""The house rules that a reader relies on: arrows one way, light imports, small files and functions, no stubs."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each module may import from the groups before its own, and from its own group further left.
ENV = """errors types text guard manners topics flows store limits connections clients | profiles loaders | world | population spaces actions encoders persons meaning matching | rewards metrics |
hearing evidence moves form relevance judges | disclosure voice users scripted | voicing llm parts | env rendering wrappers forking vector |
replies attentive agents oracle prompting numeric | results setting playing evaluate testing | runs transcript standings report | cli __init__ __main__"""
AGENT = """contexts trunk registered config baseline_config trajectory world advantages ppo chat tokenizer lora value batch estimates protocols served pool | loading products head generation sharding | policy | mixture induction warm_start start rollout credit evaluate prompted answers baselines |
learner checkpoint checks progress rollout_files | trainer | tasks dry_run replay token_table | cli | demo __init__ __main__"""
LATE = {  # imports inside functions that point the other way, each for a reason
    ("actions", "profiles"): "the instructions list the slots; parsing needs none",
    ("agents", "oracle"): "the table of agents names it, and it is made of them",
    ("env", "rendering"): "rich loads only when somebody renders",
    ("rendering", "env"): "a type",
}
LIGHT = {"numpy", "gymnasium", "scipy", "rapidfuzz", "rich", "tyro"}
AGENT_TOP = LIGHT | {"torch"}


def ranks(layers: str) -> dict[str, int]:
    return {name: rank for rank, name in enumerate(layers.replace("|", " ").split())}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).glob("*.py"))


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, at top level) of everything that a file imports; names of the package itself count as modules."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            found += [(alias.name, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            submodules = [name for name in inside if (ROOT / Path(*name.split("."))).with_suffix(".py").exists()]
            found += [(name, top) for name in submodules or [node.module]]
    return found


@pytest.mark.parametrize(("package", "layers"), [("rlpa_env", ENV), ("rlpa_agent", AGENT)])
def test_arrows_point_one_way(package, layers):
    rank = ranks(layers)
    assert set(rank) == {path.stem for path in modules(package)}, "every module has its place in the order above"
    wrong = []
    for path in modules(package):
        for name, _ in imports(path):
            parts = name.split(".")
            if parts[0] != package or len(parts) < 2:
                continue
            if rank[parts[1]] >= rank[path.stem] and (path.stem, parts[1]) not in LATE:
                wrong.append(f"{path.stem} -> {parts[1]}")
    assert not wrong


def test_the_environment_knows_nothing_of_the_agent_and_the_agent_no_private_names():
    for path in modules("rlpa_env"):
        assert not any(name.split(".")[0] == "rlpa_agent" for name, _ in imports(path)), path
    for folder in ("rlpa_agent", "examples", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"from rlpa_env\S* import [^\n]*\b_\w", text), path


@pytest.mark.parametrize(("package", "allowed"), [("rlpa_env", LIGHT), ("rlpa_agent", AGENT_TOP)])
def test_heavy_packages_load_only_where_they_are_used(package, allowed):
    import sys

    heavy = []
    for path in modules(package):
        for name, top in imports(path):
            root = name.split(".")[0]
            own = root in ("rlpa_env", "rlpa_agent", "__future__") or root in sys.stdlib_module_names
            if top and not own and root not in allowed and not (path.stem == "checkpoint" and root == "safetensors"):
                heavy.append(f"{path.name}: {root}")
    assert not heavy


def test_pure_modules_import_nothing_of_ours():
    for name in ("advantages", "ppo"):
        roots = {module.split(".")[0] for module, _ in imports(ROOT / "rlpa_agent" / f"{name}.py")}
        assert roots <= {"__future__", "torch", "typing", "itertools"}
    for name in ("config", "chat", "contexts"):
        roots = {module.split(".")[0] for module, _ in imports(ROOT / "rlpa_agent" / f"{name}.py")}
        assert not roots & {"torch", "transformers"}


@pytest.mark.parametrize("path", [*modules("rlpa_env"), *modules("rlpa_agent")], ids=lambda path: path.stem)
def test_files_and_functions_are_small_and_public_ones_are_documented(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is for"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{node.name} is long"
            public = not node.name.startswith("_") and node in tree.body
            assert not public or ast.get_docstring(node), f"{node.name} has no docstring"
        if isinstance(node, ast.ExceptHandler):
            assert not (len(node.body) == 1 and isinstance(node.body[0], ast.Pass) and node.type is None)
    assert not re.search(r"TODO|FIXME|XXX|NotImplementedError", text)


def test_examples_are_short():
    for path in (ROOT / "examples").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 80, path
        assert "--smoke" in path.read_text(), path


def test_committed_results_say_how_they_were_made_without_the_paths_of_a_machine():
    results = [*(ROOT / "benchmarks" / "results").rglob("*.json"), *(ROOT / "benchmarks" / "leaderboard").rglob("*.json")]
    records = {path: json.loads(path.read_text(encoding="utf-8")) for path in results}
    commands = {path: record.get("command", "") for path, record in records.items() if isinstance(record, dict)}
    assert any(commands.values())
    assert not {path: line for path, line in commands.items() if re.search(r"(^|[ =])(/|~|[A-Z]:)", line)}
