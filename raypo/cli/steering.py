"""Commands to a search that runs in another shell, and forks: stop, pause, enqueue, add-method, drop-method, fork."""

from __future__ import annotations

from typing import Annotated

import typer

from raypo.cli.common import DEFAULT_STORAGE, Address, Json, Name, Storage, app, out, send
from raypo.cli.running import run
from raypo.errors import RaypoError, StudyError

Trial = Annotated[str | None, typer.Option("--trial", help="one trial, such as dpo-0007; the whole search without")]
Values = Annotated[list[str] | None, typer.Option("--set", help="name=value")]


@app.command()
def stop(name: Name, trial: Trial = None, storage: Storage = DEFAULT_STORAGE) -> None:
    """End a running search after a checkpoint, or one of its trials for good."""
    send(name, storage, "stop", live=trial is None, trial=trial)


@app.command()
def pause(name: Name, trial: Trial = None, storage: Storage = DEFAULT_STORAGE) -> None:
    """Checkpoint running trials, or one of them, and leave them until raypo resume."""
    send(name, storage, "pause", live=trial is None, trial=trial)


@app.command()
def enqueue(
    name: Name,
    method: Annotated[str, typer.Option("--method", help="label of the method")],
    set_: Values = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Have values tried next, as one trial more; what is not set is drawn."""
    from raypo.search.points import assignments, point_of
    from raypo.search.searches import opened

    values = assignments(set_ or [])
    point_of(opened(storage, name).study(), method, values)
    send(name, storage, "enqueue", method=method, values=values)


@app.command("add-method")
def add_method(
    name: Name,
    label: Annotated[str, typer.Argument(help="its label, the method's name where --set method= does not say")],
    set_: Values = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Add a method to a search: --set beta='{log_uniform: [0.01, 1]}', or --set use=methods/simpo."""
    from raypo.search.points import assignments
    from raypo.search.preflight import check
    from raypo.search.searches import opened
    from raypo.study import build

    study = opened(storage, name).study()
    written = study.written()
    entry = assignments(set_ or [])
    if entry or label not in study.methods:
        if label in study.methods:
            raise StudyError(f"{label}: is in {name} already; give a second entry of a method its own label")
        new = build(
            {**written, "methods": {**written["methods"], label: entry}}, "add-method", allow_code=study.allow_code
        )
        check(new, lambda text: out.print(text))
        entry = new.written()["methods"][label]
    send(name, storage, "add_method", method=label, entry=entry)


@app.command("drop-method")
def drop_method(
    name: Name,
    label: Annotated[str, typer.Argument(help="label of the method")],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Give a method no more trials; its running ones are stopped, its finished ones stay in the comparison."""
    from raypo.search.points import check_label
    from raypo.search.searches import opened

    check_label(opened(storage, name).study(), label)
    send(name, storage, "drop_method", method=label)


@app.command()
def fork(
    name: Name,
    new: Annotated[str, typer.Argument(help="name of the new search")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="change a key of the study: a.b=value")] = None,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    json_: Json = False,
) -> None:
    """Start a new search from another one's study; finished trials that still hold are taken over."""
    from raypo.search import forking, searches
    from raypo.search.preflight import check
    from raypo.terminal import Terminal

    terminal = Terminal(out, quiet=json_)
    made = forking.fork(searches.opened(storage, name), new, set_ or [], lambda study: check(study, terminal.say))
    if not json_:
        out.print(f"{new}: finished trials of {name} that hold: {len(made.taken)}, that do not: {len(made.dropped)}")
        for trial, reason in made.dropped.items():
            out.print(f"  {trial}: {reason}")
        for trial in made.modelless:
            out.print(
                f"  {trial} of {new}: {name} has removed its model, so its figures count and it cannot be exported; "
                f"raypo enqueue {new} has its values trained again"
            )
    try:
        run(made.search, made.study, terminal, address, json_)
    except RaypoError:
        searches.discard_if_empty(made.search, made.taken.values())
        raise
