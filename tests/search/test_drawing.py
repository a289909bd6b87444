"""Conditions and constraints of a study file reach every trial that is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import played
import pytest

from raypo.errors import StudyError
from raypo.search.preflight import check
from raypo.search.searches import create
from raypo.study import Study, build

PPO: dict[str, Any] = {
    "kl_mode": {"choice": ["k3_ref", "exact"]},
    "epsilon": {"log_uniform": [0.05, 0.5]},
    "lr": {"log_uniform": [1e-6, 1e-3]},
    "conditions": {"epsilon": "kl_mode == exact"},
}


def study_of(storage: Path, ppo: dict[str, Any] | None = None, **search: Any) -> Study:
    content = {**played.STUDY, "storage": str(storage), "methods": {"offline_ppo": {**PPO, **(ppo or {})}}}
    return build({**content, "search": {"trials": 12, "sampler": "tpe", "pruner": "none", **search}}, "conditional")


def test_a_hyperparameter_is_drawn_only_where_its_condition_holds(tmp_path: Path) -> None:
    search = create(study_of(tmp_path, constraints=["kl_mode == k3_ref or epsilon >= 0.1"]))
    run = played.Played(search).run()
    drawn = [row.params for row in run.rows.values()]
    assert {params["kl_mode"] for params in drawn} == {"k3_ref", "exact"}
    assert all(("epsilon" in params) == (params["kl_mode"] == "exact") for params in drawn)
    assert all(params.get("epsilon", 0.1) >= 0.1 for params in drawn)
    assert search.study().methods["offline_ppo"].conditions == PPO["conditions"]


def test_a_constraint_over_a_fixed_value_holds(tmp_path: Path) -> None:
    search = create(study_of(tmp_path, {"epsilon": 0.2, "conditions": {}}, constraints=["epsilon * lr <= 2e-5"]))
    run = played.Played(search).run()
    assert len(run.rows) == 12
    assert all(row.params["lr"] <= 1e-4 for row in run.rows.values())


@pytest.mark.parametrize(
    ("ppo", "said"),
    [
        (
            {"conditions": {"lambda": "kl_mode == exact"}},
            "methods.offline_ppo.conditions.lambda: .* no such",
        ),
        ({"conditions": ["epsilon"]}, "methods.offline_ppo.conditions: needs an expression for each hyperparameter"),
    ],
)
def test_a_condition_that_cannot_be_is_refused(tmp_path: Path, ppo: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        study_of(tmp_path, ppo)


def test_rules_and_pruners_are_looked_at_before_anything_starts(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"conditions": {"epsilon": "kl_moed == exact"}}, pruner="median")
    late = study.model_copy(update={"objective": study.objective.model_copy(update={"at": (1.0,)})})
    with pytest.raises(StudyError) as refused:
        check(late, lambda _: None)
    assert "no hyperparameter 'kl_moed'. Did you mean 'kl_mode'?" in str(refused.value)
    assert "search.pruner: median decides between 0.333 and 1 of the schedule" in str(refused.value)
