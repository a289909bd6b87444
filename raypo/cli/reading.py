"""Commands that read a search: compare, status, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raypo.cli.common import DEFAULT_STORAGE, Json, Name, Storage, app, draw, out, print_comparison, results_of, show
from raypo.errors import StudyError


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="names of searches")],
    storage: Storage = DEFAULT_STORAGE,
    format_: Annotated[str, typer.Option("--format", help="table, markdown, csv, json or latex")] = "table",
    json_: Json = False,
) -> None:
    """Show the best configuration of each method."""
    print_comparison([results_of(storage, name) for name in names], "json" if json_ else format_)


@app.command()
def status(name: Name, storage: Storage = DEFAULT_STORAGE, json_: Json = False) -> None:
    """Show every trial of a search and its state."""
    from raypo.search.driver import opened
    from raypo.search.lease import holder
    from raypo.search.reading import read_results
    from raypo.tracking.status import as_json, to_rich

    found = opened(storage, name)
    results = read_results(found)
    driver = holder(found.path)
    show(as_json(results, driver)) if json_ else draw(to_rich(results, driver))


@app.command()
def export(
    name: Name,
    method: Annotated[str, typer.Option("--method", help="whose best model")],
    to: Annotated[Path, typer.Option("--to", help="folder to write")],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Write the best model of a method as a Hugging Face folder."""
    from raypo.search.exporting import copy_model
    from raypo.tracking.compare import winner
    from raypo.tracking.tables import configuration

    results = results_of(storage, name)
    best = winner(results.trials, method)
    if best is None:
        raise StudyError(f"--method {method}: no fully trained trial; {name} has {', '.join(results.methods)}")
    copy_model(results.folder, best.name, to)
    out.print(f"{best.name} ({configuration(best.hyperparameters)}) is in {to}")
