"""The command line as a whole, and what a user's mistake looks like."""

from __future__ import annotations

import os
import sys

from raypo.cli import planning, reading, running, steering, studies
from raypo.cli.common import app, err
from raypo.errors import RaypoError

__all__ = ["app", "main", "planning", "reading", "running", "steering", "studies"]


def main() -> None:
    """Entry point: a user's mistake is one line a problem and exit code 2, never a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        app()
    except RaypoError as error:
        err.print(str(error), highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, ValueError) else 1)
