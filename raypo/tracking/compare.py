"""Which configuration of each method won, by how much, and how sure that is.

Only fully trained trials can win: a pruned trial's number comes from an earlier point of its schedule, where a large
learning rate can look good before it over-optimises. Which of them does, `raypo.search.ranking` decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from raypo.errors import StorageError
from raypo.evaluation.goals import as_measured, metric_of
from raypo.evaluation.metrics import Metric
from raypo.search import ranking
from raypo.search.results import SearchResults, TrialResult, Value
from raypo.tracking.measure import measure_of

COUNTED = ("finished", "pruned", "failed", "diverged")
FIGURES = ("win_rate", "ci_low", "ci_high", "n", "kl", "length")


@dataclass(frozen=True)
class Confirmation:
    """How a quoted figure came about: seeds that were trained anew, the spread of their win rates, and the search's own
    figure, which is optimistic for being the best of many."""

    seeds: int
    spread: float
    search_win_rate: float
    failed: Mapping[str, str] = field(default_factory=dict)
    """Why which seeds came to no figure, by the names they ran under."""


@dataclass(frozen=True)
class MethodRow:
    """The best configuration of one method; the figures are None when no trial of it was fully trained."""

    method: str
    trial: str | None
    hyperparameters: Mapping[str, Value] | None
    win_rate: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None
    kl: float | None
    length: float | None
    finished: int
    pruned: int
    failed: int
    diverged: int
    confirmation: Confirmation | None = None
    objective: float | None = None
    """What the winner was chosen by, where that is not the win rate."""

    @property
    def confirmed(self) -> bool:
        """Whether the figures were measured on unseen prompts; a confirmation of which every seed failed has none."""
        return self.confirmation is not None and self.confirmation.seeds > 0


@dataclass(frozen=True)
class Unbeaten:
    """A configuration that no other of its method beats in everything that a search of several objectives looks at.

    `values` holds the metrics by name, each as it was measured.
    """

    method: str
    trial: str
    hyperparameters: Mapping[str, Value]
    n: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """The headline of one search: a row per method, and what the win rate was measured with.

    `goals` is what was maximised; with more than one, `front` has the configurations that no other beats.
    """

    search: str
    rows: tuple[MethodRow, ...]
    confirmed: bool
    judge: str
    opponent: str
    goals: tuple[str, ...] = ("win_rate",)
    front: tuple[Unbeaten, ...] = ()
    measure: Mapping[str, str] = field(default_factory=dict)
    """What the figures were measured with, by key of the study."""

    @property
    def metric(self) -> Metric:
        """What winners are chosen by."""
        return metric_of(self.goals[0])

    def chosen_by(self, row: MethodRow) -> float | None:
        """The figure of `metric` that a row's winner was chosen by, as it was measured."""
        return row.win_rate if row.objective is None else as_measured(row.objective, self.goals[0])


def fully_trained(trial: TrialResult) -> bool:
    """Whether a trial may win: finished, trained to the end, and with a number to show for it."""
    return trial.standing is not None


def quoted(trial: TrialResult) -> dict[str, Any]:
    """The figures that a trial is quoted with: its confirmation's, else the search's own (optimistic) ones."""
    last = trial.estimate
    if last is None:
        raise StorageError(f"{trial.name}: has no win rate, got an empty history; wait for its first evaluation")
    source = {**asdict(last), **(trial.confirmed or {})}
    return {"n": int(source["n"])} | {name: float(source[name]) for name in FIGURES if name != "n"}


def winner(trials: Sequence[TrialResult], method: str) -> TrialResult | None:
    """Return a method's best fully trained trial by the (first) objective, or None."""
    return ranking.winner(trial for trial in trials if trial.method == method)


def compare(results: SearchResults) -> Comparison:
    """Compare the best configuration of every method of a search, in the order of the study file."""
    rows = tuple(_row(results, method) for method in results.methods)
    best = [winner(results.trials, method) for method in results.methods]
    objective = results.study.get("objective", {})
    goals = goals_of(results)
    return Comparison(
        search=results.name,
        rows=rows,
        confirmed=any(best) and all(trial.confirmed is not None for trial in best if trial is not None),
        judge=judge_name(objective.get("judge")),
        opponent=str(objective.get("opponent", "start")),
        goals=goals,
        front=tuple(found for method in results.methods for found in unbeaten(results, method)) if goals[1:] else (),
        measure=measure_of(results),
    )


