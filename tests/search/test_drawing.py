"""Conditions and constraints reach every trial that is drawn, and a parallel search draws as any other run of it."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import played
import pytest

from raypo.errors import StudyError
from raypo.search import searches
from raypo.search.commands import Commands
from raypo.search.conductor import LedgerConductor
from raypo.search.jobs import Job, Outcome
from raypo.search.points import point_of, priors_of
from raypo.search.preflight import check
from raypo.search.searches import create
from raypo.search.tune import FINISHED
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


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_an_enqueued_value_is_tried_where_it_means_something(tmp_path: Path, sampler: str) -> None:
    axes = {"epsilon": {"choice": [0.1, 0.2, 0.3, 0.4]}, "lr": {"choice": [1e-4, 1e-5]}}
    search = create(study_of(tmp_path, axes, sampler=sampler))
    wanted = [axes["epsilon"]["choice"][n % 4] for n in range(8)]
    for epsilon in wanted:
        assert point_of(search.study(), "offline_ppo", {"epsilon": epsilon})
        Commands(search.ledger).send("enqueue", method="offline_ppo", values={"epsilon": epsilon})
    rows = list(played.Played(search).run().rows.values())[:8]
    assert [row.params.get("epsilon") for row in rows] == wanted
    assert {row.params["kl_mode"] for row in rows} == {"exact"}


@pytest.mark.parametrize("values", [{}, {"lr": 1e-4}])
def test_a_value_that_means_nothing_beside_the_others_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    given = {"kl_mode": "k3_ref", "epsilon": 0.2, **values}
    with pytest.raises(StudyError, match=r"epsilon: got 0\.2, and it means something only where kl_mode == exact"):
        point_of(study_of(tmp_path), "offline_ppo", given)
    never = study_of(tmp_path, {"kl_mode": "k3_ref", "conditions": {"epsilon": "kl_mode != k3_ref"}})
    with pytest.raises(StudyError, match=r"epsilon: got 0\.2"):
        point_of(never, "offline_ppo", {"epsilon": 0.2, **values})


def test_a_published_point_leaves_out_what_means_nothing_beside_its_other_values(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"priors": [{"kl_mode": "k3_ref", "epsilon": 0.2, "lr": 1e-4}]}, priors=True)
    assert priors_of(study, "offline_ppo") == ([{"kl_mode": "k3_ref", "lr": 1e-4}], [])


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
    assert "no hyperparameter 'kl_moed'; known: " in str(refused.value)
    assert "; did you mean 'kl_mode'?" in str(refused.value)
    assert "search.pruner: median decides between 0.333 and 1 of the schedule" in str(refused.value)


def test_a_sampler_that_cannot_search_a_method_is_told_before_anything_starts(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"epsilon": 0.2, "conditions": {}}, sampler="cmaes")
    with pytest.raises(StudyError, match=r"methods\.offline_ppo: search\.sampler: cmaes needs two numeric axes"):
        check(study, lambda _: None)


def in_any_order(search: searches.SearchFolder, order: int) -> list[tuple[Any, ...]]:
    """The table of a search whose five trials at a time advance in an order that differs from run to run."""
    conductor = played.conductor_of(search, 5)
    chance = random.Random(order)
    live: dict[str, tuple[dict[str, Any], int]] = {}
    for number in itertools.count():
        config = conductor.next(f"t{number}") if len(live) < 5 else None
        if config == FINISHED:
            return [(row.name, row.state, row.params, len(row.evaluations)) for row in conductor.ledger.rows()]
        if isinstance(config, dict):
            live[f"t{number}"] = (config, config["rung"])
        if chance.random() < 0.7 and live:
            trial_id = chance.choice(sorted(live))
            config, rung = live.pop(trial_id)
            outcome = told(Job(**config["jobs"][rung]))
            if conductor.heard(trial_id, rung, outcome) and outcome.state == "running":
                live[trial_id] = (config, rung + 1)
            else:
                conductor.left(trial_id, error=False)
    raise AssertionError


def told(job: Job) -> Outcome:
    """Small beta is best; what is far from it diverges."""
    value = 1 - abs(math.log10(played.value_of(job)) + 1.5) + 0.1 * job.until
    figures = dict.fromkeys(("objective", "win_rate", "ci_low", "ci_high"), value)
    if value < 0:
        return Outcome(job.trial, "diverged", job.until, reason="far")
    return Outcome(job.trial, "finished" if job.until >= 1 else "running", job.until, evaluation=figures)


@pytest.mark.parametrize("labels", [("dpo",), ("dpo", "ipo")])
@pytest.mark.parametrize("pruner", ["median", "successive_halving"])
def test_a_parallel_search_repeats_whichever_slot_is_faster(
    tmp_path: Path, labels: tuple[str, ...], pruner: str
) -> None:
    lr = {"log_uniform": [1e-6, 1e-3]}
    methods = {label: {**played.STUDY["methods"][label], "lr": lr} for label in labels}
    tables = []
    for order in range(4):
        content = {
            **played.STUDY,
            "storage": str(tmp_path / str(order)),
            "methods": methods,
            "objective": {**played.STUDY["objective"], "at": [1 / 3, 2 / 3, 1.0]},
            "search": {"trials": 20, "sampler": "tpe", "pruner": pruner},
            "resources": {"slots": 4},
        }
        tables.append(in_any_order(create(build(content, "parallel")), order))
    assert all(table == tables[0] for table in tables[1:])
    states = [state for _, state, *_ in tables[0]]
    assert len(states) == 20 * len(labels)
    assert {"finished", "pruned", "diverged"} <= set(states)


def searching(storage: Path, **search: Any) -> LedgerConductor:
    content = {
        **played.STUDY,
        "storage": str(storage),
        "search": {"trials": 20, "pruner": "none", **search},
        "resources": {"slots": 3},
    }
    return played.conductor_of(create(build(content, "places")), 6)


@pytest.mark.parametrize(
    ("search", "drawn"),
    [
        ({"sampler": "tpe"}, 6),
        ({"sampler": "random", "pruner": "median"}, 6),
        ({"sampler": "random", "repeats": {"seeds": 2, "promising_only": True}}, 6),
        ({"sampler": "random"}, 40),
    ],
)
def test_each_method_fills_the_slots_and_waits_only_where_somebody_looks(
    tmp_path: Path, search: dict[str, Any], drawn: int
) -> None:
    """Three slots, two methods, nothing has ended yet."""
    conductor = searching(tmp_path, **search)
    begun = [conductor.next(f"t{number}") for number in range(50)]
    assert sum(isinstance(config, dict) for config in begun) == drawn


def test_a_first_trial_leaves_its_slot_until_those_before_it_have_told_what_they_had(tmp_path: Path) -> None:
    """Whichever of them is faster, the worse one is found at the first rung."""
    conductor = searching(tmp_path, sampler="tpe", pruner="median")
    ids = {conductor.next(f"t{n}")["jobs"][0]["trial"]: f"t{n}" for n in range(6)}  # type: ignore[index]

    def tells(name: str, value: float) -> bool:
        figures = dict.fromkeys(("objective", "win_rate", "ci_low", "ci_high"), value)
        goes_on = conductor.heard(ids[name], 0, Outcome(name, "running", 0.5, evaluation=figures))
        if not goes_on:
            conductor.left(ids[name], error=False)
        return goes_on

    assert not tells("dpo-0001", 0.4)
    assert not tells("dpo-0002", 0.6)
    assert conductor.next("t6") is None, "neither it nor another trial may go on yet"
    assert {conductor.ledger.row(name).state for name in ("dpo-0001", "dpo-0002")} == {"running"}
    assert len(conductor.position.running) == 6, "a budget holds what they will still cost"
    assert tells("dpo-0000", 0.5), "the first of all waits for nobody"
    given = [conductor.next(f"t{n}") for n in (7, 8)]
    assert conductor.ledger.row("dpo-0001").state == "pruned"
    again = next(config for config in given if isinstance(config, dict))
    assert (again["jobs"][0]["trial"], again["rung"]) == ("dpo-0002", 1)


def test_without_a_pruner_a_first_trial_goes_on_at_once(tmp_path: Path) -> None:
    conductor = searching(tmp_path, sampler="tpe")
    ids = {conductor.next(f"t{n}")["jobs"][0]["trial"]: f"t{n}" for n in range(6)}  # type: ignore[index]
    figures = dict.fromkeys(("objective", "win_rate", "ci_low", "ci_high"), 0.4)
    assert conductor.heard(ids["dpo-0001"], 0, Outcome("dpo-0001", "running", 0.5, evaluation=figures))
