"""`raypo report`: one page that holds a whole search and needs nothing else, not even a network."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from plotly.offline import get_plotlyjs

from raypo.search.results import SearchResults
from raypo.tracking import charts
from raypo.tracking.again import command
from raypo.tracking.compare import caption, compare, winner
from raypo.tracking.fronts import fronts
from raypo.tracking.importance import searched
from raypo.tracking.page import chart, grid, section, table, text
from raypo.tracking.parallel import parallel
from raypo.tracking.samples import samples
from raypo.tracking.significance import Pair, basis, significance, verdict
from raypo.tracking.tables import Table, configuration, front, headline, number, signed
from raypo.tracking.usage import drawings

CURVES = ("loss", "rewards/margins", "rewards/accuracies", "grad_norm")


def write_report(results: SearchResults, path: Path | None = None) -> Path:
    """Write the report of a search as one HTML file, by default `report.html` in its folder; returns its path."""
    path = path or results.folder / "report.html"
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(page(results), encoding="utf-8")
    os.replace(draft, path)
    return path


def page(results: SearchResults) -> str:
    """Return the report of a search as HTML."""
    template = files("raypo.tracking").joinpath("report.html").read_text(encoding="utf-8")
    sections = {name: write(results) for name, write in SECTIONS.items()}
    parts = {
        "title": text(f"{results.name}: preference optimisation compared"),
        "header": _header(results, [name for name, written in sections.items() if written]),
        "main": "".join(sections.values()),
        "footer": text(
            "Made by raypo. " + ", ".join(f"{name} {version}" for name, version in results.versions.items())
        ),
        "plotly": get_plotlyjs(),
    }
    # One pass, so that braces within a model's answer stay what they are.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place.group(1)], template)


def _header(results: SearchResults, sections: Sequence[str]) -> str:
    comparison = compare(results)
    states = [trial.state for trial in results.trials]
    facts = {
        "methods": str(len(results.methods)),
        "trials": str(len(states)),
        "fully trained": str(states.count("finished")),
        "device-hours": number(sum(trial.cost_s for trial in results.trials) / 3600, 2),
        "model": _model(results),
    }
    cells = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in facts.items())
    names = {identity: identity.replace("_", " ").capitalize() for identity in sections}
    links = "".join(f'<a href="#{identity}">{text(name)}</a>' for identity, name in names.items())
    answer = verdict(comparison, significance(results))
    return (
        f'<h1>{text(results.name)}</h1><p>{text(caption(comparison))}</p><p class="answer">{text(answer)}</p>'
        f'<dl class="facts">{cells}</dl><nav>{links}</nav>'
    )


def _model(results: SearchResults) -> str:
    model = results.study.get("model", {})
    return "made from text" if model.get("build") else Path(str(model.get("path") or "–")).name


def _winners(results: SearchResults) -> str:
    lead = "The best fully trained configuration of each method. Trials that were pruned or diverged cannot win."
    comparison = compare(results)
    picture = chart(charts.forest(results), "win rate of each method's winner with its interval")
    return section(
        "winners", "Which method won", lead, picture, table(replace(headline(comparison), caption="")), _front(results)
    )


def _front(results: SearchResults) -> str:
    comparison = compare(results)
    if not comparison.front:
        return ""
    first = comparison.goals[0].removeprefix("-")
    drawn = [chart(found, f"{first} against {name} of all trials, with each front") for name, found in fronts(results)]
    said = '<p class="note">Filled: the front of each method, which the table lists. Open: all others.</p>'
    return f"<h3>The front</h3>{said}{grid(drawn, 'pair')}{table(front(comparison))}"


def _differences(results: SearchResults) -> str:
    lead = "Row minus column, in points of win rate, on the prompts that both winners answered."
    note = (
        "Each cell: difference, its own 95 % interval, and a p-value that holds for all pairs together (Holm); "
        f"coloured where it is below 0.05. {basis(compare(results))}"
    )
    pairs = {(pair.first, pair.second): pair for pair in significance(results)}
    if not pairs:
        return ""
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    head = "<th></th>" + "".join(f'<th class="n">{text(name)}</th>' for name in names)
    rows = "".join(
        f'<tr><td class="w">{text(row)}</td>' + "".join(_cell(pairs, row, column) for column in names) + "</tr>"
        for row in names
    )
    body = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return section("differences", "Are the differences real?", lead, body, f'<p class="note">{text(note)}</p>')


def _cell(pairs: dict[tuple[str, str], Pair], row: str, column: str) -> str:
    pair = pairs.get((row, column)) or pairs.get((column, row))
    if pair is None:
        return '<td class="n">·</td>'
    sign = 1 if pair.first == row else -1
    ends = sorted((100 * sign * pair.ci_low, 100 * sign * pair.ci_high))
    kind = ("better" if sign * pair.difference > 0 else "worse") if pair.certain else ""
    small = f"{signed(ends[0])} to {signed(ends[1])}<br>p = {pair.p_value:.2g}"
    return f'<td class="n {kind}">{signed(100 * sign * pair.difference)}<small>{small}</small></td>'


def _hyperparameters(results: SearchResults) -> str:
    lead = "Every fully trained trial; the winner is filled. A win rate has its interval, and a dotted line at a tie."
    parts = []
    for method in results.methods:
        slices = [chart(charts.slice_of(results, method, n), f"{method}: {n}") for n in searched(results, method)]
        lines = chart(parallel(results, method), f"{method}: all trials in parallel coordinates")
        if any(slices):
            parts.append(f"<h3>{text(method)}</h3>" + grid([*slices, lines]))
    bars = chart(charts.importance_bars(results), "importance of each hyperparameter by method")
    if bars:
        note = (
            f"PED-ANOVA: which values set the best trials by {compare(results).metric.title} apart from the rest. With "
            "few trials, a hint and no more. "
            "What only some trials have, because of a condition, is not weighed."
        )
        parts.append(f"<h3>What mattered</h3>{bars}" + f'<p class="note">{text(note)}</p>')
    return section("hyperparameters", "Win rate against each hyperparameter", lead, *parts)


def _training(results: SearchResults) -> str:
    lead = (
        "First, what a win rate costs in distance from the reference; then the way there, where a line that turns down "
        "has been optimised too far; then the winners' curves."
    )
    pictures = [
        chart(charts.front(results), "win rate against KL of all trials, with the front"),
        chart(charts.over_optimisation(results), "win rate against KL over training"),
    ]
    curves = [chart(charts.learning(results, metric), f"{metric} of the winners") for metric in CURVES]
    return section(
        "training",
        "Training and over-optimisation",
        lead,
        grid(pictures, "pair"),
        grid([c for c in curves if c], "pair"),
    )


def _answers(results: SearchResults) -> str:
    return section("answers", "Answers side by side", "What the winners say to the same prompts.", samples(results))


def _trouble(results: SearchResults) -> str:
    shown = [trial for trial in results.trials if trial.state in ("failed", "diverged", "pruned", "stopped")]
    order = {"failed": 0, "diverged": 1, "stopped": 2, "pruned": 3}
    rows = tuple(
        (t.name, t.state, t.reason or "–", configuration(t.hyperparameters), f"{t.fraction:.0%}")
        for t in sorted(shown, key=lambda trial: order[trial.state])
    )
    columns = ("trial", "ended", "why", "configuration", "trained")
    lead = "Trials that did not reach the end of their schedule. None of them can win, and none is told as a low value."
    body = table(Table("", columns, rows, "", words=4)) if rows else ""
    return section("trouble", "Failures and divergences", lead, body)


def _cost(results: SearchResults) -> str:
    rows = []
    for method in results.methods:
        own = [trial for trial in results.trials if trial.method == method]
        hours, longest = sum(trial.cost_s for trial in own) / 3600, max((trial.cost_s for trial in own), default=0.0)
        rows.append((method, str(len(own)), number(hours, 2), number(longest)))
    columns = ("method", "trials", "device-hours", "longest trial, device-s")
    picture = chart(charts.budget(results), "the best so far against device-hours")
    lead = "What each method was given, and what it made of it. Methods compare fairly where their budgets are alike."
    used = [chart(drawn, f"{name} of each slot over time") for name, drawn in drawings(results).items()]
    shown = ["<h3>What the slots used</h3>" + grid(used, "pair")] if used else []
    return section("cost", "Cost", lead, table(Table("", columns, tuple(rows), "")), picture, *shown)


def _again(results: SearchResults) -> str:
    best = [winner(results.trials, method) for method in results.methods]
    lines = [command(results, trial) for trial in best if trial is not None]
    exports = [f"raypo export {results.name} --method {trial.method} --to {trial.method}" for trial in best if trial]
    lead = "Each command trains one winner's configuration afresh; the last ones copy the trained models."
    body = f"<pre>{text(chr(10).join([*lines, '', *exports]))}</pre>" if lines else ""
    return section("run_again", "Run a winner again", lead, body)


SECTIONS = {
    "winners": _winners,
    "differences": _differences,
    "hyperparameters": _hyperparameters,
    "training": _training,
    "answers": _answers,
    "trouble": _trouble,
    "cost": _cost,
    "run_again": _again,
}
"""The sections of the page by the names that its links have; those without content are left out."""
