"""What a study asks of its judge, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

from raypo.evaluation.judges.templates import TEMPLATES
from raypo.study import Study

CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Questions:
    """Calls of the judge: one comparison asks for both orders, or for a mark of each answer.

    `calls` and `cost` are None where the budget decides how many trials there are, or where there is no price. Marks
    are kept, so an opponent's answers are marked once; `calls` takes every trial for one that gets its further seeds.
    `cost` is an upper estimate in the currency of the prices.
    """

    judge: str
    prompts: int
    evaluations_per_trial: int
    calls_per_trial: int
    calls: int | None
    cost: float | None


def questions_of(study: Study, trials: int | None, again: int) -> Questions:
    """Count the questions of so many trials with their further seeds, and of `again` trainings for the confirmation."""
    wanted = study.objective
    once, rates = _calls_per_comparison(study)
    at = len(wanted.at)
    per_trial = wanted.prompts.count * at * once
    calls = None
    if trials is not None:
        unseen = (study.confirm.prompts or wanted.prompts).count if study.confirm.top else 0
        further = (study.search.repeats.seeds - 1) * wanted.prompts.count * once
        calls = trials * (per_trial + further) + again * unseen * once
        calls += wanted.prompts.count + unseen if rates else 0
    return Questions(wanted.judge.kind, wanted.prompts.count, at, per_trial, calls, _cost(study, calls))


def _calls_per_comparison(study: Study) -> tuple[int, bool]:
    """(calls for one answer under test, whether each answer gets a mark of its own)."""
    judge = study.objective.judge
    if judge.kind == "llm" and judge.template in TEMPLATES:
        return (1, True) if TEMPLATES[str(judge.template)].single else (2, False)
    return (2, False) if judge.kind in ("llm", "pairrm") else (1, True)


def _cost(study: Study, calls: int | None) -> float | None:
    judge = study.objective.judge
    if calls is None or judge.kind != "llm" or not any(judge.price_per_million_tokens):
        return None
    template = TEMPLATES.get(str(judge.template))
    asked = 0 if template is None else len(template.text) // CHARACTERS_PER_TOKEN
    answers = 1 if template is not None and template.single else 2
    room = study.data.max_prompt_length or study.data.max_length
    sent = asked + room + answers * study.objective.sampling.max_new_tokens
    said = 512 if template is None else int(template.decoding.get("max_tokens", 512))
    low, high = judge.price_per_million_tokens
    return calls * (sent * low + said * high) / 1e6
