"""A winner is run again: the written command holds a study that loads, searches nothing and has the winner's values."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raypo import yaml
from raypo.search.drawing import rules_of
from raypo.search.reading import trial_result
from raypo.search.results import SearchResults
from raypo.search.rows import Row
from raypo.search.targets import targets
from raypo.study import Study, build, load, loading
from raypo.tracking.again import command
from raypo.tracking.compare import winner

PARADOX = Path(__file__).parents[2] / "search_spaces" / "studies" / "paradox_of_preference.yaml"
CONDITIONS = """
name: ppo
model: {path: quickstart}
data: {source: quickstart}
training: {lr: {log_uniform: [1e-7, 1e-5]}, batch_size: 8}
methods:
  cdpo: {beta: {log_uniform: [0.01, 1]}, epsilon: {choice: [0.05, 0.1]}, priors: [{beta: 0.1, epsilon: 0.1}]}
  offline_ppo:
    beta: {log_uniform: [0.01, 1]}
    advantage: {choice: [label, gae]}
    lambda_: {uniform: [0.8, 1]}
    conditions: {lambda_: advantage == gae}
objective: {judge: {kind: rule, function: quickstart}}
search: {priors: true, constraints: [lr <= 1e-6 or beta >= 0.1, epsilon > 0]}
"""


def run_again(study: Study, folder: Path, label: str, point: dict[str, Any]) -> Study:
    """The study that the command for a trial of these values leads to."""
    (folder / "study.yaml").write_text(yaml.dump(study.written()))
    row = Row(f"{label}-0003", label, 3, "finished", point, 0)
    trial = trial_result(row, folder, study)
    results = SearchResults(study.name, folder, study.written(), {}, (trial,))
    words = shlex.split(command(results, trial))
    assert words[:3] == ["raypo", "search", str(folder / "study.yaml")]
    assert words[3:5] == ["--name", f"{study.name}-{trial.name}"]
    found = load(Path(words[2]), [word for before, word in itertools.pairwise(words) if before == "--set"])
    assert list(found.methods) == [label]
    assert found.space(label) == {}
    assert targets(found) == {label: 1}
    assert rules_of(found, label).allows({}), "no rule speaks of what is gone"
    return found


@pytest.mark.parametrize(
    ("label", "point"),
    [
        ("dpo", {"beta": 5e-3, "data.fraction": 1.0, "data.flip_labels": 0.05}),
        ("ipo", {"tau": 0.1, "data.fraction": 0.25, "data.flip_labels": 0.0}),
    ],
)
def test_a_winner_on_searched_data_has_its_own_transforms(tmp_path: Path, label: str, point: dict[str, Any]) -> None:
    study = load(PARADOX)
    found = run_again(study, tmp_path, label, point)
    assert found.data_transforms({}) == [
        {"fraction": point["data.fraction"]},
        {"flip_labels": point["data.flip_labels"]},
    ]
    own = {name: value for name, value in point.items() if not name.startswith("data.")}
    assert found.fixed(label) == {**study.fixed(label), **own}


@pytest.mark.parametrize(
    ("label", "point"),
    [
        ("offline_ppo", {"beta": 0.3, "advantage": "gae", "lambda_": 0.9, "lr": 2e-6}),
        ("offline_ppo", {"beta": 0.3, "advantage": "label", "lr": 1e-7}),
        ("cdpo", {"beta": 0.3, "epsilon": 0.05, "lr": 1e-7}),
    ],
)
def test_a_winner_among_conditions_and_priors_has_its_own_values(
    tmp_path: Path, label: str, point: dict[str, Any]
) -> None:
    study = build(yaml.load(CONDITIONS, "study"), "study")
    found = run_again(study, tmp_path, label, point)
    defaults = {name: spec.default for name, spec in found.methods[label].method.hyperparameters.items()}
    assert found.fixed(label) == {**defaults, **study.fixed(label), **point}
    assert (found.methods[label].priors, dict(found.methods[label].conditions)) == ((), {})


def test_a_command_names_the_method_alone_and_the_values_as_they_are(results: SearchResults) -> None:
    trial = winner(results.trials, "epsilon_dpo")
    assert trial is not None
    words = shlex.split(command(results, trial))
    content: dict[str, Any] = dict(results.study)
    for setting in [word for before, word in itertools.pairwise(words) if before == "--set"]:
        loading.override(content, setting)
    assert content["methods"] == {"epsilon_dpo": dict(trial.hyperparameters)}
    assert content["data"] == results.study["data"]
    assert "--allow-code" not in words
    assert "--allow-code" in shlex.split(command(replace(results, allow_code=True), trial))
