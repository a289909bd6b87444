"""The command that says what a study will take: plan."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from raypo.cli.common import Code, File, Json, OwnStorage, Set, With, app, draw, out, print_json


@app.command()
def plan(
    file: File,
    with_: With = None,
    set_: Set = None,
    storage: OwnStorage = None,
    probe: Annotated[bool, typer.Option(help="train a few steps here to tell the hours")] = True,
    allow_code: Code = False,
    json_: Json = False,
) -> None:
    """Say what a study will take before anything runs: trials, steps, tokens, memory, hours, judge calls and cost."""
    from raypo.search import planning
    from raypo.study import load
    from raypo.tracking.planned import as_json, to_rich

    overrides = [*(set_ or []), *([f"storage={storage}"] if storage else [])]
    study = load(file, overrides, files=with_ or [], allow_code=allow_code)
    with contextlib.redirect_stdout(sys.stderr):  # libraries speak on it while they load
        made = planning.plan(study, out.print, probing=probe)
    print_json(as_json(made)) if json_ else draw(to_rich(made))