def goals_of(results: SearchResults) -> tuple[str, ...]:
    """What a search maximises: its metric, or the several of a Pareto search; a minus marks the negative."""
    objective = results.study.get("objective", {})
    return tuple(objective.get("pareto") or (objective.get("metric", "win_rate"),))


def maximised(results: SearchResults) -> Metric:
    """What the winners of a search are chosen by."""
    return metric_of(goals_of(results)[0])


def unbeaten(results: SearchResults, method: str) -> list[Unbeaten]:
    """The fully trained trials of a method that no other beats, the best by the first objective first."""
    able = ranking.contenders(trial for trial in results.trials if trial.method == method)
    return [_unbeaten(trial, goals_of(results)) for trial in able]


def _unbeaten(trial: TrialResult, goals: Sequence[str]) -> Unbeaten:
    assert trial.standing is not None, "contenders have one"
    told = zip(goals, trial.standing.objectives, strict=True)
    values = {metric_of(goal).name: as_measured(value, goal) for goal, value in told}
    return Unbeaten(trial.method, trial.name, dict(trial.hyperparameters), int(quoted(trial)["n"]), values)


def measured(trial: TrialResult) -> dict[str, Any]:
    """Every figure of a trial's latest evaluation by name."""
    last = trial.estimate
    return {} if last is None else {**last.metrics, **{name: getattr(last, name) for name in FIGURES}}


def judge_name(judge: Any) -> str:
    """Name a study file's judge in a few words: its kind and what it is made of."""
    if not isinstance(judge, Mapping):
        return str(judge or "unnamed judge")
    found = next(
        ((key, str(judge[key])) for key in ("model", "path", "function", "source") if judge.get(key)), ("", "")
    )
    made_of = Path(found[1]).name if found[0] in ("path", "source") else found[1]
    return " ".join(word for word in (str(judge.get("kind", "")).replace("_", " "), made_of) if word)


def judged_by(comparison: Comparison) -> str:
    """Say what the win rates of a comparison were measured against, and by whom."""
    return f"Win rate against {comparison.opponent} by judge {comparison.judge}, 95 % interval"


def caption(comparison: Comparison) -> str:
    """Say what the win rates of a comparison mean: judge, opponent, and whether they were confirmed."""
    basis = _basis(comparison)
    chosen = ""
    if comparison.goals != ("win_rate",):
        first, *others = comparison.goals
        several = f", the first of {', '.join(comparison.goals)}" if others else ""
        seen = ", on the held-out pairs of the search" if first == "reward_accuracy" else ""
        chosen = f" Winners by {first}{seen}{several}."
    return f"{judged_by(comparison)}; {basis}.{chosen}"


def _basis(comparison: Comparison) -> str:
    won = [row for row in comparison.rows if row.trial is not None]
    searched = [row.method for row in won if not row.confirmed]
    if len(searched) == len(won):
        return "search estimate, optimistic"
    return "confirmed on unseen prompts" + (f", but for {', '.join(searched)}, optimistic" if searched else "")


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as plain data, in the shape that `raypo compare --json` prints."""
    rows = [
        {name: v for name, v in asdict(row).items() if name not in ("confirmation", "objective") or v is not None}
        for row in comparison.rows
    ]
    found: dict[str, Any] = {"search": comparison.search, "methods": rows}
    if comparison.goals != ("win_rate",):
        found["objective"] = list(comparison.goals)
    if comparison.goals[1:]:
        found["front"] = [asdict(point) for point in comparison.front]
    return found


def _row(results: SearchResults, method: str) -> MethodRow:
    states = Counter(str(trial.state) for trial in results.trials if trial.method == method)
    best = winner(results.trials, method)
    figures: dict[str, Any] = quoted(best) if best else dict.fromkeys(FIGURES)
    return MethodRow(
        method=method,
        trial=best.name if best else None,
        hyperparameters=dict(best.hyperparameters) if best else None,
        **figures,
        **{state: states[state] for state in COUNTED},
        confirmation=_confirmation(best) if best else None,
        objective=best.standing.chosen_by if best and best.standing and goals_of(results)[0] != "win_rate" else None,
    )


def _confirmation(trial: TrialResult) -> Confirmation | None:
    found, last = trial.confirmation, trial.estimate
    if found is None or last is None:
        return None
    return Confirmation(
        int(found.get("seeds", 1)), float(found.get("spread", 0.0)), last.win_rate, dict(found.get("failed", {}))
    )
