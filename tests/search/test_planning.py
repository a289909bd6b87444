"""A plan counts what it can count and says where its hours come from."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from played import Played
from test_repeats import judged

from raypo.search import searches
from raypo.search.forecast import GIB, Memory, model_states
from raypo.search.planning import MethodPlan, assembled, earlier, plan
from raypo.search.questions import questions_of
from raypo.study import Study, build
from raypo.tracking.planned import to_rich

CONTENT: dict[str, Any] = {
    "name": "planned",
    "model": {"path": "quickstart"},
    "data": {"source": "quickstart", "count": 100, "max_length": 64},
    "training": {"lr": 1e-4, "batch_size": 8, "epochs": 2},
    "methods": {"dpo": {"beta": {"log_uniform": [0.01, 1.0]}}, "orpo": {"beta": 0.1, "epochs": 1}},
    "objective": {
        "judge": {"kind": "rule", "function": "quickstart"},
        "prompts": {"count": 16},
        "sampling": {"max_new_tokens": 8},
    },
    "search": {"trials": 3, "sampler": "random", "pruner": "none"},
    "resources": {"slots": 2, "workers": 2},
    "tracking": {"wandb": "disabled"},
}
NOTHING = Memory(0, 0.0, 0.0, 0.0, 0.0)


def study_with(storage: Path, **sections: Any) -> Study:
    merged = {k: {**v, **sections.get(k, {})} if isinstance(v, dict) else v for k, v in CONTENT.items()}
    return build({**merged, "storage": str(storage)}, "planned")


def test_a_small_study_is_counted_and_probed(tmp_path: Path) -> None:
    said: list[str] = []
    made = plan(study_with(tmp_path, resources={"zero_stage": 0}), said.append)
    dpo, orpo = made.methods
    assert (dpo.trials, dpo.examples) == (3, orpo.examples)
    assert dpo.steps == 2 * -(-dpo.examples // 8)
    assert dpo.tokens == 2 * orpo.tokens, "two epochs against one"
    assert dpo.device_s is not None
    assert orpo.device_s is not None
    assert dpo.device_s > orpo.device_s > 0
    assert made.device_hours == pytest.approx(3 * (dpo.device_s + orpo.device_s) / 3600)
    assert made.hours == pytest.approx(made.device_hours / 4)
    assert made.basis == "a probe of a few steps here"
    assert made.questions.calls == 2 * 3 * 3 * 16 + 16, "at three points, and the opponent's answers once"
    assert made.memory.device == pytest.approx(16 * made.memory.parameters / GIB)


def test_axes_that_change_how_long_a_trial_is_count_by_their_average(tmp_path: Path) -> None:
    parts = ({"epochs": 1, "fraction": 0.2}, {"epochs": 3, "fraction": 0.2}, {"epochs": 1, "fraction": 1.0})
    ends = [*parts, {"epochs": 3, "fraction": 1.0}]

    def planned(epochs: Any, fraction: Any) -> MethodPlan:
        data = {"transforms": [{"fraction": fraction}, {"flip_labels": {"choice": [0.0, 0.5]}}]}
        study = study_with(tmp_path, data=data, training={"epochs": epochs})
        return plan(study, lambda _: None, probing=False).methods[0]

    alone = [planned(**end) for end in ends]
    both = planned(epochs={"uniform": [1, 3]}, fraction={"choice": [0.2, 1.0]})
    for figure in ("examples", "steps", "tokens"):
        assert getattr(both, figure) == pytest.approx(sum(getattr(one, figure) for one in alone) / 4, abs=1)
    assert alone[0].steps < both.steps < alone[-1].steps


def test_every_method_is_probed_as_it_trains(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Every method, on the threads that a worker has."""
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(3)
    said: list[str] = []
    threads: set[int] = set()

    def say(text: str) -> None:
        said.append(text)
        threads.update([torch.get_num_threads()] if text.startswith("probing") else [])

    study = study_with(tmp_path, resources={"zero_stage": 0})
    content = study.written() | {
        "methods": {"kto": {}, "epsilon_dpo": {"epsilon": 0.01}, "tr_dpo": {"tau": 2}, "rpo": {}}
    }
    made = plan(build(content, "planned"), say)
    assert (threads, torch.get_num_threads()) == ({1}, 3)
    probed = [line.split(" of ")[1].split()[0] for line in said if line.startswith("probing: 4 steps")]
    assert probed == [method.label for method in made.methods] == ["kto", "epsilon_dpo", "tr_dpo", "rpo"]
    assert all(method.device_s is not None and method.device_s > 0 for method in made.methods)


