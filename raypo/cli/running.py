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
    app,
    err,
    out,
    print_comparison,
)


@app.command()
def search(
    file: File,
    set_: Set = None,
    name: Annotated[str | None, typer.Option("--name", help="name of the search; the study's own by default")] = None,
    storage: OwnStorage = None,
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
    print_comparison([read_results(found, study)], "json" if json_ else "table")
