"""Commands, nothing else: each reads its arguments, calls one function and prints."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from raypo.errors import RaypoError, StudyError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Search hyperparameters of LLM preference optimisation on Ray.",
)
out = Console(soft_wrap=True)
err = Console(stderr=True)

File = Annotated[Path, typer.Argument(help="study file, such as search_spaces/quickstart.yaml")]
Name = Annotated[str, typer.Argument(help="name of a search")]
Set = Annotated[list[str] | None, typer.Option("--set", help="override a key of the study: a.b=value")]
Json = Annotated[bool, typer.Option("--json", help="print JSON alone")]
Storage = Annotated[str, typer.Option("--storage", help="folder that holds the searches", envvar="RAYPO_STORAGE")]
Address = Annotated[str | None, typer.Option("--address", help="Ray cluster: auto, ray://...; none starts a local one")]
Code = Annotated[bool, typer.Option("--allow-code", help="let the study run Python code that it names by import path")]

DEFAULT_STORAGE = "raypo-searches"


@app.command()
def search(
    file: File,
    set_: Set = None,
    name: Annotated[str | None, typer.Option("--name", help="name of the search; the study's own by default")] = None,
    storage: Annotated[str | None, typer.Option("--storage", envvar="RAYPO_STORAGE", help="in place of the study's")] = None,
    address: Address = None,
    allow_code: Code = False,
    json_: Json = False,
) -> None:
    """Search the methods of a study and say which configuration won."""
    from raypo.search import driver
    from raypo.study import load

    overrides = [*(set_ or []), *([f"storage={storage}"] if storage else [])]
    study = load(file, overrides, allow_code=allow_code)
    _run(driver.create(study, name), study, address, json_)


@app.command()
def resume(name: Name, storage: Storage = DEFAULT_STORAGE, address: Address = None, json_: Json = False) -> None:
    """Go on with a search that was interrupted."""
    from raypo.search import driver

    found = driver.opened(storage, name)
    _run(found, found.study(), address, json_)


@app.command()
def extend(
    name: Name,
    trials: Annotated[int, typer.Option("--trials", min=1, help="trials to add to every method")],
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    json_: Json = False,
) -> None:
    """Add trials to a search and go on with it."""
    from raypo.search import driver

    found = driver.opened(storage, name)
    driver.extend(found, trials)
    _run(found, found.study(), address, json_)


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="names of searches")],
    storage: Storage = DEFAULT_STORAGE,
    format_: Annotated[str, typer.Option("--format", help="table, markdown, csv, json or latex")] = "table",
    json_: Json = False,
) -> None:
    """Show the best configuration of each method."""
    _compare([_results(storage, name) for name in names], "json" if json_ else format_)


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
    _show(as_json(results, driver)) if json_ else _draw(to_rich(results, driver))


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

    results = _results(storage, name)
    best = winner(results.trials, method)
    if best is None:
        raise StudyError(f"--method {method}: no fully trained trial; {name} has {', '.join(results.methods)}")
    copy_model(results.folder, best.name, to)
    out.print(f"{best.name} ({configuration(best.hyperparameters)}) is in {to}")


@app.command()
def methods(name: Annotated[str | None, typer.Argument(help="one method in full")] = None, json_: Json = False) -> None:
    """List every method: equation, hyperparameters, needs, paper."""
    from raypo import catalogue

    if json_:
        _show(catalogue.as_json(name))
    else:
        _draw(catalogue.to_rich(name))


def _run(found: Any, study: Any, address: str | None, json_: bool) -> None:
    from raypo.search import driver
    from raypo.search.preflight import check
    from raypo.search.reading import read_results
    from raypo.terminal import Terminal
    from raypo.tracking.watching import watchers

    terminal = Terminal(out, quiet=json_)
    try:
        check(study, terminal.say)
        driver.run(found, study, watchers(found, study, terminal, terminal.say), address=address)
    except KeyboardInterrupt:
        terminal.close()
        err.print(f"stopped; raypo resume {found.name} goes on where it was")
        raise typer.Exit(130) from None
    finally:
        terminal.close()
    _compare([read_results(found, study)], "json" if json_ else "table")


def _results(storage: str, name: str) -> Any:
    from raypo.search.driver import opened
    from raypo.search.reading import read_results

    return read_results(opened(storage, name))


def _compare(results: list[Any], style: str) -> None:
    from raypo.tracking.compare import compare as compared
    from raypo.tracking.tables import render, table, to_rich

    comparisons = [compared(result) for result in results]
    if style == "table":
        _draw(to_rich(table(comparisons)))
    else:
        print(render(comparisons, style))


def _show(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _draw(drawing: Any) -> None:
    """Tables keep their shape in files and pipes, where nothing says how wide a line may be."""
    (out if out.is_terminal else Console(width=180)).print(drawing)


def main() -> None:
    """Entry point: a user's mistake is one line a problem and exit code 2, never a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        app()
    except RaypoError as error:
        err.print(str(error), highlight=False, markup=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, ValueError) else 1)
