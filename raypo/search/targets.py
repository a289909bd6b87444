"""How many trials each method of a study gets, and what may be added to that."""

from __future__ import annotations

import math

from raypo.errors import StudyError
from raypo.search.budget import Budget
from raypo.search.drawing import rules_of
from raypo.search.grid import grid_cells
from raypo.study import Study


def targets(study: Study) -> dict[str, int | None]:
    """How many trials each method gets, None for as many as the budget holds; a grid has as many as it has cells."""
    if study.search.sampler != "grid":
        return dict.fromkeys(study.methods, study.search.trials)
    spaces = {label: {n: s.distribution() for n, s in study.space(label).items()} for label in study.methods}
    return {label: len(grid_cells(space, rules_of(study, label), 0)) for label, space in spaces.items()}


def check_extension(study: Study, trials: int, hours: float) -> None:
    """Refuse trials for a grid, which has all its cells, or where the budget decides, and hours without a budget."""
    if not math.isfinite(hours):
        raise StudyError(f"--hours: needs a number of hours, got {hours}")
    if hours and not Budget.of(study, 0).limited:
        raise StudyError("--hours: this search has no budget; --trials adds trials")
    if trials and study.search.sampler == "grid":
        cells = ", ".join(f"{label} {count}" for label, count in targets(study).items())
        raise StudyError(
            f"--trials: the grid of this search has as many trials as cells ({cells}), so it cannot get {trials} more; "
            f"give an axis more values: raypo fork NAME NEW --set methods.LABEL.AXIS.choice=[...]"
        )
    if trials and study.search.trials is None:
        raise StudyError(
            f"--trials: the budget of this search decides how many trials there are, so {trials} more change nothing; "
            "give it more hours: raypo extend NAME --hours H"
        )
