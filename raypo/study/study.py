"""Study: one file says which model, which preference data, which methods and which ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator

from raypo.methods import Method
from raypo.spaces import Space, Value
from raypo.study.objective import Objective
from raypo.study.searching import Benchmarks, Confirm, Resources, Search, Tracking
from raypo.study.training import Data, Model, Training
from raypo.study.values import Section

TRAINING_AXES = (
    "lr", "epochs", "steps", "batch_size", "optimizer", "schedule", "warmup", "weight_decay",
    "gradient_clipping", "adam_beta1", "adam_beta2",
)  # fmt: skip
DATABASES = ("postgresql", "mysql")
_PASSWORD = re.compile("passw(or)?d|pwd", re.IGNORECASE)
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")


def _safe_name(name: str) -> str:
    if not NAME.match(name) or ".." in name:
        raise ValueError(f"got {name!r}; a name has letters, digits, '_', '-' and '.', starts with a letter or digit")
    return name


SafeName = Annotated[str, AfterValidator(_safe_name)]


def _database(url: str | None) -> str | None:
    """A database's URL; a password in it would end in every copy of the study."""
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme.split("+")[0] not in DATABASES:
        raise ValueError(f"got {parts.scheme or url!r}; a database's URL begins with {' or '.join(DATABASES)}://")
    if parts.password is not None or any(_PASSWORD.search(name) for name, _ in parse_qsl(parts.query)):
        raise ValueError("has a password in it, which every copy of the study would show; keep it in ~/.pgpass")
    return url


DatabaseUrl = Annotated[str | None, AfterValidator(_database)]


@dataclass(frozen=True)
class Entry:
    """One line of `methods`: a label, the method it names, its hyperparameters and its own training settings."""

    label: str
    method: Method
    hyperparameters: Mapping[str, Value | Space]
    training: Mapping[str, Value | Space]
    priors: tuple[Mapping[str, Value], ...] = ()
    reference: str = ""
    """What `load_method` takes: the method's name, or the import path of one outside the package."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """When a searched hyperparameter is searched; where its condition is false it has its default."""

    def departures(self) -> dict[str, Value]:
        """Fixed hyperparameters that are not the method's default."""
        defaults = {name: spec.default for name, spec in self.method.hyperparameters.items()}
        fixed = {name: v for name, v in self.hyperparameters.items() if not isinstance(v, Space)}
        return {name: value for name, value in fixed.items() if value != defaults[name]}


class Study(Section):
    """The resolved study file."""

    name: SafeName
    model: Model
    data: Data
    training: Training = Training()
    methods: dict[str, Entry]
    objective: Objective
    search: Search = Search()
    confirm: Confirm = Confirm()
    benchmarks: Benchmarks | None = None
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    storage: str = "raypo-searches"
    ledger: DatabaseUrl = None
    """Where the search's memory is: a database's URL, or None for a journal file in the search's folder."""
    allow_code: bool = False

    def axes(self, label: str) -> dict[str, Value | Space]:
        """Everything that one trial of a method is made of, by name: searched axes and fixed values.

        Hyperparameters and training settings stand under their own names, transforms as `data.<transform>`.
        """
        entry = self.methods[label]
        settings = {name: getattr(self.training, name) for name in TRAINING_AXES}
        settings = {name: value for name, value in settings.items() if value is not None}
        settings.update(entry.training)
        for own, replaced in (("steps", "epochs"), ("epochs", "steps")):
            if own in entry.training:
                settings.pop(replaced, None)
        transforms = {f"data.{name}": v for t in self.data.transforms for name, v in t.items() if isinstance(v, Space)}
        return {**entry.hyperparameters, **settings, **transforms}

    def space(self, label: str) -> dict[str, Space]:
        """The searched axes of a method."""
        return {name: value for name, value in self.axes(label).items() if isinstance(value, Space)}

    def fixed(self, label: str) -> dict[str, Value]:
        """What a method's trials share."""
        return {name: value for name, value in self.axes(label).items() if not isinstance(value, Space)}

    def data_transforms(self, point: Mapping[str, Value]) -> list[dict[str, Any]]:
        """The transforms of one trial, with its own values in the place of searched ones."""
        return [
            {name: point[f"data.{name}"] if isinstance(value, Space) else value for name, value in transform.items()}
            for transform in self.data.transforms
        ]

    def fixed_transforms(self) -> list[dict[str, Any]]:
        """The transforms that are no axes: what SFT sees of the data, for the trials of every point start from it."""
        return [t for t in self.data.transforms if not any(isinstance(value, Space) for value in t.values())]

    def written(self) -> dict[str, Any]:
        """The study as plain data, every default spelled out; `load` reads it back to the same study."""
        plain = {name: getattr(self, name) for name in Study.model_fields if name not in ("methods", "allow_code")}
        plain["methods"] = {
            label: {
                "method": entry.reference,
                **entry.hyperparameters,
                **entry.training,
                **({"priors": [dict(p) for p in entry.priors]} if entry.priors else {}),
                **({"conditions": dict(entry.conditions)} if entry.conditions else {}),
            }
            for label, entry in self.methods.items()
        }
        result = _plain(plain)
        assert isinstance(result, dict)
        return result


def _plain(value: Any) -> Any:
    if isinstance(value, Space):
        return value.written()
    if isinstance(value, Section):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
