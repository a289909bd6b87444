"""Commands that need no search: methods."""

from __future__ import annotations

from typing import Annotated

import typer

from raypo.cli.common import Json, app, draw, show


@app.command()
def methods(name: Annotated[str | None, typer.Argument(help="one method in full")] = None, json_: Json = False) -> None:
    """List every method: equation, hyperparameters, needs, paper."""
    from raypo import catalogue

    show(catalogue.as_json(name)) if json_ else draw(catalogue.to_rich(name))
