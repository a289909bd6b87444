"""Commands that run a search: search, resume, extend."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from raypo.cli.common import (
    DEFAULT_STORAGE,
    Address,
    Code,
    File,
    Json,
    Name,
    OwnStorage,
    Set,
    Storage,
    With,
    app,
    err,
    out,
    print_comparison,
    send,
)
from raypo.errors import RaypoError, StudyError
from raypo.search.lease import holder

REFUSED_WITHIN_S = 1.0
"""How long the answer of a driver that has ended is looked for."""


@app.command()
def search(
    file: File,
    with_: With = None,
    set_: Set = None,
    name: Annotated[str | None, typer.Option("--name", help="name of the search; the study's own by default")] = None,
    storage: OwnStorage = None,
    address: Address = None,
    allow_code: Code = False,
    json_: Json = False,
) -> None:
    """Search the methods of a study and say which configuration won."""
    from raypo.search import searches
    from raypo.search.preflight import check
    from raypo.study import load
    from raypo.terminal import Terminal

    overrides = [*(set_ or []), *([f"storage={storage}"] if storage else [])]
    study = load(file, overrides, files=with_ or [], allow_code=allow_code)
    terminal = Terminal(out, quiet=json_)
    check(study, terminal.say)
    found = searches.create(study, name)
    try:
        run(found, study, terminal, address, json_)
    except RaypoError:
        searches.discard_if_empty(found)
        raise


@app.command()
def resume(
    name: Name,
    trial: Annotated[
        str | None, typer.Option("--trial", help="one that was paused, pruned or stopped, or that failed")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    json_: Json = False,
) -> None:
    """Go on with a search that was interrupted or paused, or with one trial to the end of its schedule."""
    from raypo.search.commands import Commands
    from raypo.search.searches import opened

    found = opened(storage, name)
    command = None
    if trial is not None or holder(found.copy) is not None or Commands(found.ledger).standing().halted:
        command = send(name, storage, "resume", runs=True, json_=json_, trial=trial)
    _go_on(name, storage, address, json_, command)


@app.command()
def extend(
    name: Name,
    trials: Annotated[int, typer.Option("--trials", min=0, help="trials to add to every method")] = 0,
    hours: Annotated[float, typer.Option("--hours", min=0, help="hours to add to the budget")] = 0.0,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    json_: Json = False,
) -> None:
    """Add trials or hours to a search, and go on with it where it does not run."""
    from raypo.search.searches import opened
    from raypo.search.targets import check_extension

    if not trials and not hours:
        raise StudyError("extend: give --trials N, --hours H, or both")
    check_extension(opened(storage, name).study(), trials, hours)
    command = send(name, storage, "extend", runs=True, json_=json_, trials=trials, hours=hours)
    _go_on(name, storage, address, json_, command)


def _go_on(name: str, storage: str, address: str | None, json_: bool, command: Any) -> None:
    """Run a search unless a driver does; what was asked for first may be refused when that is looked at."""
    from raypo.search.commands import Commands, wait_for
    from raypo.search.searches import opened
    from raypo.terminal import Terminal

    found = opened(storage, name)
    if holder(found.copy) is None:
        run(found, found.study(), Terminal(out, quiet=json_), address, json_)
        if command is not None:
            wait_for(Commands(found.ledger), command, REFUSED_WITHIN_S)


def run(found: Any, study: Any, terminal: Any, address: str | None, json_: bool) -> None:
    """Run a search in this process, then say which configuration won."""
    from raypo.search import driver
    from raypo.search.preflight import check_here
    from raypo.search.reading import read_results
    from raypo.tracking.projection import resolve_mode
    from raypo.tracking.watching import watchers

    resolve_mode(study.tracking.wandb)  # a key that is missing is told before anything is made
    if address is None:
        check_here(study)
    try:
        driver.run(found, study, watchers(found, study, terminal, terminal.say), address=address)
    except KeyboardInterrupt:
        terminal.close()
        err.print(f"stopped; raypo resume {found.name} goes on where it was")
        raise typer.Exit(130) from None
    finally:
        terminal.close()
    print_comparison([read_results(found)], "json" if json_ else "table")
