"""One row per method (and form of it), and random inputs for all: a new method is tested by adding its row."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import exp, log, log1p
from typing import Any

import torch
from torch import Tensor

from raypo.methods import METHODS, Batch, FullLogPartition, Loss, Pairs, Ranked, Scores, Unpaired

LN2 = log(2)


@dataclass(frozen=True)
class Row:
    """A method under hyperparameters; `at_reference` is its hand-computed loss when policy == reference, if it has one.

    `on_batch`: the loss is defined on a batch, so that splitting it changes the value. `smooth`: what is differentiated
    is what is computed (false where a statistic of the policy is detached).
    """

    method: str
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    at_reference: float | None = None
    on_batch: bool = False
    smooth: bool = True

    def __str__(self) -> str:
        values = ",".join(f"{name}={value}" for name, value in self.hyperparameters.items())
        return f"{self.method}({values})"


ROWS = [
    Row("sft"),
    Row("dpo", at_reference=LN2),
    Row("cdpo", {"epsilon": 0.2}, LN2),
    Row("robust_dpo", {"epsilon": 0.2}, LN2),
    Row("ipo", {"tau": 0.1, "aggregate": "sum"}, 25.0),
    Row("ipo", {"tau": 0.1, "aggregate": "mean"}, 25.0),
    Row("kto", {"lambda_desirable": 1.5, "lambda_undesirable": 0.5}, 0.5),
    Row("kto_tanh", {"lambda_desirable": 1.5, "lambda_undesirable": 0.5}, 1.0),
    Row("slic"),
    Row("slic", {"sft_reduction": "token_mean", "lambda_": 2.0}),
    Row("cpo"),
    Row("cpo", {"nll_reduction": "sum"}),
    Row("rpo", {"tau": 0.3}, LN2, on_batch=True),
    Row("rpo", {"weighting": "diagonal", "diagonal_weight": 0.7}, LN2, on_batch=True),
    Row("rpo_unpaired", {"tau": 0.3}, LN2, on_batch=True),
    Row("rrhf"),
    Row("rrhf", {"rank_weight": 3.0, "lambda_": 0.5, "length_penalty": 0.7, "sft_reduction": "sum"}),
    Row("orpo"),
    Row("orpo", {"lambda_": 1.0, "beta": 0.3, "nll_weight": 0.0}),
    Row("orpo", {"nll_reduction": "sequence_mean"}),
    Row("orpo", {"nll_span": "prompt_and_answer"}),
    Row("asft"),
    Row("asft", {"lambda_": 1.0, "beta": 0.3, "nll_weight": 0.0}),
    Row("asft", {"nll_reduction": "token_mean"}),
    Row("r_dpo", {"alpha": 0.0}, LN2),
    Row("r_dpo", {"alpha": 0.3}),
    Row("simpo"),
    Row("simpo", {"sft_weight": 0.5}),
    Row("beta_dpo", {"drop": 0.0}, LN2, on_batch=True, smooth=False),
    Row("beta_dpo", {"a": 0.0, "drop": 0.4}, LN2, on_batch=True),
    Row("tr_dpo", {"alpha": 1.0, "tau": 1}, LN2),
    Row("epsilon_dpo", {"beta": 0.3}, LN2),
    Row("epsilon_dpo", {"beta": 0.3, "beta_update": "mean_beta", "min_dz": 0.01, "epsilon_check": 0.05}, LN2),
    Row("offline_ppo", at_reference=-2 / 20),  # 11 desirable tokens, 9 undesirable
    Row("offline_ppo", {"clip": "reciprocal", "kl_mode": "legacy", "whiten": True}, 0.0, on_batch=True),
    Row("offline_ppo", {"kl_mode": "head"}, -2 / 20),
    Row("offline_ppo", {"kl_mode": "exact"}),
    Row("offline_ppo", {"advantage": "gae", "whiten": True, "critic_weight": 0.5}, on_batch=True),
    Row("offline_ppo", {"advantage": "gae", "returns": "exclusive"}),
    Row("ld_dpo", {"alpha": 0.3}, LN2),
    Row("odpo", {"scale": "identity"}, log1p(exp(0.6))),
    Row("odpo", {"scale": "log"}, log(1.6)),
    Row("odpo", {"scale": "log1p"}, log(2.6)),
    Row("dmpo", {"gamma": 0.7}, LN2),
    Row("dmpo", {"gamma": 1.0}, LN2),
    Row("rank_dpo"),
    Row("brain", {"beta": 0.3}, log(3)),
]


@dataclass(frozen=True)
class World:
    """Six random completions of five tokens, with all that any method may ask about them.

    As pairs: rows 0-2 chosen, 3-5 rejected. As labels: rows 0-2 desirable. As lists: two prompts of three answers.
    """

    logits: Tensor
    reference_logits: Tensor
    moving_logits: Tensor
    labels: Tensor
    mask: Tensor
    unit: Tensor
    score: Tensor
    group: Tensor
    embeddings: Tensor
    value: Tensor
    token_kl: Tensor
    mismatched: Tensor
    prompt: Tensor
    prompt_mask: Tensor

    @classmethod
    def random(cls, seed: int = 0, tokens: int = 5, vocabulary: int = 4) -> World:
        generator = torch.Generator().manual_seed(seed)

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        mask = torch.arange(tokens) < torch.tensor([5, 2, 4, 3, 5, 1])[:, None]
        return cls(
            logits=noise(6, tokens, vocabulary),
            reference_logits=noise(6, tokens, vocabulary),
            moving_logits=noise(6, tokens, vocabulary),
            labels=torch.randint(vocabulary, (6, tokens), generator=generator),
            mask=mask,
            unit=torch.where(mask, torch.arange(tokens) // 2, -1),
            score=torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2, 0.0], dtype=torch.float64),
            group=torch.tensor([7, 2, 7, 2, 7, 2]),
            embeddings=torch.nn.functional.normalize(noise(6, 8), dim=-1),
            value=noise(6, tokens),
            token_kl=noise(6, tokens).abs(),
            mismatched=noise(4) + 1,
            prompt=-noise(6, tokens).abs(),
            prompt_mask=torch.arange(tokens) < torch.tensor([2, 0, 3, 1, 1, 2])[:, None],
        )

    def at_reference(self) -> World:
        """The same with policy and moving reference equal to the reference, and what follows from that."""
        zero = torch.zeros_like(self.mismatched)
        reference = self.reference_logits
        return replace(self, logits=reference, moving_logits=reference, mismatched=zero)

    def padded(self, left: int, right: int) -> World:
        """The same with columns of garbage on both sides."""
        wide = {
            name: torch.nn.functional.pad(getattr(self, name), (0, 0, left, right), value=0.5)
            for name in ("logits", "reference_logits", "moving_logits")
        }
        wide |= {
            name: torch.nn.functional.pad(getattr(self, name), (left, right), value=9.0)
            for name in ("value", "prompt", "token_kl")
        }
        flat = {"labels": 1, "mask": False, "prompt_mask": False, "unit": -1}
        wide |= {name: torch.nn.functional.pad(getattr(self, name), (left, right), value=v) for name, v in flat.items()}
        return replace(self, **wide)

    def rows(self, index: Tensor) -> World:
        """Some completions, in some order."""
        whole = {"mismatched"}
        return World(**{n: t if n in whole else t[index] for n, t in vars(self).items()})

    def policy_logps(self) -> Tensor:
        return token_logps(self.logits, self.labels)


def token_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """[N, T] log-probs of the labels."""
    return logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)


def data(row: Row, world: World, logps: Tensor) -> Any:
    """Log-probs [N, T] as the data of the row's method."""
    kind, n = METHODS[row.method].policy_type, len(logps)
    scores = Scores.of(logps, world.mask, world.unit, world.score)
    if kind is Pairs:
        halves = (
            Scores.of(logps[i], world.mask[i], world.unit[i], world.score[i]) for i in (slice(n // 2), slice(n // 2, n))
        )
        return Pairs(*halves)
    if kind is Unpaired:
        return Unpaired(scores, world.score > 0.5)
    return Ranked(scores, world.group) if kind is Ranked else scores


def inputs(row: Row, world: World) -> dict[str, Any]:
    """What the row's method asks for beside the policy, by name."""
    method, half = METHODS[row.method], len(world.mask) // 2
    f, g, mask = world.logits, world.reference_logits, world.mask
    everything = {
        "reference": data(row, world, token_logps(g, world.labels)),
        "moving_reference": data(row, world, token_logps(world.moving_logits, world.labels)),
        "mismatched": world.mismatched,
        "log_partition": FullLogPartition.of(f[:half], f[half:], g[:half], g[half:], mask[:half], mask[half:]),
        "token_kl": world.token_kl,
        "embeddings": world.embeddings[:half] if method.data == "pairs" else world.embeddings,
        "value": world.value,
        "prompt": Scores.of(world.prompt[:half], world.prompt_mask[:half]),
        "batch": Batch(),
        "state": method.initial_state(**row.hyperparameters),
    }
    return {name: everything[name] for name in method.needs_for(**row.hyperparameters)}


def loss(row: Row, world: World, logps: Tensor | None = None, **replaced: Any) -> Loss:
    """The row's loss on a world, of other policy log-probs if given."""
    policy = data(row, world, world.policy_logps() if logps is None else logps)
    return METHODS[row.method].loss(policy, **(inputs(row, world) | replaced), **row.hyperparameters)


def gradient(row: Row, world: World, **replaced: Any) -> tuple[Loss, Tensor]:
    """The row's loss and d mean / d token log-probs [N, T]."""
    logps = world.policy_logps().requires_grad_()
    value = loss(row, world, logps, **replaced)
    return value, torch.autograd.grad(value.mean(), logps)[0]


def pairs(chosen: list[float], rejected: list[float]) -> Pairs:
    """Pairs of one-token completions with these log-probs, fp64."""
    return Pairs.of(*(torch.tensor(side, dtype=torch.float64)[:, None] for side in (chosen, rejected)))


def labelled(logps: list[float], desirable: list[bool]) -> Unpaired:
    """Labelled one-token completions with these log-probs, fp64."""
    return Unpaired.of(torch.tensor(logps, dtype=torch.float64)[:, None], None, torch.tensor(desirable))


def swapped(policy: Pairs) -> Pairs:
    """Chosen and rejected the other way round."""
    return Pairs(policy.rejected, policy.chosen)
