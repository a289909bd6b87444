"""A plan as a terminal table and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from raypo.search.planning import Plan
from raypo.tracking.tables import number


def as_json(plan: Plan) -> dict[str, Any]:
    """What `raypo plan --json` prints."""
    found = asdict(plan)
    return {**found, "memory": {**found["memory"], "total": plan.memory.total}}


def to_rich(plan: Plan) -> Group:
    """A row per method, then what all of it needs."""
    drawn = Table(title=plan.name, box=box.SIMPLE_HEAD)
    for column in ("method", "trials", "examples", "steps", "tokens", "device-s each"):
        drawn.add_column(column, justify="left" if column == "method" else "right")
    for m in plan.methods:
        cost = number(m.device_s)
        drawn.add_row(m.label, _count(m.trials), _count(m.examples), _count(m.steps), _count(m.tokens), cost)
    return Group(drawn, *_sentences(plan))


def _sentences(plan: Plan) -> list[str]:
    memory, asked = plan.memory, plan.questions
    runs = "as many trainings as the budget holds" if plan.runs is None else f"{_count(plan.runs)} trainings"
    time = "time unknown"
    if plan.hours is not None:
        time = f"{_hours(plan.hours)}, {plan.device_hours:.2f} device-hours (by {plan.basis})"
    points = "the end" if asked.evaluations_per_trial == 1 else f"{asked.evaluations_per_trial} points"
    host = f", {_size(memory.host)} in main memory" if memory.host else ""
    calls = "as many calls as trials need" if asked.calls is None else f"{_count(asked.calls)} calls"
    cost = "" if asked.cost is None else f", at most about {asked.cost:.2f} in the currency of its prices"
    if asked.judge == "llm" and asked.cost is None and asked.calls is not None:
        cost = ", cost unknown without objective.judge.price_per_million_tokens"
    return [
        f"time     {runs}, {time}",
        f"memory   {_size(memory.total)} a worker, {_count(memory.parameters)} parameters: {_size(memory.device)} "
        f"weights, gradients and optimizer (by DeepSpeed's estimators), {_size(memory.start_model)} start model, about "
        f"{_size(memory.activations)} activations (rough){host}",
        f"judge    {asked.judge}: {calls}, {asked.prompts} prompts at {points} of each schedule{cost}",
    ]


def _count(value: int | None) -> str:
    return "budget" if value is None else f"{value:,}"


def _size(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 1 else f"{gib * 1024:.1f} MiB"


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
