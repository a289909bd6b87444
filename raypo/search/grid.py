"""The cells of a grid search: every combination of a discrete space, each exactly once."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from raypo.errors import StudyError
from raypo.search.constraints import Rules
from raypo.search.results import Value

_MOST_CELLS = 100_000


def grid_cells(space: Mapping[str, BaseDistribution], rules: Rules, seed: int) -> list[dict[str, Value]]:
    """Every allowed combination of `space`, once each, in an order drawn from `seed`.

    Hyperparameters that a condition leaves out are absent from a cell, and cells that become equal by that are one.
    The order is shuffled so that a search that is stopped early has seen all of the space, not one edge of it.
    """
    axes = {name: _levels(name, distribution) for name, distribution in space.items()}
    count = math.prod(len(levels) for levels in axes.values())
    if count > _MOST_CELLS:
        sizes = " x ".join(f"{name} {len(levels)}" for name, levels in axes.items())
        raise StudyError(f"search.sampler: grid has {count} cells ({sizes}); at most {_MOST_CELLS}; coarsen an axis")
    corners = (dict(zip(axes, levels, strict=True)) for levels in itertools.product(*axes.values()))
    cells = {cell_key(cell): cell for corner in corners if rules.allows(corner) for cell in [rules.active(corner)]}
    if not cells:
        raise StudyError(f"search.constraints: none of the grid's {count} cells is allowed; relax a constraint")
    ordered = list(cells.values())
    return [ordered[index] for index in np.random.default_rng(seed).permutation(len(ordered))]


def free_cells(cells: Sequence[dict[str, Value]], trials: Iterable[FrozenTrial]) -> list[dict[str, Value]]:
    """The cells that no trial has; enqueued trials may have taken any."""
    taken = {cell_key(trial.params) for trial in trials}
    return [cell for cell in cells if cell_key(cell) not in taken]


def next_cell(
    cells: Sequence[dict[str, Value]], trials: Iterable[FrozenTrial], given: Mapping[str, Value]
) -> dict[str, Value]:
    """The first cell with the values `given` that no trial has.

    Raises:
        StudyError: they are all tried.
    """
    for cell in free_cells(cells, trials):
        if given.items() <= cell.items():
            return dict(cell)
    which = f"none of the {len(cells)} cells of the grid is left with {dict(given)}"
    all_ = f"all {len(cells)} cells of the grid are tried"
    raise StudyError(f"search.trials: {which if given else all_}; add values to an axis")


def cell_key(values: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
    """What makes two cells the same one."""
    return tuple(sorted(values.items()))


def _levels(name: str, distribution: BaseDistribution) -> Sequence[Value]:
    """The values of one axis; a continuous one has no end of them and is refused."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return [choice for choice in choices if choice is not None]
        case IntDistribution(low=low, high=high, step=step):
            return list(range(low, high + 1, step))
        case FloatDistribution(low=low, high=high) if low == high:
            return [low]
        case FloatDistribution(low=low, high=high, step=float(step)):
            return [low + index * step for index in range(round((high - low) / step) + 1)]
    raise StudyError(
        f"search.sampler: grid needs a list of values for every axis, got the continuous {name} = {distribution}; "
        f"give its values as a choice, e.g. {name}: {{choice: [0.01, 0.1, 1.0]}}"
    )
