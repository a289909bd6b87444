"""Section `objective`: what is maximised, who judges, on which prompts, against whom."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field, model_validator

from raypo.study.values import Count, NonNegative, Positive, Section, Seed, Share


class Sampling(Section):
    temperature: NonNegative = 0.7
    top_p: Share = 1.0
    max_new_tokens: Count = 256
    seed: Seed = 0


class Prompts(Section):
    source: str | None = None
    split: str = "test"
    count: Count = 256
    format: str | dict[str, dict[str, Any]] = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    transforms: tuple[dict[str, Any], ...] = ()


_SECRET = re.compile("key|token|secret|passw|pwd", re.IGNORECASE)


def _open_address(url: str | None) -> str | None:
    """A server's address; a key in it would end in every copy of the study."""
    if url is not None:
        parts = urlsplit(url)
        if parts.username is not None or any(_SECRET.search(name) for name, _ in parse_qsl(parts.query)):
            raise ValueError(
                "has a key or password in it, which every copy of the study would show; name the environment variable "
                "that holds it in key_variable"
            )
    return url


ASKING = ("base_url", "key_variable", "concurrency", "max_cost", "price_per_million_tokens")
"""Keys that say how a judge is asked and paid, which changes no verdict of it."""


class Judge(Section):
    """Who compares two answers; `kind` says which of the other keys are read."""

    kind: Literal["rule", "reward_model", "bradley_terry", "pairrm", "llm"]
    function: str | None = None
    path: str | None = None
    source: str | None = None
    split: str = "train"
    count: Count | None = None
    format: str | dict[str, dict[str, Any]] = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    transforms: tuple[dict[str, Any], ...] = ()
    epochs: Count = 1
    lr: Positive = 1e-4
    batch_size: Count = 32
    max_length: Count = 1024
    model: str | None = None
    revision: str = ""
    template: str = "alpaca_eval"
    base_url: Annotated[str | None, AfterValidator(_open_address)] = None
    key_variable: str = "OPENAI_API_KEY"
    concurrency: Count = 8
    max_cost: Positive | None = None
    price_per_million_tokens: tuple[NonNegative, NonNegative] = (0.0, 0.0)
    replay: str | None = None
    max_failed: Share = 0.05

    @model_validator(mode="after")
    def _complete(self) -> Judge:
        needed = {
            "rule": "function",
            "reward_model": "path",
            "pairrm": "path",
            "llm": "model",
            "bradley_terry": "source",
        }
        key = needed[self.kind]
        if getattr(self, key) is None:
            raise ValueError(f"a judge of kind {self.kind!r} needs {key}")
        return self


class Limits(Section):
    kl: Positive | None = None
    length_ratio: Positive | None = None


def _increasing(values: tuple[float, ...]) -> tuple[float, ...]:
    if not values or list(values) != sorted(set(values)) or abs(values[-1] - 1) > 1e-9:
        raise ValueError(f"needs increasing fractions that end with 1, got {list(values)}")
    return (*values[:-1], 1.0)


def _several(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if values is not None and not (2 <= len(values) <= 3 and len(set(values)) == len(values)):
        raise ValueError(f"needs two or three different metrics such as [win_rate, -kl], got {list(values)}")
    return values


Metric = Literal["win_rate", "lc_win_rate", "reward_accuracy", "score"]
Goal = Literal["win_rate", "lc_win_rate", "reward_accuracy", "score", "-kl", "-length", "-length_ratio"]


class Objective(Section):
    """What is maximised: one `metric`, or in its place several by `pareto`, where a minus says to minimise."""

    metric: Metric = "win_rate"
    pareto: Annotated[tuple[Goal, ...] | None, AfterValidator(_several)] = None
    judge: Judge
    prompts: Prompts = Prompts()
    opponent: str = "start"
    at: Annotated[tuple[Share, ...], AfterValidator(_increasing)] = (1 / 3, 2 / 3, 1.0)
    sampling: Sampling = Sampling()
    engine: Literal["transformers", "vllm"] = "transformers"
    racing: bool = False
    limits: Limits = Limits()
