"""The training loop: one policy, run after run, on an engine that stays warm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raypo.data.batches import Plan, random_keys, share_out
from raypo.data.mismatch import mismatched
from raypo.data.tokens import TokenSet
from raypo.errors import Diverged, MethodError
from raypo.methods import Loss, Method, load_method, means
from raypo.training import checkpoints, comm
from raypo.training.engine import Engine, make_engine
from raypo.training.export import export, plain_model
from raypo.training.frozen import sequence_logps
from raypo.training.layout import MicroBatch
from raypo.training.needs import PROVIDERS, Supply, blank, on, shaped
from raypo.training.optim import lr_at
from raypo.training.reference import LiveCopy
from raypo.training.settings import EngineSetup, Run
from raypo.training.sharing import shares_prefix
from raypo.training.tally import Tally

OnStep = Callable[[dict[str, float]], None]
NEEDS_LIVE_REFERENCE = {"log_partition", "token_kl"}


class Trainer:
    """Serves runs on one engine setup. Every method is called by all ranks together."""

    def __init__(self, setup: EngineSetup) -> None:
        self.setup = setup
        self.engine: Engine = make_engine(setup)
        self._critic = self._dirty = False
        self._reference: LiveCopy | None = None
        self._moving: LiveCopy | None = None
        self._shares: bool | None = None
        self.step = self.total_steps = 0

    # A run --------------------------------------------------------------------------------------------------------

    def begin(
        self, run: Run, data: TokenSet, frozen: Mapping[str, np.ndarray] | None = None, *, allow_code: bool = False
    ) -> None:
        """Start `run` from the start weights. `frozen` holds what the store has: "reference" and "mismatched"
        log-probs, flat as their token sets' ids, and "embeddings" [E, D]; what is missing is computed live.
        """
        self.run, self.method = run, load_method(run.method, allow_code=allow_code)
        self.hyperparameters = self.method.resolve(run.hyperparameters)
        self.needs = self.method.needs_for(**self.hyperparameters)
        _check_data(self.method, self.needs, data, frozen or {})
        self._prepare_engine("value" in self.needs)
        self.engine.reset(run.optimisation)
        torch.manual_seed(run.seed)
        self.plan = Plan.of(data, run.optimisation.batch_size, run.seed)
        o = run.optimisation
        self.total_steps = o.steps or max(1, math.ceil(round((o.epochs or 0) * self.plan.steps_per_epoch, 9)))
        self.step = 0
        self._supply = self._make_supply(data, frozen or {})

    def _prepare_engine(self, critic: bool) -> None:
        if critic != self._critic or self._dirty:
            self._drop_engine()
            self.engine = make_engine(self.setup, critic)
            self._critic = critic
        self._dirty = True  # until the first step has gone well, a failure may leave half a gradient behind

    def _make_supply(self, data: TokenSet, frozen: Mapping[str, np.ndarray]) -> Supply:
        supply = Supply(data, frozen, self.engine, self._layout, self.method.initial_state(**self.hyperparameters))
        if "mismatched" in self.needs:
            supply.mismatched = mismatched(data, int(data.lengths.max()))
        if self._wants_live_reference(frozen):
            supply.reference = self.reference
        if "moving_reference" in self.needs:
            if self._moving is None:
                self._moving = LiveCopy(self.setup, self.engine, moving=True)
            self._moving.restart()
            supply.moving = self._moving
        return supply

    def _wants_live_reference(self, frozen: Mapping[str, np.ndarray]) -> bool:
        """Whether a need can only be met live, or the store lacks what it needs."""
        cached = {"reference", "mismatched"} & set(self.needs)
        return bool(NEEDS_LIVE_REFERENCE & set(self.needs)) or not cached <= frozen.keys()

    @property
    def reference(self) -> LiveCopy:
        """The start model, live; made when first asked for and kept."""
        if self._reference is None:
            self._reference = LiveCopy(self.setup, self.engine, moving=False)
        return self._reference

    @property
    def fraction(self) -> float:
        """Share of the schedule that is done."""
        return self.step / self.total_steps

    @property
    def partitioned(self) -> bool:
        """Whether every forward pass is a collective, so that ranks must keep in step."""
        return self.setup.zero_stage == 3

    def rewind(self) -> None:
        """Back to the start weights, outside any run."""
        from raypo.training.settings import Optimisation

        self._prepare_engine(self._critic)
        self.engine.reset(Optimisation(lr=1.0, batch_size=1, steps=1))
        self._dirty = False

    # Training -----------------------------------------------------------------------------------------------------

    def train(self, until_step: int, on_step: OnStep = lambda _: None) -> None:
        """Take optimizer steps up to `until_step`, telling `on_step` the metrics of each.

        Raises:
            Diverged: the loss or its gradient is no longer a finite number.
        """
        while self.step < min(until_step, self.total_steps):
            self._dirty = True
            metrics = self._one_step()
            self._dirty = False
            self.step += 1
            on_step({"step": self.step, "fraction": self.fraction, **metrics})

    def _one_step(self) -> dict[str, float]:
        batches, real = self._micro_batches(self.step)
        normalisers = self._normalisers(batches, real)
        tally = Tally()
        for i, batch in enumerate(batches):
            self._supply.real, self._supply.batch_seed = real[i], self._seed(i)
            loss = self._loss(batch)
            total = loss.total(normalisers)
            self.engine.backward(total if real[i] else total * 0.0, last=i == len(batches) - 1)
            tally.add(loss, total, real[i])
        sums = tally.over_ranks()
        self._check(sums["loss"][0], "loss")
        lr = lr_at(self.step, self.total_steps, self.run.optimisation)
        norm = self.engine.step(lr)
        self._check(norm, "gradient norm")
        self._after_step(sums)
        return {"loss": sums.pop("loss")[0], "lr": lr, "grad_norm": norm, **means(sums)}

    def _after_step(self, sums: dict[str, tuple[float, float]]) -> None:
        state = self._supply.state
        if state is None:
            return
        state.after_step({name: value for name, value in sums.items() if name != "loss"})
        if self._supply.moving is not None and state.mix > 0:
            self._supply.moving.mix(state.mix)

    def _check(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise Diverged(
                f"{self.run.method}: {what} is {value} at step {self.step + 1} of {self.total_steps}; lower the "
                "learning rate, or look at the hyperparameters"
            )

    def _micro_batches(self, step: int) -> tuple[list[MicroBatch], list[bool]]:
        """This rank's micro-batches of a step, and which count: a rank without examples repeats one for nothing."""
        examples = self.plan.at(step)
        shares = share_out(examples, self.plan.lengths, comm.world(), self.setup.micro_batch_size)[comm.rank()]
        real = [len(share) > 0 for share in shares]
        batches = [
            self._layout(self._supply.tokens, share if counts else examples[:1])
            for share, counts in zip(shares, real, strict=True)
        ]
        return batches, real

    def _normalisers(self, batches: list[MicroBatch], real: list[bool]) -> list[Tensor]:
        """Each term's weights summed over the whole step: known from masks and labels before any forward pass."""
        sums: list[Tensor] = []
        for batch, counts in zip(batches, real, strict=True):
            given = {name: PROVIDERS[name].blank(self._supply, batch) for name in self.needs}
            loss = self.method.loss(blank(self._supply, batch), **given, **self.hyperparameters)
            weights = torch.stack([term.weights.sum().double() for term in loss.terms]) * counts
            sums.append(weights)
        return list(comm.total(torch.stack(sums).sum(0)))

    def _loss(self, batch: MicroBatch) -> Loss:
        s = self._supply
        given = {name: PROVIDERS[name].give(s, batch, None) for name in self.needs if not PROVIDERS[name].late}
        forward = self.engine.forward(on(s, batch))
        given |= {name: PROVIDERS[name].give(s, batch, forward) for name in self.needs if PROVIDERS[name].late}
        policy = shaped(s.tokens, batch, batch.spread(forward.logps))
        return self.method.loss(policy, **given, **self.hyperparameters)

    def _layout(self, tokens: TokenSet, examples: np.ndarray) -> MicroBatch:
        one_pass = self.partitioned or self.engine.device.type != "cpu"
        return MicroBatch.of(tokens, examples, self.shares_prefix(tokens), one_pass)

    def shares_prefix(self, tokens: TokenSet) -> bool:
        """Whether the completions of a prompt go through the model as one row."""
        if self._shares is None:
            self._shares = shares_prefix(self.engine.policy, self.engine.device)
        return self._shares and tokens.examples.shape[1] > 1

    def _seed(self, micro_batch: int) -> int:
        key = random_keys(self.run.seed, self.step, np.array([micro_batch]))[0]
        return int(key >> np.uint64(1))

    # Measuring ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, data: TokenSet, frozen: Mapping[str, np.ndarray] | None = None) -> dict[str, float]:
        """Metrics of the running method on held-out data: means over examples, whatever the batches and ranks."""
        _check_data(self.method, self.needs, data, frozen or {})
        kept, self._supply = self._supply, self._make_supply_for(data, frozen or {})
        tally = Tally()
        try:
            order = np.argsort(-data.example_lengths(), kind="stable")
            shares = share_out(order, data.example_lengths(), comm.world(), self.setup.micro_batch_size)[comm.rank()]
            for i, share in enumerate(shares):
                self._supply.real, self._supply.batch_seed = len(share) > 0, self._seed(-1 - i)
                loss = self._loss(self._layout(data, share if len(share) else order[:1]))
                tally.add_evaluation(loss, self._supply.real)
        finally:
            self._supply = kept
        return tally.means_over_ranks()

    def _make_supply_for(self, data: TokenSet, frozen: Mapping[str, np.ndarray]) -> Supply:
        """A supply of other data under the run's present state and references."""
        supply = Supply(data, frozen, self.engine, self._layout, self._supply.state, moving=self._supply.moving)
        if "mismatched" in self.needs:
            supply.mismatched = mismatched(data, int(data.lengths.max()))
        if self._wants_live_reference(frozen):
            supply.reference = self.reference
        return supply

    def sample_logps(self, answers: list[tuple[list[int], list[int]]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Per-token log-probs of (prompt ids, answer ids) under policy and start model; each rank brings its own."""
        policy = sequence_logps(self.engine.forward, answers, self.setup.micro_batch_size, self.engine.device)
        reference = sequence_logps(self.reference.forward, answers, self.setup.micro_batch_size, self.engine.device)
        return policy, reference

    @contextmanager
    def policy(self) -> Iterator[Any]:
        """The policy as a plain Hugging Face model in evaluation mode, whole on every rank, for sampling."""
        with plain_model(self.engine, self.setup) as model:
            yield model

    # Keeping ------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write everything that the rest of the run depends on into `folder`, by all ranks together."""
        checkpoints.save(self, folder)

    def load(self, folder: Path) -> None:
        """Go on from a folder that `save` wrote, after `begin` of the same run."""
        checkpoints.load(self, folder)

    def export(self, folder: Path) -> None:
        """Write the policy as a Hugging Face folder, adapters merged."""
        export(self.engine, self.setup, folder)

    def _drop_engine(self) -> None:
        self._reference = self._moving = None
        self.engine.close()

    def close(self) -> None:
        """Free the engine; the process group belongs to the caller."""
        self._drop_engine()


def _check_data(method: Method, needs: tuple[str, ...], data: TokenSet, frozen: Mapping[str, np.ndarray]) -> None:
    if data.kind != method.data:
        raise MethodError(f"{method.name}: takes {method.data} data, got {data.kind}")
    for name in needs:
        if name not in PROVIDERS:
            raise MethodError(f"{method.name}.{name}: training cannot provide it; it has {', '.join(PROVIDERS)}")
    if "embeddings" in needs and "embeddings" not in frozen:
        raise MethodError(f"{method.name}: needs prompt embeddings, one row per example; got none")
