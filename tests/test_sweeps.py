"""sweeps/*.yaml: W&B accepts each file, each value is a valid run, and each head is complete."""

import itertools
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from sweeps import schema_violations_from_proposed_config

import studies
from segmentation.config import BASELINE, BEST_BY, OBJECTIVES, Config, settle

FILES = sorted((Path(__file__).resolve().parent.parent / "sweeps").glob("*.yaml"))
NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")


def load(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def values_of(parameter: dict) -> list:
    """The values that a parameter may have, or the bounds of its range."""
    if "values" in parameter:
        return parameter["values"]
    return [parameter["value"]] if "value" in parameter else [parameter["min"], parameter["max"]]


def strings(node):
    if isinstance(node, dict):
        yield from itertools.chain.from_iterable(map(strings, node.values()))
    elif isinstance(node, list):
        yield from itertools.chain.from_iterable(map(strings, node))
    elif isinstance(node, str):
        yield node


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestSweep:
    def test_wandb_accepts_it(self, path):
        assert schema_violations_from_proposed_config(load(path)) == []

    def test_every_value_builds_a_config(self, path):
        parameters = load(path)["parameters"]
        parameters.pop(studies.OPTIONS, None)  # options of the search; no run receives them
        first = {name: values_of(parameter)[0] for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            for value in values_of(parameter):
                config = Config.from_mapping(first | {name: value})
                overriding = {"configuration", *(first.get("configuration") or {})}
                assert name in overriding or getattr(config, name) == (
                    "linear" if value is None else value
                )

    def test_no_number_is_written_as_text(self, path):
        assert [text for text in strings(load(path)) if NUMBER.fullmatch(text)] == []

    def test_it_minimises_the_objective_that_chooses_the_weights(self, path):
        sweep = load(path)
        metric, best_by = sweep["metric"], sweep["parameters"].get("best_by", {})
        assert metric["goal"] == "minimize" and metric["name"] in OBJECTIVES
        assert OBJECTIVES[metric["name"]] == BEST_BY[best_by.get("value", Config().best_by)]

    def test_runs_with_different_losses_are_ranked_by_error(self, path):
        sweep = load(path)
        if len(values_of(sweep["parameters"].get("loss", {"value": None}))) > 1:
            assert sweep["metric"]["name"] == "best_val_error"

    def test_hyperband_compares_runs_before_the_last_epoch_only(self, path):
        """At full budget nothing is left to save; a run stopped there would count as stopped."""
        sweep = load(path)
        if "early_terminate" in sweep:
            hyperband, epochs = sweep["early_terminate"], sweep["parameters"]["epochs"]["value"]
            looks = [
                hyperband["max_iter"] // hyperband["eta"] ** i for i in range(1, hyperband["s"] + 1)
            ]
            assert (
                hyperband["max_iter"] == epochs
                and looks
                and all(1 <= look < epochs for look in looks)
            )

    def test_its_scheduler_names_functions_of_studies_and_replaces_early_terminate(self, path):
        sweep = load(path)
        assert ("scheduler" in sweep) == (sweep["method"] == "custom")
        if "scheduler" in sweep:
            assert "early_terminate" not in sweep  # W&B refuses both at once
            assert (
                sweep["scheduler"]["engine"] == "optuna"
                and sweep["scheduler"]["source"] == "studies.py"
            )
            assert callable(getattr(studies, sweep["scheduler"]["optimizer"]))
            assert callable(getattr(studies, sweep["scheduler"]["search_space"]))

    def test_its_number_of_runs_is_bounded(self, path):
        assert load(path)["method"] == "grid" or "run_cap" in load(path)

    def test_its_head_states_what_it_does_its_cost_and_how_to_start_it(self, path):
        head = "".join(itertools.takewhile(lambda line: line.startswith("#"), path.open()))
        assert (
            "# What:" in head and "# Cost:" in head and f"loopback sweep sweeps/{path.name}" in head
        )
        runs = load(path).get("run_cap")
        assert runs is None or f"{runs} runs" in head
        assert f"{load(path)['parameters']['epochs']['value']} epochs" in head
        scheduler = "wandb sweep-scheduler --batch-size AGENTS ENTITY/PROJECT/SWEEP_ID"
        # Without --batch-size the scheduler queues 10 runs before the first one has ended.
        assert ("scheduler" in load(path)) == (scheduler in head)


@pytest.mark.parametrize("search", ["tpe", "tpe_halving", "hyperband", "bohb", "multifidelity"])
@pytest.mark.parametrize("name", ["multifidelity", "recipe"])
def test_every_search_proposes_runs_that_train_py_accepts(search, name):
    config = load(FILES[0].with_name(f"{name}.yaml"))
    study = getattr(studies, search)(SimpleNamespace(config=config))
    for _ in range(8):
        trial = study.ask()
        params = dict(studies.search_space(trial))
        settled = settle(params, 64)
        assert params.items() <= asdict(settled).items()
        for epoch in (1, 2, 3)[: settled.epochs]:
            trial.report(1 / epoch, epoch)
            trial.should_prune()
        study.tell(trial, 1 / 3)


def test_the_recipe_is_judged_by_error_and_first_after_its_warm_up():
    config = load(FILES[0].with_name("recipe.yaml"))
    sampler = studies.multifidelity(SimpleNamespace(config=config)).sampler
    assert sampler.reader.worst == 1
    assert sampler.policy.levels == [3, 9, 27, 40]
    parameters = config["parameters"]
    assert parameters["warmup_epochs"]["value"] < sampler.policy.levels[0]


def test_the_pattern_finds_text_that_looks_like_a_number():
    assert [
        bool(NUMBER.fullmatch(text)) for text in ("1e-4", "0.1", "-3", "relu", "--data=data/demo")
    ] == [1, 1, 1, 0, 0]


def test_the_recommended_sweep_searches_the_published_ranges():
    parameters = load(FILES[0].with_name("bayes_hyperband.yaml"))["parameters"]
    assert values_of(parameters["batch_size"]) == [1, 32] and values_of(
        parameters["learning_rate"]
    ) == [0.0001, 0.1]
    assert parameters["activation"]["values"] == ["relu", "tanh", "swish", "linear"]


def test_baseline_and_confirm_hold_the_baseline():
    baseline = load(FILES[0].with_name("baseline.yaml"))["parameters"]
    assert (
        BASELINE.items()
        <= {name: values_of(parameter)[0] for name, parameter in baseline.items()}.items()
    )
    assert (
        BASELINE
        in load(FILES[0].with_name("confirm.yaml"))["parameters"]["configuration"]["values"]
    )
