"""The policies of the paper's tables: trained as named, resumed, stopped at equal tokens, shipped small."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from rlpa_agent.cli import environments
from rlpa_agent.config import PRESETS, shipped_start
from rlpa_agent.contexts import ContextKind, read_context, save_context
from rlpa_agent.policy import Policy
from rlpa_agent.rollout import collect
from rlpa_agent.value import head_file
from rlpa_env import RLPAError
from rlpa_env.agents import make_agent

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def modules():
    """`train`, `ship`, `training` and `study`, whose folders are on the path only here."""
    path, before = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(FOLDER), str(FOLDER / "paper")]
    yield {name: importlib.import_module(name) for name in ("train", "ship", "training", "study")}
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(FOLDER) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture(scope="module")
def train(modules):
    return modules["train"]


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """RUNS of a smoke of everything, with seed 3."""
    runs = tmp_path_factory.mktemp("runs")
    train.main(["--smoke", "--seeds", "3", "--runs", str(runs)])
    return runs


def never(*args, **kwargs):
    raise AssertionError("begun again")


@pytest.fixture
def tiny_ppo(modules):
    spec = importlib.util.spec_from_file_location("tiny_ppo_run", FOLDER / "tiny_ppo" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tiny_ppo_shares_the_run_named_rlpa(modules, train, tiny_ppo, tmp_path):
    settings = modules["training"].settings_of
    rlpa = train.ppo_config(train.Part("rlpa", 2, tmp_path), 30.0)
    assert settings(tiny_ppo.ppo_config(tmp_path / "rlpa-2", 30.0, 2)) == settings(rlpa)
    assert settings(tiny_ppo.ppo_config(tmp_path / "rlpa-2", 30.0, 2, shuffled=True)) != settings(rlpa)


def test_the_supervised_control_fills_its_minutes_is_annealed_and_sharpened(tiny_ppo, tmp_path, monkeypatch):
    taught = []

    def warm_start(policy, stages, *, schedule, report, **options):
        taught.append((stages[0].steps, schedule.factor(stages[0].steps - 1, stages[0].steps)))
        report(tiny_ppo.Progress(stages[0].steps, 0.0, 0, 0.5 * stages[0].steps))  # half a second a step

    monkeypatch.setattr(tiny_ppo, "warm_start", warm_start)
    folder = tiny_ppo.supervise(tmp_path / "supervised-0", 2.0, 0)
    assert [steps for steps, _ in taught] == [tiny_ppo.CALIBRATION, 240]
    assert taught[1][1] < 0.01
    sharp, start = (Policy.from_pretrained(path, reference=False).lm.model.norm.weight for path in (folder, shipped_start()))
    assert torch.allclose(sharp, 1.5 * start)
    done = json.loads((folder / "done").read_text())
    assert (done["steps"], done["minutes"]) == (240, 2.0)
    tiny_ppo.supervise(folder, 2.0, 0)
    assert len(taught) == 2
    with pytest.raises(SystemExit, match="settings asked for"):
        tiny_ppo.supervise(folder, 3.0, 0)


def test_every_method_is_trained_once(train, trained, monkeypatch, capsys):
    for method in train.METHODS:
        done = json.loads((trained / f"{method}-3" / "done").read_text())
        assert (done["method"], done["seed"]) == (method, 3)
        assert done["commit"]
        assert (trained / f"{method}-3" / "last" / "policy" / "model.safetensors").is_file()
    assert len((trained / "answers-3" / "answers.jsonl").read_text().splitlines()) == 2  # held once, for sft and dpo
    monkeypatch.setattr(train, "run_ppo", never)
    monkeypatch.setattr(train, "run_baseline", never)
    train.main(["--smoke", "--seeds", "3", "--runs", str(trained)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [f"{method + '-3':18} finished" for method in train.METHODS]
    assert lines[6].startswith("about 0.0 hours")
    assert len(lines) == 7


def test_official_stops_when_it_has_learned_from_as_many_tokens(train, trained, tmp_path):
    told = {method: json.loads((trained / f"{method}-3" / "done").read_text()) for method in ("rlpa", "official")}
    lines = [json.loads(line) for line in (trained / "official-3" / "metrics.jsonl").read_text().splitlines()]
    tokens = [line["action_tokens"] for line in lines]
    assert sum(tokens[:-1]) < told["rlpa"]["action_tokens"] <= sum(tokens) == told["official"]["action_tokens"]
    assert json.loads((trained / "official-3" / "config.json").read_text())["mode"] == "official"
    (tmp_path / "rlpa-0").mkdir()
    (tmp_path / "rlpa-0" / "done").write_text('{"settings": "", "action_tokens": 12345}')
    config = train.ppo_config(train.Part("official", 0, tmp_path), 25.0)
    assert (config.action_tokens, config.minutes, config.iterations) == (12345, None, None)
    assert config.rollout.samples * config.rollout.dialogues == PRESETS["tiny"].rollout.dialogues


def test_nothing_begins_that_could_not_end(train, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "run_ppo", never)
    with pytest.raises(SystemExit, match="official-1: expected a finished rlpa-1"):
        train.main(["--methods", "official", "profile-only", "--seeds", "1", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit):
        train.main(["--minutes", "0", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit):
        train.main(["--seeds", "1", "1", "--runs", str(tmp_path)])
    (tmp_path / "rlpa-0").mkdir()
    (tmp_path / "rlpa-0" / "done").touch()
    with pytest.raises(SystemExit, match="expected what a finished run"):
        train.main(["--methods", "rlpa", "--seeds", "0", "--runs", str(tmp_path)])


def test_a_finished_run_is_not_taken_for_a_longer_one(train, modules, tmp_path, monkeypatch):
    part, training = train.Part("rlpa", 0, tmp_path), modules["training"]
    part.folder.mkdir()
    training.write_done(part.folder, training.settings_of(train.ppo_config(part, 25.0)), {"minutes": 24.7})
    monkeypatch.setattr(train, "run_ppo", never)
    options = ["--methods", "rlpa", "--seeds", "0", "--runs", str(tmp_path)]
    train.main([*options, "--minutes", "25"])
    with pytest.raises(SystemExit, match=r"finished with others \(after 24.7 minutes\)"):
        train.main([*options, "--minutes", "50"])


@pytest.mark.parametrize(("method", "paid"), [("profile-only", "reward/profile"), ("response-only", "reward/response")])
def test_a_policy_of_one_reward_is_paid_that_one_only(train, tmp_path, method, paid):
    config = train.ppo_config(train.Part(method, 0, tmp_path), 25.0)
    both = train.ppo_config(train.Part("rlpa", 0, tmp_path), 25.0)
    weight = getattr(both.rollout, f"{paid.removeprefix('reward/')}_weight")
    env, agent = environments(config.rollout)(), make_agent("oracle")
    _, info = env.reset(seed=5)
    agent.attach(env)
    parts = {"reward/profile": 0.0, "reward/response": 0.0}
    for _ in range(6):
        _, reward, over, cut, info = env.step(agent.act(info["messages"]))
        assert reward == pytest.approx(weight * info[paid])
        parts = {name: total + info[name] for name, total in parts.items()}
        if over or cut:
            break
    assert min(parts.values()) > 0.5  # both would have been earned


def test_a_price_for_lines_is_no_reward_of_a_policy_that_learns_replies_only(train, tmp_path, monkeypatch):
    preset = PRESETS["tiny"]
    monkeypatch.setitem(PRESETS, "tiny", dataclasses.replace(preset, ppo=dataclasses.replace(preset.ppo, line_cost=0.1)))
    costs = {method: train.ppo_config(train.Part(method, 0, tmp_path), 1.0).ppo.line_cost for method in ("rlpa", "profile-only", "response-only")}
    assert costs == {"rlpa": 0.1, "profile-only": 0.1, "response-only": 0.0}


def test_what_is_left_of_a_stopped_run(modules, train, trained, tmp_path, monkeypatch):
    training = modules["training"]
    shutil.copytree(trained / "rlpa-3", tmp_path / "rlpa-3")
    (tmp_path / "rlpa-3" / "done").unlink()
    with (tmp_path / "rlpa-3" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 2, "seconds": 9.0}\n{"iteration": 3, "sec')  # after the checkpoint; torn by a kill
    part = train.Part("rlpa", 3, tmp_path)
    kept = training.kept_iterations(part.folder)
    assert [line["iteration"] for line in kept] == [1]
    config = train.ppo_config(part, 25.0)
    before = {"iteration": 7, "stop": False, "action_tokens": 100, "seconds": 60.0}
    for minutes, over in ((8.5, False), (1.9, True)):  # two minutes are behind it, another would end after 3
        assert training.is_over(dataclasses.replace(config, minutes=minutes), [before, before]) == over
    assert training.is_over(config, [before, before | {"stop": True}])
    assert not training.is_over(config, [])
    tokens = dataclasses.replace(config, minutes=None, action_tokens=200)
    assert training.is_over(tokens, [before, before])
    assert not training.is_over(tokens, [before])
    monkeypatch.setattr(training, "build_trainer", never)  # its one iteration is over: only `done` was missing
    assert training.run_ppo(train.ppo_config(part, 25.0, smoke=True))["action_tokens"] == kept[0]["action_tokens"]

    monkeypatch.undo()
    with pytest.warns(UserWarning, match="follows the end of the run"):
        twice = training.run_ppo(dataclasses.replace(train.ppo_config(part, 25.0, smoke=True), iterations=2))
    kept = training.kept_iterations(part.folder)
    assert [line["iteration"] for line in kept] == [1, 2]  # gone on with, not begun anew
    assert (twice["iterations"], twice["dialogues"]) == (2, 8)
    asked = {}

    class Stand:
        def run(self, spent):
            asked["spent"] = spent

    monkeypatch.setattr(training, "build_trainer", lambda config, resume, quiet: asked.update(resume=resume, minutes=config.minutes) or Stand())
    training.run_ppo(config)
    assert asked == {"resume": True, "minutes": 25.0, "spent": pytest.approx(sum(line["seconds"] for line in kept))}


def test_a_run_that_lacks_its_last_validation_is_gone_on_with(modules, tmp_path):
    is_over, line = modules["training"].is_over, {"iteration": 2, "stop": False, "action_tokens": 100, "seconds": 60.0}
    config = dataclasses.replace(PRESETS["tiny"], out=tmp_path, minutes=None, iterations=2)
    assert config.eval.every
    for iteration, over in ((0, False), (2, True)):
        with (tmp_path / "validation.jsonl").open("a") as file:
            file.write(json.dumps({"iteration": iteration, "return": 1.0}) + "\n")
        assert is_over(config, [line]) == over
    assert is_over(dataclasses.replace(config, out=tmp_path / "away"), [line | {"stop": True}])  # never validated


def test_a_run_that_ran_away_before_its_first_checkpoint_says_so(train, modules, tmp_path, monkeypatch):
    training = modules["training"]

    class RanAway:
        def run(self, spent):
            assert spent == 0
            return {"stop": True, "health": "KL to the start above max_kl=40.0: stopped"}

    monkeypatch.setattr(training, "build_trainer", lambda config, resume, quiet: RanAway())
    with pytest.raises(SystemExit, match=r"rlpa-0: expected at least one iteration.*got none \(KL to the start above max_kl=40"):
        training.run_ppo(train.ppo_config(train.Part("rlpa", 0, tmp_path), 25.0))


def test_the_hours_are_those_measured_where_a_part_is_finished(train, modules, tmp_path):
    arguments = train.argparse.Namespace(seeds=[0, 1], minutes=30.0, runs=tmp_path, smoke=False)
    parts = [train.Part(method, seed, tmp_path) for method in train.METHODS for seed in (0, 1)]
    guessed = train.plan(parts, arguments)
    assert guessed[0] == f"{'rlpa-0':18} to do, about 30 minutes"
    assert guessed[-1].startswith(f"about {2 * (4 * 30 + 22 + 24 + 30) / 60:.1f} hours")
    (tmp_path / "sft-0").mkdir()
    modules["training"].write_done(tmp_path / "sft-0", "x", {"minutes": 45.0})
    assert train.plan(parts, arguments)[2:4] == [f"{'sft-0':18} finished", f"{'sft-1':18} to do, about 45 minutes"]


def test_a_shipped_policy_is_the_run_and_loads(modules, trained, tmp_path, monkeypatch):
    ship, run, target = modules["ship"], trained / "official-3", tmp_path / "official-3"
    told = json.loads((run / "done").read_text())
    line = ship.ship(run, target, told, users=1)
    about = json.loads((target / "trained.json").read_text())
    assert {name: about[name] for name in told} == told
    assert (about["dtype"], about["greedy_answers_that_differ"]) == ("float32", 0)
    assert f"{about['greedy_answers_that_differ']} of {about['greedy_answers']} greedy answers differ" in line
    assert max(file.stat().st_size for file in target.iterdir()) < 15e6
    assert not list(tmp_path.glob("*.part"))
    own, shipped = (Policy.from_pretrained(path, reference=False) for path in (run / "last" / "policy", target))
    for (name, weight), (_, read) in zip(own.lm.named_parameters(), shipped.lm.named_parameters(), strict=True):
        assert torch.equal(weight, read), name
    assert read_context(target) == ContextKind("latest")
    monkeypatch.setattr(ship, "policy_agent", never)
    assert ship.ship(run, target, told, users=1) == line
    with pytest.raises(AssertionError, match="begun again"):
        ship.ship(run, target, told | {"settings": "of another run"}, users=1)


def test_small_updates_are_shipped_and_other_answers_are_not(modules, tmp_path, monkeypatch):
    ship, run, target = modules["ship"], tmp_path / "run", tmp_path / "shipped"
    policy = Policy.from_pretrained(shipped_start(), reference=False)
    with torch.no_grad():
        for weight in policy.lm.parameters():
            weight *= 1.0005  # less than half a step of bfloat16
    policy.save(run)
    save_context(run, read_context(shipped_start()))
    monkeypatch.setattr(ship, "greedy_difference", lambda *_: (3, 80))
    with pytest.raises(RLPAError, match=r"expected at most 2 of 80 greedy answers.*got 3"):
        ship.ship(run, target, {"seed": 0})
    assert not target.exists()
    monkeypatch.setattr(ship, "greedy_difference", lambda *_: (2, 80))
    ship.ship(run, target, {"seed": 0})
    read = Policy.load(target, reference=False)
    assert all(torch.equal(one, other) for one, other in zip(policy.lm.parameters(), read.lm.parameters(), strict=True))
    assert max(file.stat().st_size for file in target.iterdir()) < 15e6
    assert ship.policy_path(str(target)) == str(target)
    about = json.loads((target / "trained.json").read_text())
    (target / "trained.json").write_text(json.dumps(about | {"dtype": "bfloat16"}))
    monkeypatch.setattr(ship, "greedy_difference", never)
    with pytest.raises(AssertionError, match="begun again"):  # one that was rounded is shipped anew
        ship.ship(run, target, {"seed": 0})


def test_other_weights_answer_otherwise_and_the_same_alike(modules, tmp_path, monkeypatch):
    said = "<profile>\n</profile>\n\n<response>\nHello! What do you do?\n</response>"
    roles, texts = ["user", "assistant"] * 2, ["Hello", said, "I'm a nurse, nights mostly.", said]
    talk = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    monkeypatch.setattr(modules["ship"], "collect", lambda agents, *_, **__: {name: [{"messages": talk}] for name in agents})
    policy = Policy.from_pretrained(shipped_start(), reference=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.lm.parameters():
            weight += 0.2 * weight.std() * torch.randn(weight.shape, generator=generator)
    policy.save(tmp_path / "noised")
    assert modules["ship"].greedy_difference(shipped_start(), tmp_path / "noised", 1) == (2, 2)
    assert modules["ship"].greedy_difference(shipped_start(), shipped_start(), 1) == (0, 2)


def test_tables_find_trained_policies_by_folder(modules, tmp_path, capsys):
    study = modules["study"]
    for name in ("rlpa-0", "rlpa-1", "sft-0", "official-0", "official-1"):
        (tmp_path / name).mkdir()
    options = ["--trained", str(tmp_path), "--seeds", "0", "1"]
    args = study.read(study.parser("", trained=("rlpa", "sft", "dpo")), options)
    assert args.contestants == {"start": "tiny", "rlpa": f"{tmp_path}/rlpa-{{seed}}"}
    assert "sft has no seed 1" in capsys.readouterr().out
    args = study.read(study.parser("", trained=("rlpa",)), [*options, "--model", "rlpa=tiny"])
    assert args.contestants == {"rlpa": "tiny"}
    assert study.read(study.parser("", trained=("dpo",)), options).contestants == {"start": "tiny"}
    assert "none of dpo" in capsys.readouterr().out


SHIPPED_POLICIES = sorted(path.parent for path in (FOLDER / "checkpoints").glob("*/trained.json"))


def test_the_policies_of_the_tables_are_in_the_repository():
    assert {path.name for path in SHIPPED_POLICIES} >= {f"{method}-{seed}" for method in ("rlpa", "sft", "dpo") for seed in range(3)}
    assert {path.parent for path in (FOLDER / "checkpoints").rglob("*") if path.is_file()} == set(SHIPPED_POLICIES)


@pytest.mark.parametrize("folder", SHIPPED_POLICIES, ids=lambda path: path.name)
def test_a_server_that_loads_a_policy_in_the_repository_finds_no_critic_among_its_safetensors(folder):
    found, index = sorted(path.name for path in folder.glob("*.safetensors")), folder / "model.safetensors.index.json"
    if index.exists():  # float32, in files below 15 MB
        weights = json.loads(index.read_text())["weight_map"]
        assert found == sorted(set(weights.values())) == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        assert all(name.startswith("model.") for name in weights)
    else:
        assert found == ["model.safetensors"]
    assert head_file(folder) == folder / "value_head.weights"


def test_the_minutes_are_those_of_the_policies_in_the_repository(train, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(train, "plan", lambda parts, args: asked.append(args.minutes) or never())
    with pytest.raises(AssertionError):
        train.main(["--runs", str(tmp_path)])
    told = [json.loads((path / "trained.json").read_text()) for path in SHIPPED_POLICIES]
    assert {about["minutes"] for about in told if about["method"] in ("rlpa", "profile-only", "response-only") and abs(about["minutes"] - asked[0]) > 1} == set()


def test_tiny_ppo_trains_for_the_minutes_of_its_result(tiny_ppo, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(tiny_ppo, "train", lambda folder, minutes, *_: asked.append(minutes) or never())
    monkeypatch.setattr(sys, "argv", ["run.py", "--runs", str(tmp_path)])
    with pytest.raises(AssertionError):
        tiny_ppo.main()
    results = FOLDER / "results" / "tiny_ppo"
    assert {json.loads((results / f"{name}.json").read_text())["figures"]["minutes"] for name in ("tiny_ppo", "seed_2")} == {*asked}


@pytest.mark.parametrize("folder", SHIPPED_POLICIES, ids=lambda path: path.name)
def test_a_policy_in_the_repository_is_what_its_name_says_and_answers(folder):
    about = json.loads((folder / "trained.json").read_text(encoding="utf-8"))
    assert folder.name == f"{about['method']}-{about['seed']}"
    assert about["minutes"] > 0
    assert max(file.stat().st_size for file in folder.iterdir()) < 15e6
    policy = Policy.from_pretrained(folder, reference=False)
    (held,) = collect(policy, [environments(PRESETS["tiny"].rollout)()], seeds=[0], max_turns=1, max_new_tokens=120, temperature=0.0)
    assert held.turns[0].valid
    assert held.turns[0].parts["reward/response"] == 1.0  # to "Hello" all of them know an answer
    start = Policy.from_pretrained(shipped_start(), reference=False)
    assert any(not torch.equal(a, b) for a, b in zip(policy.lm.parameters(), start.lm.parameters(), strict=True))
