"""One run in progress: its data order, the gradient of a step, and its metrics on other data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raypo.data.batches import Plan, random_keys, share_out
from raypo.data.tokens import TokenSet
from raypo.errors import MethodError
from raypo.methods import Loss, Method, logit_metrics
from raypo.training import comm
from raypo.training.memory import out_of_memory_said
from raypo.training.needs import PROVIDERS, Supply, blank, on, shaped
from raypo.training.settings import EngineSetup, Run
from raypo.training.tally import Tally


@dataclass
class Session:
    """A method at work on a supply; `plan` says which examples each optimizer step sees."""

    setup: EngineSetup
    run: Run
    method: Method
    hyperparameters: Mapping[str, Any]
    needs: tuple[str, ...]
    plan: Plan
    supply: Supply

    @property
    def total_steps(self) -> int:
        o = self.run.optimisation
        return o.steps or max(1, math.ceil(round((o.epochs or 0) * self.plan.steps_per_epoch, 9)))

    def gradient(self, step: int) -> dict[str, tuple[float, float]]:
        """Add up the gradient of a step's loss; returns its metrics as (sum, count) over all ranks."""
        batches = self._micro_batches(step)
        normalisers = self._normalisers(batches)
        tally = Tally()
        for i, (share, batch) in enumerate(batches):
            real = len(share) > 0
            self.supply.real, self.supply.batch_seed = real, self._seed(step, i)
            with out_of_memory_said(self.setup, batch):
                loss = self.loss(self.supply, batch)
                total = loss.total(normalisers)
                self.supply.engine.backward(total if real else total * 0.0, last=i == len(batches) - 1)
            tally.add(loss, total, real)
        return tally.over_ranks()

    def _micro_batches(self, step: int) -> list[tuple[np.ndarray, Any]]:
        """This rank's (examples, micro-batch) of a step; a rank without examples repeats one that does not count."""
        examples = self.plan.at(step)
        shares = share_out(examples, self.plan.lengths, comm.world(), self.setup.micro_batch_size)[comm.rank()]
        layout, tokens = self.supply.layout, self.supply.tokens
        return [(share, layout(tokens, share if len(share) else examples[:1])) for share in shares]

    def _normalisers(self, batches: list[tuple[np.ndarray, Any]]) -> list[Tensor]:
        """Each term's weights summed over the whole step: known from masks and labels before any forward pass."""
        sums = []
        for share, batch in batches:
            given = {name: PROVIDERS[name].blank(self.supply, batch) for name in self.needs}
            loss = self.method.loss(blank(self.supply, batch), **given, **self.hyperparameters)
            weights = torch.stack([term.weights.sum().double() for term in loss.terms])
            sums.append(weights if len(share) else torch.zeros_like(weights))
        return list(comm.total(torch.stack(sums).sum(0)))

    def loss(self, supply: Supply, batch: Any) -> Loss:
        """The method's loss of a micro-batch, all needs met."""
        early = [name for name in self.needs if not PROVIDERS[name].late]
        given = {name: PROVIDERS[name].give(supply, batch, None) for name in early}
        forward = supply.engine.forward(on(supply, batch))
        late = [name for name in self.needs if PROVIDERS[name].late]
        given |= {name: PROVIDERS[name].give(supply, batch, forward) for name in late}
        policy = shaped(supply.tokens, batch, batch.spread(forward.logps))
        loss = self.method.loss(policy, **given, **self.hyperparameters)
        if forward.spread is None:
            return loss
        logits, entropy = (shaped(supply.tokens, batch, batch.spread(row)) for row in forward.spread)
        return loss.with_metrics(**logit_metrics(logits, entropy))

    @torch.no_grad()
    def evaluate(self, supply: Supply) -> dict[str, float]:
        """Means of the method's metrics over the examples of a supply, whatever the batches and ranks.

        Examples whose scores the method cannot take are left out; no metrics are left of none.
        """
        lengths = supply.tokens.example_lengths()
        examples = np.flatnonzero(_taken(self.method, self.hyperparameters, supply.tokens))
        if not len(examples):
            return {}
        order = examples[np.argsort(-lengths[examples], kind="stable")]
        supply.training = False
        tally = Tally()
        shares = share_out(order, lengths, comm.world(), self.setup.micro_batch_size)[comm.rank()]
        for i, share in enumerate(shares):
            supply.real, supply.batch_seed = len(share) > 0, self._seed(-1, i)
            batch = supply.layout(supply.tokens, share if len(share) else order[:1])
            with out_of_memory_said(self.setup, batch):
                tally.add_evaluation(self.loss(supply, batch), supply.real)
        return tally.means_over_ranks()

    def _seed(self, step: int, micro_batch: int) -> int:
        key = random_keys(self.run.seed, step, np.array([micro_batch]))[0]
        return int(key >> np.uint64(1))


def check_data(
    method: Method, needs: tuple[str, ...], data: TokenSet, frozen: Mapping[str, np.ndarray], stage: int
) -> None:
    """Raises MethodError where a method cannot be trained on this data with what the store has."""
    if data.kind != method.data:
        raise MethodError(f"{method.name}: takes {method.data} data, got {data.kind}")
    if data.examples.shape[1] < method.candidates:
        longest = data.examples.shape[1]
        raise MethodError(
            f"{method.name}: needs lists of {method.candidates} answers or more, the longest has {longest}"
        )
    for name in needs:
        if name not in PROVIDERS:
            raise MethodError(f"{method.name}.{name}: training cannot provide it; it has {', '.join(PROVIDERS)}")
    if "token_kl" in needs and stage == 3:
        raise MethodError(f"{method.name}: exact KL needs whole LM heads, got zero_stage 3; use zero_stage 0, 1 or 2")
    if "embeddings" in needs and "embeddings" not in frozen:
        raise MethodError(f"{method.name}: needs prompt embeddings, one row per example; got none")


def check_scores(method: Method, hyperparameters: Mapping[str, Any], data: TokenSet) -> None:
    """Raises MethodError where the method cannot take some of the scores, before a step draws them."""
    if "score" in method.carries and np.isnan(data.score).any():
        missing = int(np.isnan(data.score).sum())
        raise MethodError(f"{method.name}: needs a score of every answer, {missing} of {len(data.score)} have none")
    refused = np.flatnonzero(~_taken(method, hyperparameters, data))
    if len(refused) and method.gap is not None:
        chosen, rejected = data.score[data.examples[refused[0]]]
        example = f"record {data.record[refused[0]]} has {chosen:g} against {rejected:g}"
        value = hyperparameters[method.gap.hyperparameter]
        raise MethodError(method.too_close(value, f"{len(refused)} of {len(data)} pairs", example))


def _taken(method: Method, hyperparameters: Mapping[str, Any], data: TokenSet) -> np.ndarray:
    """bool [E]: the examples whose scores the method can take."""
    if "score" not in method.carries:
        return np.ones(len(data), dtype=bool)
    scores = np.where(data.examples >= 0, data.score[data.examples], 0.0)
    taken = np.asarray(~np.isnan(scores).any(1))
    if method.gap is not None:
        taken &= scores[:, 0] - scores[:, 1] > method.gap.limits[hyperparameters[method.gap.hyperparameter]]
    return taken
