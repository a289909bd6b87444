"""Preference-optimisation methods: one function each, described by its own signature.

    >>> import torch
    >>> from raypo.methods import METHODS, Pairs
    >>> policy = Pairs.of(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-4.0]]))
    >>> METHODS["dpo"].loss(policy, policy, beta=0.1).mean()
    tensor(0.6931)

A module of this package whose name has no underscore holds the method of the same name. `search_spaces/methods/`
holds what to tune. Needs torch alone.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from raypo.errors import MethodError
from raypo.methods._annotations import (
    Bounds,
    Carries,
    Fraction,
    GapAbove,
    Nats,
    NonNegative,
    OnlyIf,
    PerNat,
    Positive,
    ProperFraction,
    Steps,
    Unit,
)
from raypo.methods._check import check_corners
from raypo.methods._log_partition import FullLogPartition
from raypo.methods._method import NEEDS, Method
from raypo.methods._metrics import logit_metrics, means
from raypo.methods._scores import Batch, LogPartition, Loss, Metric, Pairs, Ranked, Scores, Term, Unpaired, metric
from raypo.methods._signature import REQUIRED, Hyperparameter, nearest

__all__ = [
    "METHODS",
    "NEEDS",
    "REQUIRED",
    "Batch",
    "Bounds",
    "Carries",
    "Fraction",
    "FullLogPartition",
    "GapAbove",
    "Hyperparameter",
    "LogPartition",
    "Loss",
    "Method",
    "Metric",
    "Nats",
    "NonNegative",
    "OnlyIf",
    "Pairs",
    "PerNat",
    "Positive",
    "ProperFraction",
    "Ranked",
    "Scores",
    "Steps",
    "Term",
    "Unit",
    "Unpaired",
    "check_corners",
    "load_method",
    "logit_metrics",
    "means",
    "metric",
]


def _own_methods() -> dict[str, Method]:
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))
    return {name: Method.of(getattr(importlib.import_module(f"{__name__}.{name}"), name)) for name in names}


def load_method(name: str, *, allow_code: bool = False) -> Method:
    """The method called `name`, or the one at "package.module:function" when running outside code is allowed."""
    if name in METHODS:
        return METHODS[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise MethodError(f"method {name!r}: no such method; {nearest(name, METHODS)}, or package.module:function")
    if not allow_code:
        raise MethodError(f"method {name!r}: is code outside raypo; allow it with --allow-code")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # importing it runs whatever its module holds
        told = f"{type(error).__name__}: {error}"
        raise MethodError(f"method {name!r}: cannot be imported, got {told}; needs package.module:function") from error
    if not inspect.isfunction(found):
        raise MethodError(f"method {name!r}: is no function, got {found!r:.80}; needs package.module:function")
    return Method.of(found)


METHODS: Mapping[str, Method] = MappingProxyType(_own_methods())
"""Every method of raypo by name."""