def test_without_a_probe_hours_are_unknown(tmp_path: Path) -> None:
    made = plan(study_with(tmp_path), lambda _: None, probing=False)
    assert (made.hours, made.basis) == (None, "no measurement")
    assert made.runs == 6
    time, _, judge = to_rich(made).renderables[1:]
    assert time == "time     6 trainings, time unknown"
    assert str(judge).endswith("16 prompts at 3 points of each schedule")
    once = plan(study_with(tmp_path, objective={"at": [1]}), lambda _: None, probing=False)
    assert str(to_rich(once).renderables[-1]).endswith("16 prompts at the end of each schedule")


def test_an_earlier_search_tells_what_trials_cost(tmp_path: Path) -> None:
    study = study_with(tmp_path)
    assert earlier(study) is None
    search = searches.create(study, "before")
    Played(search, cost=lambda job: 30.0 if job.label == "dpo" else 10.0).run()
    assert earlier(study) == ({"dpo": 90.0, "orpo": 30.0}, "what trials of before cost")
    assert earlier(study_with(tmp_path, search={"trials": 9})) is not None, "how many makes no difference to one"
    assert earlier(study_with(tmp_path, training={"epochs": 3})) is None
    made = plan(study, lambda _: None)
    assert made.device_hours == pytest.approx(3 * 120 / 3600)


def test_an_earlier_search_tells_nothing_of_trials_of_another_length_or_method(tmp_path: Path) -> None:
    study = study_with(tmp_path)
    Played(searches.create(study, "before")).run()
    content = study.written()
    dpo, orpo = (content["methods"][label] for label in ("dpo", "orpo"))
    methods = {"dpo": dpo | {"epochs": 20}, "orpo": orpo | {"beta": 0.5}}
    assert earlier(build(content | {"methods": methods}, "planned")) == ({"orpo": 3.0}, "what trials of before cost")
    methods = {"dpo": {"method": "kto"}, "orpo": orpo | {"batch_size": 4}}
    assert earlier(build(content | {"methods": methods}, "planned")) is None


def test_earlier_searches_that_cannot_be_read_tell_nothing(tmp_path: Path) -> None:
    study = study_with(tmp_path)
    for name in ("damaged", "whole", "renamed"):
        Played(searches.create(study, name)).run()
    (tmp_path / "renamed").rename(tmp_path / "copy")
    journal = tmp_path / "damaged" / "ledger.journal"
    journal.write_bytes(b"garbage\n" + journal.read_bytes())
    os.utime(tmp_path / "damaged" / "search.json", (2e9, 2e9))
    found = earlier(study)
    assert found is not None
    assert found[1] == "what trials of whole cost"


def test_an_earlier_search_with_several_seeds_tells_what_one_of_them_costs(tmp_path: Path) -> None:
    study = study_with(tmp_path, search={"repeats": {"seeds": 3}})
    search = searches.create(study, "before")
    Played(search, outcome=lambda job: judged(search.path, job)).run()
    assert {row.cost_s for row in search.ledger.rows()} == {1.0 + 1.0 + 3 * 2.0}
    assert earlier(study) == ({"dpo": 4.0, "orpo": 4.0}, "what trials of before cost")


def test_a_budget_bounds_hours_and_seeds_and_confirmation_count(tmp_path: Path) -> None:
    methods = (MethodPlan("dpo", 10, 1, 1, 1, 100.0), MethodPlan("orpo", 10, 1, 1, 1, 50.0))
    study = study_with(tmp_path, search={"repeats": {"seeds": 2}}, confirm={"top": 0})
    made = assembled(study, methods, "", NOTHING)
    assert (made.runs, made.device_hours) == (40, pytest.approx(20 * 150 / 3600))
    unbounded = tuple(MethodPlan(m.label, None, 1, 1, 1, m.device_s) for m in methods)
    made = assembled(study_with(tmp_path, search={"trials": None, "budget": {"wall_hours": 2}}), unbounded, "", NOTHING)
    assert (made.runs, made.hours, made.device_hours, made.questions.calls) == (None, 2.0, 8.0, None)


