"""Commands that need no search: methods, train, artifacts."""

from __future__ import annotations

from typing import Annotated

import typer

from raypo.cli.common import (
    DEFAULT_STORAGE,
    Code,
    File,
    Json,
    OwnStorage,
    Set,
    Storage,
    With,
    app,
    draw,
    err,
    out,
    print_json,
)


@app.command()
def methods(name: Annotated[str | None, typer.Argument(help="one method in full")] = None, json_: Json = False) -> None:
    """List every method: equation, hyperparameters, needs, paper."""
    from raypo import catalogue

    print_json(catalogue.as_json(name)) if json_ else draw(catalogue.to_rich(name))


@app.command()
def train(
    file: File,
    method: Annotated[str, typer.Option("--method", help="a method of the study, or reward_model")],
    with_: With = None,
    set_: Set = None,
    name: Annotated[str, typer.Option("--name", help="folder of the run in the storage")] = "train",
    storage: OwnStorage = None,
    allow_code: Code = False,
    json_: Json = False,
) -> None:
    """Train and judge one configuration in this process, without a search.

    Each has a folder of its own in that of the run: the same one again goes on where it was interrupted, or has its
    result.
    """
    from raypo.search import single
    from raypo.study import load

    overrides = [*(set_ or []), *([f"storage={storage}"] if storage else [])]
    study = load(file, overrides, files=with_ or [], allow_code=allow_code)
    say = (lambda _: None) if json_ else out.print
    if method == single.REWARD_MODEL:
        folder = str(single.train_reward_model(study, say))
        print_json({"model": folder}) if json_ else out.print(folder)
        return
    outcome, model = single.train(study, method, name, say)
    if json_:
        print_json(single.as_json(outcome, model))
        return
    out.print(f"{outcome.state}: {outcome.reason or ''}{outcome.evaluation}")
    out.print(str(model))


@app.command()
def artifacts(
    storage: Storage = DEFAULT_STORAGE,
    prune_days: Annotated[
        float | None, typer.Option("--prune-days", min=0, help="remove what was not used for this many days")
    ] = None,
    json_: Json = False,
) -> None:
    """List what searches share (models, tokens, log-probs), with sizes; remove what is not used any more."""
    from raypo.search.folders import artifact_store
    from raypo.search.sharing import prune
    from raypo.tracking.artifacts import as_json, to_rich

    store = artifact_store(storage)
    if prune_days is not None:
        gone = prune(storage, prune_days * 86400)
        (err if json_ else out).print(f"removed {len(gone)} artifacts, {sum(a.bytes for a in gone) / 2**20:.1f} MiB")
    print_json(as_json(store.list())) if json_ else draw(to_rich(store.list()))
