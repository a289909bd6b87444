"""One policy, run after run, on an engine that stays warm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from raypo.data.batches import Plan
from raypo.data.mismatch import mismatched
from raypo.data.tokens import TokenSet
from raypo.errors import Diverged
from raypo.methods import Method, load_method, means
from raypo.training import checkpoints
from raypo.training.engine import Engine, make_engine
from raypo.training.export import export, plain_model
from raypo.training.frozen import sequence_logps
from raypo.training.layout import Layout, MicroBatch
from raypo.training.memory import give_back
from raypo.training.model import Head
from raypo.training.needs import LIVE_REFERENCE, Supply
from raypo.training.optim import lr_at
from raypo.training.probe import check_head, longest_joined, longest_shared
from raypo.training.reference import LiveCopy, present_head
from raypo.training.session import Session, check_data, check_scores
from raypo.training.settings import EngineSetup, Optimisation, Run

JOINED_FROM = 128
"""Mean tokens of an example from which on joined rows are faster than passes by width, measured on a small model.

A larger one loses nothing by them on shorter examples, and gains little."""
OnStep = Callable[[dict[str, float]], None]
Frozen = Mapping[str, np.ndarray]
"""What the store has: "reference" and "mismatched" log-probs, flat as their token sets' ids, "embeddings" [E, D],
"hidden" [scored tokens, D] of the reference (see `frozen`)."""


class Trainer:
    """Serves runs on one engine setup. Every method is called by all ranks together."""

    def __init__(self, setup: EngineSetup) -> None:
        self.setup = setup
        self._engine: Engine | None = make_engine(setup)
        self.session: Session | None = None
        self.step = 0
        self._critic = self._dirty = False
        self._reference: LiveCopy | None = None
        self._head: Head | None = None
        self._moving: LiveCopy | None = None
        check_head(self.engine)

    # A run ----------------------------------------------------------------------------------------------------------

    def begin(self, run: Run, data: TokenSet, frozen: Frozen | None = None, *, allow_code: bool = False) -> None:
        """Start `run` from the start weights; what `frozen` lacks is computed live.

        Raises:
            MethodError: an unknown method or hyperparameter, or data that the method cannot be trained on.
        """
        method = load_method(run.method, allow_code=allow_code)
        hyperparameters = method.resolve(run.hyperparameters)
        needs = method.needs_for(**hyperparameters)
        check_data(method, needs, data, frozen or {}, self.setup.zero_stage)
        check_scores(method, hyperparameters, data)
        self._prepare_engine(critic="value" in needs, optimisation=run.optimisation)
        if "moving_reference" not in needs and self._moving is not None:
            self._moving = self.session = None
            give_back()
        torch.manual_seed(run.seed)
        if self._head is None and "hidden" in (frozen or {}):
            self._head = present_head(self.engine)
        supply = self._supply(needs, data, frozen or {}, method.initial_state(**hyperparameters))
        if supply.moving is not None:
            supply.moving.restart()
        plan = Plan.of(data, run.optimisation.batch_size, run.seed)
        self.session = Session(self.setup, run, method, hyperparameters, needs, plan, supply)
        self.step = 0

    def rewind(self) -> None:
        """Back to the start weights, outside any run."""
        self._prepare_engine(self._critic, Optimisation(lr=1.0, batch_size=1, steps=1))
        self.session = None

    def _prepare_engine(self, critic: bool, optimisation: Optimisation) -> None:
        """Start weights and an empty optimizer: in place, unless the engine has another shape or an error broke it."""
        if self.closed or critic != self._critic or self._dirty:
            self.close()
            self._engine, self._critic = make_engine(self.setup, critic), critic
        self._dirty = True
        self.engine.reset(optimisation)
        self._dirty = False

    def _supply(self, needs: tuple[str, ...], data: TokenSet, frozen: Frozen, state: Any) -> Supply:
        cached = {"reference", "mismatched"} & set(needs)
        heads = bool(LIVE_REFERENCE & set(needs))
        head = self._head if "hidden" in frozen else None
        live = (heads and head is None) or not cached <= frozen.keys()
        if "moving_reference" in needs and self._moving is None:
            self._moving = LiveCopy(self.setup, self.engine, moving=True)
        return Supply(
            tokens=data,
            frozen=frozen,
            engine=self.engine,
            layout=partial(self._micro_batch, prompts="prompt" in needs),
            state=state,
            reference=self.reference if live else None,
            reference_head=(head or self.reference.policy.head) if heads else None,
            moving=self._moving if "moving_reference" in needs else None,
            mismatched=mismatched(data, data.longest) if "mismatched" in needs else None,
        )

    @property
    def engine(self) -> Engine:
        """What holds the policy and its optimizer; `begin` may put another one in its place."""
        assert self._engine is not None, "the trainer is closed"
        return self._engine

    @property
    def closed(self) -> bool:
        """Whether there is no engine: it was closed, or another one in its place could not be built."""
        return self._engine is None

    @property
    def running(self) -> Session:
        """The run in progress."""
        assert self.session is not None, "begin a run first"
        return self.session

    @property
    def total_steps(self) -> int:
        return self.running.total_steps

    @property
    def fraction(self) -> float:
        """Share of the schedule that is done."""
        return self.step / self.total_steps

    @property
    def method(self) -> Method:
        """The running method."""
        return self.running.method

    @property
    def needs(self) -> tuple[str, ...]:
        """What the running method asks for beside the policy."""
        return self.running.needs

    @property
    def partitioned(self) -> bool:
        """Whether every forward pass is a collective, so that ranks must keep in step."""
        return self.setup.zero_stage == 3

    # Training -------------------------------------------------------------------------------------------------------

    def train(self, until_step: int, on_step: OnStep = lambda _: None) -> None:
        """Take optimizer steps up to `until_step`, telling `on_step` the metrics of each.

        Raises:
            Diverged: the loss or its gradient is no longer a finite number.
            ClusterError: out of memory.
        """
        if self._reference is not None and self.running.supply.reference is None:
            self._reference.rest()
        while self.step < min(until_step, self.total_steps):
            lr = lr_at(self.step, self.total_steps, self.running.run.optimisation)
            self._dirty = True  # an error would leave half a gradient behind
            sums = self.running.gradient(self.step)
            norm = self.engine.step(lr)
            self._dirty = False
            self._check(sums["loss"][0], "loss")
            self._check(norm, "gradient norm")
            loss = sums.pop("loss")[0]
            self._after_step(sums)
            self.step += 1
            on_step(
                {"step": self.step, "fraction": self.fraction, "loss": loss, "lr": lr, "grad_norm": norm, **means(sums)}
            )

    def _after_step(self, sums: dict[str, tuple[float, float]]) -> None:
        supply = self.running.supply
        if supply.state is None:
            return
        supply.state.after_step(sums)
        if supply.moving is not None and supply.state.mix > 0:
            supply.moving.mix(supply.state.mix)

    def _check(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise Diverged(
                f"{self.running.run.method}: {what} is {value} at step {self.step + 1} of {self.total_steps}; lower "
                "the learning rate, or look at the hyperparameters"
            )

    # Measuring ------------------------------------------------------------------------------------------------------

    def evaluate(self, data: TokenSet, frozen: Frozen | None = None) -> dict[str, float]:
        """Metrics of the running method on other data: means over examples, whatever the batches and ranks.

        Examples whose scores the method cannot take are left out; no metrics are left of none.
        """
        run = self.running
        check_data(run.method, run.needs, data, frozen or {}, self.setup.zero_stage)
        return run.evaluate(self._supply(run.needs, data, frozen or {}, run.supply.state))

    def sample_logps(
        self, answers: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Per-token log-probs of (prompt ids, answer ids) under policy and start model; each rank brings its own."""
        at_once, device = self.setup.micro_batch_size, self.engine.device
        policy = sequence_logps(self.engine.forward, answers, at_once, device)
        return policy, sequence_logps(self.reference.forward, answers, at_once, device)

    @contextmanager
    def policy(self) -> Iterator[PreTrainedModel]:
        """The policy as a plain Hugging Face model in evaluation mode, whole on every rank, for sampling."""
        with plain_model(self.engine, self.setup) as model:
            yield model

    @property
    def reference(self) -> LiveCopy:
        """The start model, live; made when first asked for and kept."""
        if self._reference is None:
            self._reference = LiveCopy(self.setup, self.engine, moving=False)
        return self._reference

    def layout(self, tokens: TokenSet) -> Layout:
        """How the examples of a token set go through the model."""
        shared = tokens.examples.shape[1] > 1 and tokens.longest <= self._longest_shared
        if self.partitioned or self.engine.device.type != "cpu":
            return Layout(shared, "padded")
        joins = tokens.mean_example >= JOINED_FROM and tokens.longest <= self._longest_joined
        return Layout(shared, "joined" if joins else "by_width")

    @cached_property
    def _longest_shared(self) -> int:
        return longest_shared(self.engine)

    @cached_property
    def _longest_joined(self) -> int:
        return longest_joined(self.engine)

    def _micro_batch(self, tokens: TokenSet, examples: np.ndarray, prompts: bool) -> MicroBatch:
        return MicroBatch.of(tokens, examples, self.layout(tokens), prompts)

    # Keeping --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write this rank's part of everything that the rest of the run depends on into `folder`, which is new.

        All ranks do so within `write_together`, which says when the checkpoint is whole.
        """
        checkpoints.save(self, folder)

    def load(self, folder: Path) -> None:
        """Go on from a folder that `save` wrote, after `begin` of the same run.

        Raises:
            StorageError: no checkpoint, one of another run, or one that this many workers cannot read.
        """
        checkpoints.load(self, folder)

    def export(self, folder: Path) -> None:
        """Write the policy as a Hugging Face folder, adapters merged."""
        export(self.engine, self.setup, folder)

    def close(self) -> None:
        """Free the engine, so that another one has its memory; the process group belongs to the caller."""
        self._reference = self._head = self._moving = self.session = None
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        give_back()