def test_no_more_is_confirmed_than_there_is(tmp_path: Path) -> None:
    content = study_with(tmp_path, search={"trials": 1}).written()
    study = build({**content, "confirm": {"top": 3, "seeds": 2}}, "planned")
    made = assembled(study, (MethodPlan("dpo", 1, 1, 1, 1, 100.0), MethodPlan("orpo", 1, 1, 1, 1, 50.0)), "", NOTHING)
    assert (made.runs, made.device_hours) == (6, pytest.approx(3 * 150 / 3600))
    assert made.questions.calls == 2 * 3 * 16 + 4 * 16 + 16 + 16


@pytest.mark.parametrize(("search", "hours"), [({"repeats": {"seeds": 2}}, 3.0), ({"budget": {"wall_hours": 1}}, 2.0)])
def test_no_search_is_over_before_its_longest_trial(tmp_path: Path, search: dict[str, Any], hours: float) -> None:
    """A trial and its further seeds are on one slot at a time, however many there are."""
    content = study_with(tmp_path, search=search, resources={"slots": 8}).written()
    study = build({**content, "confirm": {"top": 1, "seeds": 2}}, "planned")
    made = assembled(study, (MethodPlan("dpo", 1, 1, 1, 1, 7200.0),), "", NOTHING)
    assert made.hours == pytest.approx(hours), "the confirmation's seeds are side by side"


def test_questions_and_their_price(tmp_path: Path) -> None:
    judge = {"kind": "llm", "model": "some-model", "template": "hh", "price_per_million_tokens": [2.0, 8.0]}
    content = {**CONTENT, "objective": {**CONTENT["objective"], "judge": judge}, "storage": str(tmp_path)}
    asked = questions_of(build(content, "planned"), 10, 0)
    assert asked.calls_per_trial == 16 * 3 * 2, "both orders"
    assert asked.calls == 960
    assert asked.cost is not None
    assert 0 < asked.cost < 960 * (1000 * 2 + 512 * 8) / 1e6
    assert questions_of(build(content, "planned"), None, 0).cost is None


def test_a_judge_without_prices_has_an_unknown_cost(tmp_path: Path) -> None:
    judge = {"kind": "llm", "model": "some-model", "template": "hh"}
    study = build(
        {**CONTENT, "objective": {**CONTENT["objective"], "judge": judge}, "storage": str(tmp_path)}, "planned"
    )
    assert questions_of(study, 10, 0).cost is None
    said = to_rich(assembled(study, (MethodPlan("dpo", 10, 1, 1, 1, None),), "", NOTHING)).renderables[-1]
    assert str(said).endswith("cost unknown without objective.judge.price_per_million_tokens")


def test_calls_and_hours_bound_what_further_seeds_and_the_confirmation_may_take(tmp_path: Path) -> None:
    content = study_with(tmp_path, search={"repeats": {"seeds": 3, "promising_only": True}}).written()
    study = build({**content, "confirm": {"top": 1, "seeds": 2, "prompts": {"count": 100}}}, "planned")
    asked = questions_of(study, 6, 4)
    assert asked.calls == 6 * (3 * 16 + 2 * 16) + 2 * 2 * 100 + 16 + 100, "the opponent answers unseen prompts too"
    methods = tuple(MethodPlan(label, 3, 1, 1, 1, 1.0) for label in ("dpo", "orpo"))
    made = assembled(study, methods, "", NOTHING)
    assert (made.runs, made.device_hours) == (6 * 3 + 4, pytest.approx((6 * 3 + 4) / 3600))


@pytest.mark.parametrize(
    ("resources", "share"),
    [
        ({"zero_stage": 0}, 16.0),
        ({"zero_stage": 1}, 2 + 18 / 2 + 1),
        ({"zero_stage": 2}, 2 + 18 / 2),
        ({"zero_stage": 3}, 18 / 2),
        ({"zero_stage": 2, "offload": True}, 2.0),
    ],
)
def test_states_shrink_with_the_stage(tmp_path: Path, resources: dict[str, Any], share: float) -> None:
    study = study_with(tmp_path, resources=resources)
    device, host = model_states(study, total=10**9, largest=0, trainable=10**9)
    assert device == pytest.approx(share * 1e9)
    assert (host > 0) == bool(resources.get("offload"))
