"""A method: one function, described by its own signature and docstring."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from raypo.errors import MethodError
from raypo.methods._annotations import Carries, GapAbove, OnlyIf
from raypo.methods._scores import Loss, Pairs, Ranked, Scores, Unpaired
from raypo.methods._signature import REQUIRED, Hyperparameter, first, flatten, nearest, read_hyperparameters

DATA: Mapping[type, str] = {Pairs: "pairs", Unpaired: "unpaired", Ranked: "ranked", Scores: "completions"}

NEEDS: Mapping[str, str] = {
    "reference": "log-probs of the frozen start model",
    "moving_reference": "log-probs of a live copy that follows the policy",
    "mismatched": "log-ratios of other prompts' answers, over all ranks",
    "log_partition": "full-vocabulary statistics of policy and reference (both live)",
    "token_kl": "exact KL(policy || reference) of every token, with gradient (both live)",
    "embeddings": "normalised sentence embeddings of the prompts",
    "value": "per-token values of a critic head",
    "prompt": "log-probs of the prompts' own tokens, with gradient",
    "batch": "the micro-batch over all ranks",
    "state": "numbers that change from step to step",
}
"""What a method may ask of the trainer, by the name of its parameter."""
OF_A_MICRO_BATCH = {"mismatched", "batch"}
"""Needs that hold a whole micro-batch over all ranks: what is made of them depends on its size."""


@dataclass(frozen=True)
class Method:
    """A preference-optimisation method as read from its function.

    `needs` names the inputs beside the policy that the method may ask for; `needs_for` those that it asks for under
    given hyperparameters. `carries` names the fields ("score", "unit") that its data must have, `candidates` the
    least number of completions per prompt, `gap` how far apart the scores of a pair must be.
    """

    name: str
    function: Callable[..., Loss]
    policy_type: type
    hyperparameters: Mapping[str, Hyperparameter]
    needs: tuple[str, ...]
    conditions: Mapping[str, OnlyIf]
    state_type: Any
    carries: tuple[str, ...]
    candidates: int
    gap: GapAbove | None
    summary: str
    equation: str
    paper: str

    @classmethod
    def of(cls, function: Callable[..., Loss]) -> Method:
        """The method that `function` implements; a signature that is no method raises MethodError."""
        try:
            hints = get_type_hints(function, include_extras=True)
        except Exception as error:  # an annotation is an expression like any other
            told = f"{type(error).__name__}: {error}"
            raise MethodError(f"{function.__name__}: its annotations cannot be read, got {told}") from error
        positional = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
        if positional[:1] != ["policy"]:
            raise MethodError(f"{function.__name__}: first parameter must be `policy`, got {positional[:1]}")
        policy_type, markers, _ = flatten(hints.get("policy"))
        if policy_type not in DATA:
            allowed = ", ".join(kind.__name__ for kind in DATA)
            raise MethodError(f"{function.__name__}.policy: unknown data, got {policy_type!r}; one of {allowed}")
        for name in positional[1:]:
            if name not in NEEDS:
                raise MethodError(f"{function.__name__}.{name}: no such input; {nearest(name, NEEDS)}")
        carried = [marker for marker in markers if isinstance(marker, Carries)]
        conditions = {name: first(flatten(hints.get(name))[1], OnlyIf) for name in positional[1:]}
        summary, equation, paper = _read_docstring(function)
        return cls(
            name=function.__name__,
            function=function,
            policy_type=policy_type,
            hyperparameters=read_hyperparameters(function),
            needs=tuple(positional[1:]),
            conditions={name: condition for name, condition in conditions.items() if condition},
            state_type=hints.get("state"),
            carries=tuple(marker.field for marker in carried),
            candidates=max((marker.candidates for marker in carried), default=0),
            gap=first(markers, GapAbove),
            summary=summary,
            equation=equation,
            paper=paper,
        )

    @property
    def data(self) -> str:
        """ "pairs", "unpaired", "ranked" or "completions"."""
        return DATA[self.policy_type]

    def resolve(self, hyperparameters: Mapping[str, object]) -> dict[str, Any]:
        """All hyperparameters with defaults filled in; unknown, missing and bad ones raise MethodError."""
        for name in hyperparameters:
            if name not in self.hyperparameters:
                raise MethodError(f"{self.name}.{name}: no such hyperparameter; {nearest(name, self.hyperparameters)}")
        resolved = {}
        for name, hyperparameter in self.hyperparameters.items():
            value = hyperparameters.get(name, hyperparameter.default)
            if value is REQUIRED:
                raise MethodError(f"{self.name}.{name}: must be chosen, has no default; {hyperparameter.allowed}")
            resolved[name] = hyperparameter.parse(value, self.name)
        return resolved

    def needs_for(self, **hyperparameters: object) -> tuple[str, ...]:
        """The inputs beside the policy that these hyperparameters ask for, in the function's order."""
        values = self.resolve(hyperparameters)
        conditions = self.conditions
        return tuple(n for n in self.needs if n not in conditions or _holds(conditions[n], values))

    def of_a_micro_batch(self, **hyperparameters: object) -> bool:
        """Whether the loss is defined on a micro-batch of all ranks, so that its size changes what is trained."""
        return not OF_A_MICRO_BATCH.isdisjoint(self.needs_for(**hyperparameters))

    def too_close(self, value: str, found: str, example: str) -> str:
        """What to say of pairs with too small a score gap for this value of the hyperparameter that decides on it."""
        assert self.gap is not None, "a method without it takes any gap"
        name, lowest = self.gap.hyperparameter, self.gap.limits[value]
        return (
            f"{self.name} needs score gaps (chosen minus rejected) above {lowest:g} for {name} {value}, {found} have "
            f"none such: {example}; drop them with the transform filter: {{min_margin: ...}} above {lowest:g}, after "
            f"any flip_labels, or set another {name}"
        )

    def loss(self, policy: Any, *inputs: Any, **named: Any) -> Loss:
        """The function, checked: `inputs` in the order of `needs_for` or by name, hyperparameters by name."""
        if not isinstance(policy, self.policy_type):
            raise MethodError(f"{self.name}.policy: needs {self.policy_type.__name__}, got {type(policy).__name__}")
        given = {name: named[name] for name in named if name in self.needs}
        values = self.resolve({name: named[name] for name in named if name not in given})
        needed = self.needs_for(**values)
        given |= dict(zip([name for name in needed if name not in given], inputs, strict=False))
        missing = [name for name in needed if name not in given]
        if missing or len(inputs) + len(named.keys() & set(self.needs)) > len(needed):
            raise MethodError(
                f"{self.name}: needs {', '.join(needed) or 'the policy alone'}; got {len(inputs)} unnamed "
                f"and {sorted(named.keys() & set(self.needs))}; missing {self._explained(missing) or 'none'}"
            )
        loss = self.function(policy, **given, **values)
        if not isinstance(loss, Loss):
            raise MethodError(f"{self.name}: must return a Loss, got {type(loss).__name__}; return Loss.of(values [n])")
        return loss

    def _explained(self, needs: list[str]) -> str:
        conditions = {name: f", as {c.hyperparameter} is {c.value}" for name, c in self.conditions.items()}
        return ", ".join(f"{name} ({NEEDS[name]}{conditions.get(name, '')})" for name in needs)

    def initial_state(self, **hyperparameters: object) -> Any:
        """A fresh state under these hyperparameters, or None for a method without one."""
        return self.state_type.initial(**self.resolve(hyperparameters)) if self.state_type else None


def _holds(condition: OnlyIf, values: Mapping[str, Any]) -> bool:
    return bool(values[condition.hyperparameter] == condition.value)


def _read_docstring(function: Callable[..., Loss]) -> tuple[str, str, str]:
    """(first line, indented equation, text after "Paper:") of a method's docstring."""
    text = inspect.getdoc(function) or ""
    blocks = [block for block in text.split("\n\n") if block.strip()]
    summary = " ".join(blocks[0].split()) if blocks else ""
    equation = next((inspect.cleandoc(block) for block in blocks if block.startswith("    ")), "")
    paper = next((block.removeprefix("Paper:") for block in blocks if block.startswith("Paper:")), "")
    return summary, equation, " ".join(paper.split())
