"""What all commands share: the app, the consoles, the names of common arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from raypo.errors import StorageError
from raypo.json import dumps

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Search hyperparameters of LLM preference optimisation on Ray.",
)
out = Console(soft_wrap=True, markup=False)  # brackets of a model's answer or of an error are no markup
err = Console(stderr=True, markup=False)

File = Annotated[Path, typer.Argument(help="study file, such as search_spaces/quickstart.yaml")]
Name = Annotated[str, typer.Argument(help="name of a search")]
Set = Annotated[list[str] | None, typer.Option("--set", help="override a key of the study: a.b=value")]
With = Annotated[
    list[Path] | None, typer.Option("--with", help="file of overrides, `a.b: value`, applied before --set")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON alone")]
Storage = Annotated[
    str,
    typer.Option("--storage", help="folder, or s3://bucket/prefix, that holds the searches", envvar="RAYPO_STORAGE"),
]
OwnStorage = Annotated[
    str | None, typer.Option("--storage", help="in place of the study's storage", envvar="RAYPO_STORAGE")
]
Address = Annotated[
    str | None, typer.Option("--address", help="Ray cluster: auto, or HOST:PORT of its head; none starts a local one")
]
Code = Annotated[bool, typer.Option("--allow-code", help="let the study run Python code that it names by import path")]

DEFAULT_STORAGE = "raypo-searches"
ANSWER_S = 20.0
"""How long a command waits for the driver's answer."""


def print_json(value: Any) -> None:
    """Print JSON."""
    print(dumps(value, indent=2))


def draw(drawing: Any) -> None:
    """Tables keep their shape in files and pipes, where nothing says how wide a line may be."""
    (out if out.is_terminal else Console(width=180, markup=False)).print(drawing)


def results_of(storage: str, name: str) -> Any:
    """What a search found so far."""
    from raypo.search.reading import read_results
    from raypo.search.searches import opened

    found = opened(storage, name)
    found.pull_trials()
    return read_results(found)


def print_comparison(results: list[Any], style: str) -> None:
    """The best configuration per method, of one search or of several side by side."""
    from raypo.tracking.compare import compare
    from raypo.tracking.tables import render, tables, to_rich

    comparisons = [compare(result) for result in results]
    if style == "table":
        for content in tables(comparisons):
            draw(to_rich(content))
    else:
        print(render(comparisons, style))


def _leave_for_later(found: Any, kind: Any, arguments: dict[str, Any]) -> Any:
    """Put a command into the ledger of a search that rests, where a crash may have torn the last line."""
    from raypo.search.commands import Commands
    from raypo.search.journal import mend
    from raypo.search.lease import lease

    with lease(found.copy, found.name):
        if mended := mend(found.journal):
            err.print(mended)
        command = Commands(found.ledger).send(kind, **arguments)
        found.push_journal()
    return command


def send(
    name: str, storage: str, kind: Any, *, live: bool = False, runs: bool = False, json_: bool = False, **arguments: Any
) -> Any:
    """Send a command and print the driver's answer; returns the command.

    `live` ones mean nothing to a search that does not run; `runs` says that this process runs it next, so it waits for
    a driver that ends without having carried the command out.
    """
    from raypo.search.commands import Commands, wait_for
    from raypo.search.lease import holder, holder_here
    from raypo.search.searches import opened

    found = opened(storage, name)
    running = holder(found.copy)
    if live and not running:
        raise StorageError(f"{name}: does not run; raypo resume {name} goes on with it")
    if running and not holder_here(found.path) and found.copy.mirrored and not found.settings["ledger"]:
        raise StorageError(
            f"{name}: its driver runs elsewhere ({running}) and keeps its ledger there; give commands on that machine, "
            f"or begin a search with ledger: postgresql://..., which takes them from anywhere"
        )
    ledger = found.ledger
    if arguments.get("trial"):
        ledger.row(arguments["trial"])
    if not running:
        command = _leave_for_later(found, kind, arguments)
        if not runs:
            out.print(f"{name} does not run; raypo resume {name} carries this out first")
        return command
    commands = Commands(ledger)
    command = commands.send(kind, **arguments)
    answer = wait_for(commands, command, ANSWER_S)
    if answer is None and holder(found.copy):
        err.print(f"{name}: the driver has the command and is not done with it; raypo status {name} shows what it does")
    while answer is None and runs and holder(found.copy):
        answer = wait_for(commands, command, ANSWER_S)
    if answer is None and not runs and not holder(found.copy):
        answer = f"{name} does not run any more; raypo resume {name} carries this out first"
    if json_ and not (answer is None and runs):
        print_json({"search": name, "answer": answer})
    elif answer is not None:
        out.print(answer)
    return command
