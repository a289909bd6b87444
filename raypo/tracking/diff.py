"""What differs between two trials of a search, and what it did to the win rate."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from raypo.errors import StorageError
from raypo.search.results import Evaluation, SearchResults, TrialResult
from raypo.tracking.tables import Table, number, plain, signed

Cells = tuple[str, str, str, str]


def find(results: SearchResults, name: str) -> TrialResult:
    """Return the trial of that name; refuses an unknown one and names the trials there are."""
    for trial in results.trials:
        if trial.name == name:
            return trial
    names = ", ".join(trial.name for trial in results.trials[:20]) or "none yet"
    raise StorageError(f"{results.name}: no such trial, got {name!r}; trials: {names}")


def diff(results: SearchResults, first: str, second: str) -> Table:
    """Tabulate two trials: the settings that differ, then every figure with its change at the latest shared point."""
    left, right = find(results, first), find(results, second)
    rows = [*_settings(left, right), *_outcome(left, right)]
    note = f"{_basis(_shared(left, right))}. Equal settings are left out."
    return Table(f"{left.name} and {right.name}", ("", left.name, right.name, "change"), tuple(rows), note)


def as_json(results: SearchResults, first: str, second: str) -> dict[str, Any]:
    """The same as plain data, in pairs of the first trial's and the second's; what one has not is null."""
    both = find(results, first), find(results, second)
    at = _shared(*both)
    return {
        "trials": [trial.name for trial in both],
        "settings": {name: list(pair) for name, pair in _differing(*both).items()},
        "state": [trial.state for trial in both],
        "reason": [trial.reason for trial in both],
        "cost_s": [trial.cost_s for trial in both],
        "at": None if at is None else [asdict(point) for point in at],
    }


def _basis(at: tuple[Evaluation, Evaluation] | None) -> str:
    if at is None:
        return "No evaluation in common"
    a, b = at
    judged = (
        "the same prompts were judged for both" if a.n == b.n else f"{a.n} and {b.n} of the same prompts were judged"
    )
    return f"Figures at {a.fraction:.0%} of the schedule; {judged}"


def _differing(left: TrialResult, right: TrialResult) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, None where a trial has none of the name."""
    a: dict[str, Any] = {"method": left.method, **left.hyperparameters, "seed": left.seed}
    b: dict[str, Any] = {"method": right.method, **right.hyperparameters, "seed": right.seed}
    return {name: (a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)}


def _settings(left: TrialResult, right: TrialResult) -> list[Cells]:
    return [
        (name, _shown(a), _shown(b), "" if name == "seed" else _ratio(a, b))
        for name, (a, b) in _differing(left, right).items()
    ]


def _shown(value: Any) -> str:
    return "–" if value is None else plain(value)


def _ratio(a: Any, b: Any) -> str:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (a, b))
    return f"× {b / a:.3g}" if numbers and a and b / a > 0 else ""


def _shared(left: TrialResult, right: TrialResult) -> tuple[Evaluation, Evaluation] | None:
    """Return both trials' evaluations at the latest fraction of the schedule that both reached."""
    theirs = {round(point.fraction, 6): point for point in right.history}
    both = [(point, theirs[round(point.fraction, 6)]) for point in left.history if round(point.fraction, 6) in theirs]
    return both[-1] if both else None


def _outcome(left: TrialResult, right: TrialResult) -> list[Cells]:
    rows: list[Cells] = [("state", left.state, right.state, "")]
    if left.reason or right.reason:
        rows.append(("reason", left.reason or "–", right.reason or "–", ""))
    at = _shared(left, right)
    if at is not None:
        a, b = at
        rows.append(_figure("win rate %", a.win_rate, b.win_rate, 1, 100))
        rows.append(("95 % interval", _interval(a), _interval(b), ""))
        rows.append(_figure("KL", a.kl, b.kl, 2))
        rows.append(_figure("length", a.length, b.length, 1))
        rows += [_figure(name, a.metrics[name], b.metrics[name], 4) for name in a.metrics if name in b.metrics]
    return [*rows, _figure("cost, device-s", left.cost_s, right.cost_s, 0)]


def _interval(point: Evaluation) -> str:
    return f"{number(point.ci_low, scale=100)} to {number(point.ci_high, scale=100)}"


def _figure(name: str, a: float, b: float, digits: int, scale: float = 1.0) -> Cells:
    return name, number(a, digits, scale), number(b, digits, scale), signed((b - a) * scale, digits)
