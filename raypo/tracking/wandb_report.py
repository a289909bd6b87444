"""`raypo report --wandb`: the comparison as a W&B Report and as a saved view of the project.

Both show live runs of W&B, so the search must have been sent there first.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from raypo.errors import StorageError
from raypo.evaluation.goals import metric_of
from raypo.search.results import SearchResults
from raypo.tracking.compare import caption, compare, goals_of
from raypo.tracking.importance import is_log, searched
from raypo.tracking.runs import public_text
from raypo.tracking.tables import headline, to_markdown


def write_wandb_report(results: SearchResults, project: str, entity: str = "") -> tuple[str, str]:
    """Write a Report and a saved view on a search; returns the addresses of both.

    Raises:
        StorageError: the extra `wandb-report` is not installed.
    """
    reports, workspaces, expr = _import()
    report = reports.Report(
        project=project,
        entity=entity,
        title=results.name,
        description=public_text(caption(compare(results))),
        blocks=blocks(reports, expr, results, project, entity),
    )
    report.save()
    view = workspaces.Workspace(
        project=project,
        entity=report.entity,
        name=results.name,
        sections=[workspaces.Section(name="Comparison", panels=panels(reports, results), is_open=True)],
        runset_settings=workspaces.RunsetSettings(filters=[_own(expr, results)], groupby=[expr.Metric("JobType")]),
    )
    view.save()
    return report.url, view.url


def blocks(reports: ModuleType, expr: ModuleType, results: SearchResults, project: str, entity: str) -> list[Any]:
    """Lay out the Report: the table of winners, then the panels over all trials of the search."""
    runs = reports.Runset(project=project, entity=entity, name=results.name, filters=[_own(expr, results)])
    return [
        reports.H1(text="Which method won"),
        reports.MarkdownBlock(text=public_text(to_markdown(headline(compare(results))))),
        reports.H1(text="All trials"),
        reports.PanelGrid(runsets=[runs], panels=panels(reports, results)),
    ]


def panels(reports: ModuleType, results: SearchResults) -> list[Any]:
    """Make the panels: parallel coordinates over the searched hyperparameters, the front, curves, importance."""
    rate, kl = reports.SummaryMetric("win_rate"), reports.SummaryMetric("kl")
    columns = [
        reports.ParallelCoordinatesPlotColumn(metric=reports.Config(name), log=log)
        for name, log in _axes(results).items()
    ]
    curve = {"x": reports.Metric("fraction"), "groupby": None}
    return [
        reports.ParallelCoordinatesPlot(
            title="Hyperparameters and win rate",
            columns=[*columns, reports.ParallelCoordinatesPlotColumn(metric=rate)],
        ),
        reports.ScatterPlot(title="Win rate against KL", x=kl, y=rate),
        *_goals(reports, results),
        reports.LinePlot(title="Win rate over training", y=[reports.Metric("eval/win_rate")], **curve),
        reports.LinePlot(title="KL over training", y=[reports.Metric("eval/kl")], **curve),
        reports.ParameterImportancePlot(with_respect_to="win_rate"),
    ]


def _goals(reports: ModuleType, results: SearchResults) -> list[Any]:
    """Return the first of several goals against each other one, but for win rate against KL."""
    first, *others = (metric_of(goal) for goal in goals_of(results))
    return [
        reports.ScatterPlot(
            title=f"{first.name} against {other.name}",
            x=reports.SummaryMetric(other.key),
            y=reports.SummaryMetric(first.key),
        )
        for other in others
        if (first.name, other.name) != ("win_rate", "kl")
    ]


def _axes(results: SearchResults) -> dict[str, bool]:
    """Return the searched hyperparameters of all methods, and which are read on a logarithmic axis."""
    values: dict[str, list[Any]] = {}
    for method in results.methods:
        for name, found in searched(results, method).items():
            values.setdefault(name, []).extend(found)
    return {name: is_log(found) for name, found in values.items()}


def _own(expr: ModuleType, results: SearchResults) -> Any:
    return expr.Metric("Group") == results.name


def _import() -> tuple[ModuleType, ModuleType, ModuleType]:
    try:
        from wandb_workspaces import expr, workspaces
        from wandb_workspaces.reports import v2
    except ImportError as error:
        raise StorageError(
            "report --wandb: wandb-workspaces is not installed, got no such package; pip install 'raypo[wandb-report]'"
        ) from error
    return v2, workspaces, expr
