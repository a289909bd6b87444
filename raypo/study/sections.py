"""What each section of a study file may say. Frozen and strict: an unknown key or a wrong type is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from raypo.spaces import Space, parse


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, validate_default=False)


def _fraction(value: Any) -> Any:
    """`1/3` as a person writes it."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"not a fraction, got {value!r}; write 1/3 or 0.33") from None
    return value


def _axis(lower: float, upper: float = math.inf, *, whole: bool = False, open_low: bool = True) -> Any:
    """A number, or an axis whose values all lie in the bounds, the upper one not included."""

    def check(value: Any) -> Any:
        parsed = parse(value)
        for number in parsed.values if isinstance(parsed, Space) else (parsed,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError(f"needs a number or an axis such as {{log_uniform: [1e-6, 1e-4]}}, got {number!r}")
            low_ok = number > lower if open_low else number >= lower
            if not (low_ok and number < upper):
                raise ValueError(f"needs {lower} {'<' if open_low else '<='} value < {upper}, got {number}")
            if whole and number != int(number):
                raise ValueError(f"needs whole numbers, got {number}")
        return parsed

    return Annotated[Any, BeforeValidator(check)]


def _named(*names: str) -> Any:
    """One of the names, or a choice among them."""

    def check(value: Any) -> Any:
        parsed = parse(value)
        for name in parsed.values if isinstance(parsed, Space) else (parsed,):
            if name not in names:
                raise ValueError(f"got {name!r}; allowed: {', '.join(names)}")
        return parsed

    return Annotated[Any, BeforeValidator(check)]


Share = Annotated[float, BeforeValidator(_fraction), Field(gt=0, le=1)]
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Lora(Section):
    rank: Count = 16
    alpha: Positive = 32.0
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class TinyModel(Section):
    """A tokenizer and a small Llama built from text, where no pretrained model is at hand."""

    text: str
    vocabulary: Count = 2048
    hidden: Count = 192
    layers: Count = 4
    heads: Count = 4
    steps: Count = 400
    batch_size: Count = 32
    length: Count = 128
    lr: Positive = 2e-3


class Sft(Section):
    """Supervised fine-tuning before the search: `on` says which answers of the data (or of `source`)."""

    on: Literal["chosen", "both"] = "chosen"
    source: str | None = None
    count: Count | None = None
    epochs: Positive = 1.0
    lr: Positive = 2e-5
    batch_size: Count = 64


class Model(Section):
    path: str | None = None
    build: TinyModel | None = None
    dtype: Literal["fp32", "bf16"] = "fp32"
    trust_remote_code: bool = False
    lora: Lora | None = None
    gradient_checkpointing: bool = False
    sft: Sft | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        if (self.path is None) == (self.build is None):
            raise ValueError("needs either path (a folder, a hub id or quickstart) or build, and not both")
        return self


class Data(Section):
    source: str
    split: str = "train"
    format: str | dict[str, dict[str, Any]] = "auto"
    columns: dict[str, str] = {}
    count: Count | None = None
    transforms: tuple[dict[str, Any], ...] = ()
    max_length: Count = 1024
    max_prompt_length: Count | None = None
    truncation: Literal["prompt_start", "prompt_end", "completion_end", "drop"] = "prompt_start"
    chat_template: str | None = None
    seed: int = 0
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    encoder: str = "hashing"

    @model_validator(mode="before")
    @classmethod
    def _axes(cls, values: Any) -> Any:
        """Transforms such as {fraction: {choice: [0.25, 1]}} may be searched over."""
        for transform in values.get("transforms") or () if isinstance(values, dict) else ():
            if not isinstance(transform, dict) or len(transform) != 1:
                raise ValueError(f"each transform is one key with its setting, got {transform!r}")
        return values


class Training(Section):
    """How a policy is trained; the numbers that say how it learns may be axes.

    hidden_budget_gib: methods that need the reference's full distribution read its last hidden states from the store
    where these take no more than this, and keep of the reference its LM head alone; 0 computes them anew at every step.
    """

    lr: _axis(0) = 5e-7  # type: ignore[valid-type]
    epochs: _axis(0) = 1.0  # type: ignore[valid-type]
    steps: _axis(0, whole=True) | None = None  # type: ignore[valid-type]
    batch_size: _axis(0, whole=True) = 64  # type: ignore[valid-type]
    micro_batch_size: Count = 8
    optimizer: _named("adamw", "rmsprop", "adafactor") = "adamw"  # type: ignore[valid-type]
    schedule: _named("cosine", "linear", "constant") = "cosine"  # type: ignore[valid-type]
    warmup: _axis(0, 1, open_low=False) = 0.1  # type: ignore[valid-type]
    weight_decay: _axis(0, open_low=False) = 0.0  # type: ignore[valid-type]
    gradient_clipping: _axis(0, open_low=False) = 1.0  # type: ignore[valid-type]
    adam_beta1: _axis(0, 1) = 0.9  # type: ignore[valid-type]
    adam_beta2: _axis(0, 1) = 0.999  # type: ignore[valid-type]
    checkpoint_every_s: Positive = 300.0
    hidden_budget_gib: NonNegative = 0.0


class Sampling(Section):
    temperature: NonNegative = 0.7
    top_p: Share = 1.0
    max_new_tokens: Count = 256
    seed: int = 0


class Prompts(Section):
    source: str | None = None
    split: str = "test"
    count: Count = 256
    format: str | dict[str, dict[str, Any]] = "auto"
    columns: dict[str, str] = {}


class Judge(Section):
    """Who compares two answers; `kind` says which of the other keys are read."""

    kind: Literal["rule", "reward_model", "bradley_terry", "pairrm", "llm"]
    function: str | None = None
    path: str | None = None
    source: str | None = None
    split: str = "train"
    count: Count | None = None
    transforms: tuple[dict[str, Any], ...] = ()
    epochs: Count = 1
    lr: Positive = 1e-4
    batch_size: Count = 32
    max_length: Count = 1024
    model: str | None = None
    revision: str = ""
    template: str = "alpaca_eval"
    base_url: str | None = None
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


class Repeats(Section):
    """Train a configuration with several seeds, as one trial whose value is their average."""

    seeds: Count = 1
    promising_only: bool = False


class Budget(Section):
    """What the trials of a search may use: device-hours at work, or hours of the clock while a driver runs."""

    gpu_hours: Positive | None = None
    wall_hours: Positive | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Budget:
        if (self.gpu_hours is None) == (self.wall_hours is None):
            raise ValueError("needs either gpu_hours or wall_hours, and not both")
        return self


class Search(Section):
    """How points are chosen, and how many; with a budget and no count, as many trials as it holds."""

    trials: Count | None = 16
    budget: Budget | None = None
    fair: Literal["trials", "gpu_hours"] = "trials"
    repeats: Repeats = Repeats()
    priors: bool = False
    sampler: Literal["tpe", "gp", "cmaes", "random", "grid", "nsga2"] = "tpe"
    pruner: Literal["none", "successive_halving", "hyperband", "median", "wilcoxon"] | None = None
    seed: int = 0
    constraints: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _as_many_as_it_holds(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("budget") is not None:
            return {"trials": None, **values}
        return values

    @model_validator(mode="after")
    def _bounded(self) -> Search:
        if self.trials is None and self.budget is None:
            raise ValueError("needs trials or a budget")
        if self.fair == "gpu_hours" and self.budget is None:
            raise ValueError("fair: gpu_hours shares out a budget, and there is none; set search.budget")
        if self.priors and self.sampler == "grid":
            raise ValueError("priors: a grid tries all of its cells and no others; set priors to false")
        return self


class Confirm(Section):
    """Train the best configurations again and judge them on prompts that the search never saw."""

    top: Annotated[int, Field(ge=0)] = 0
    seeds: Count = 2
    prompts: Prompts | None = None


class Benchmarks(Section):
    """Tasks of lm-evaluation-harness for each method's winner, by name or as a YAML file; `limit` examples of each."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    limit: Count | None = None


class Resources(Section):
    slots: Count = 1
    workers: Count = 1
    gpus_per_worker: NonNegative = 0.0
    cpus_per_worker: NonNegative = 1.0
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload: bool = False
    placement: Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"
    recycle_after: Count = 200


class Tracking(Section):
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "raypo"
    models: bool = True
