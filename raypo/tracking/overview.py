"""The search-level run: the comparison in W&B without clicking it together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from raypo.search.results import SearchResults
from raypo.tracking.compare import as_json, caption, compare
from raypo.tracking.projection import Projection
from raypo.tracking.runs import fingerprint


def write_overview(projection: Projection, results: SearchResults, models: Mapping[str, Path]) -> None:
    """Write the search-level run: the table of best configurations."""

    def write(wandb: ModuleType, run: Any) -> None:
        comparison = compare(results)
        run.notes = caption(comparison)
        methods = as_json(comparison)["methods"]
        columns = [name for name in methods[0] if name != "hyperparameters"]
        run.log({"best": wandb.Table(columns=columns, data=[[row[name] for name in columns] for row in methods])})

    mark = hashlib.sha256("".join(fingerprint(trial) for trial in results.trials).encode()).hexdigest()[:12]
    projection.publish("search", mark, write)
