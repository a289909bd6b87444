"""Commands that read a search: compare, status, show, diff, report, sync, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raypo.cli.common import (
    DEFAULT_STORAGE,
    Json,
    Name,
    Storage,
    app,
    draw,
    out,
    print_comparison,
    print_json,
    results_of,
)
from raypo.errors import StudyError


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="names of searches")],
    storage: Storage = DEFAULT_STORAGE,
    against: Annotated[
        str | None, typer.Option("--against", help="papers, or a file of published figures, to print beside ours")
    ] = None,
    benchmarks: Annotated[bool, typer.Option("--benchmarks", help="the winners' benchmarks in their place")] = False,
    format_: Annotated[str, typer.Option("--format", help="table, markdown, csv, json or latex")] = "table",
    json_: Json = False,
) -> None:
    """Show the best configuration of each method."""
    results, style = [results_of(storage, name) for name in names], "json" if json_ else format_
    if benchmarks:
        from raypo.tracking import benchmarks as shown
        from raypo.tracking.tables import to_rich

        draw(to_rich(shown.benchmark_table(results))) if style == "table" else print(shown.render(results, style))
        return
    if against is None:
        print_comparison(results, style)
        return
    from raypo.tracking.published import beside, find, read_published, render
    from raypo.tracking.tables import to_rich

    found = beside(results, read_published(find(against)))
    draw(to_rich(found)) if style == "table" else print(render(found, style))


@app.command()
def status(
    name: Name,
    storage: Storage = DEFAULT_STORAGE,
    watch: Annotated[bool, typer.Option("--watch", help="follow it until it ends")] = False,
    json_: Json = False,
) -> None:
    """Show every trial of a search and its state."""
    from raypo.tracking.status import as_json, read, to_rich

    if watch and json_:
        raise StudyError("--watch: shows a table; without it, --json prints one state")
    if not watch:
        now = read(storage, name)
        print_json(as_json(*now)) if json_ else draw(to_rich(*now))
        return
    from raypo.tracking.status import follow

    follow(storage, name, out)


@app.command()
def export(
    name: Name,
    method: Annotated[str, typer.Option("--method", help="whose best model")],
    to: Annotated[Path, typer.Option("--to", help="folder to write")],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Write the best model of a method as a Hugging Face folder."""
    from raypo.search.exporting import copy_model
    from raypo.search.searches import opened
    from raypo.tracking.compare import winner
    from raypo.tracking.tables import configuration

    results = results_of(storage, name)
    best = winner(results.trials, method)
    if best is None:
        raise StudyError(f"--method {method}: no fully trained trial; {name} has {', '.join(results.methods)}")
    search = opened(storage, name)
    copy_model(search.copy, search.study(), best.name, to)
    out.print(f"{best.name} ({configuration(best.hyperparameters)}) is in {to}")


@app.command()
def show(
    name: Name,
    trial: Annotated[str, typer.Argument(help="name of a trial, such as dpo-0007")],
    count: Annotated[int, typer.Option("--count", min=1, help="answers to show")] = 5,
    storage: Storage = DEFAULT_STORAGE,
    json_: Json = False,
) -> None:
    """Show prompts, a trial's answers beside the opponent's, and the verdicts."""
    from raypo.tracking.diff import find
    from raypo.tracking.showing import as_json, last_answers, to_rich

    rows = last_answers(find(results_of(storage, name), trial))[:count]
    print_json(as_json(rows)) if json_ else draw(to_rich(trial, rows))


@app.command()
def diff(
    name: Name,
    first: Annotated[str, typer.Argument(help="a trial")],
    second: Annotated[str, typer.Argument(help="another trial")],
    storage: Storage = DEFAULT_STORAGE,
    json_: Json = False,
) -> None:
    """Show what differs between two trials and what it did."""
    from raypo.tracking import diff as differences
    from raypo.tracking.tables import to_rich

    results = results_of(storage, name)
    if json_:
        print_json(differences.as_json(results, first, second))
    else:
        draw(to_rich(differences.diff(results, first, second)))


@app.command()
def report(
    name: Name,
    storage: Storage = DEFAULT_STORAGE,
    wandb: Annotated[bool, typer.Option("--wandb", help="write a W&B Report and a saved view instead")] = False,
) -> None:
    """Write the report of a search as one HTML page."""
    results = results_of(storage, name)
    if wandb:
        from raypo.tracking.wandb_report import write_wandb_report

        for address in write_wandb_report(results, str(results.study["tracking"]["project"])):
            out.print(address)
        return
    from raypo.tracking.report import write_report

    out.print(write_report(results))


@app.command()
def sync(
    name: Name,
    storage: Storage = DEFAULT_STORAGE,
    whole: Annotated[bool, typer.Option("--whole", help="everything anew, not only what is missing")] = False,
    mode: Annotated[str, typer.Option("--mode", help="auto, online or offline")] = "auto",
) -> None:
    """Send a search from its record into W&B."""
    from raypo.search.folders import CURSOR
    from raypo.search.searches import opened
    from raypo.tracking import lineage
    from raypo.tracking.wandb import replay

    found, results = opened(storage, name), results_of(storage, name)
    found.pull_models(*(trial.name for trial in lineage.sent(results)))
    sent = replay(results, mode, str(results.study["tracking"]["project"]), whole=whole, say=out.print)
    found.copy.push(found.path / CURSOR)
    counts = f"{len(sent.sent)} runs sent, {len(sent.already)} were there, {len(sent.unsent)} missing"
    out.print(f"W&B ({sent.mode}): {counts}")
