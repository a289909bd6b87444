"""The gradient of a step does not depend on micro-batches, accumulation or ranks; nor do its metrics."""

import dataclasses

import numpy as np
import pytest
import torch
from rank_jobs import DPO, gradient, gradients
from spawned import on_ranks
from training_parts import VOCABULARY, build_model, token_set
from transformers import AutoModelForCausalLM, GPT2Config

from raypo.methods import METHODS
from raypo.training.settings import EngineSetup, Optimisation, Run
from raypo.training.trainer import Trainer

EIGHT = Optimisation(lr=1e-3, batch_size=8, steps=4, gradient_clipping=0.0)
SPLITS = (8, 4, 1, 5)  # 1 x 8, 2 x 4, 8 x 1, 5 + 3
WITH_PROMPTS = Run("orpo", {"nll_span": "prompt_and_answer", "lambda_": 0.5}, EIGHT, seed=0)
RUNS = [
    (Run("dpo", {"beta": 0.3}, EIGHT, seed=0), "pairs"),
    (Run("simpo", {"sft_weight": 0.5}, EIGHT, seed=0), "pairs"),
    (Run("ipo", {"aggregate": "mean"}, EIGHT, seed=0), "pairs"),
    (Run("orpo", {}, EIGHT, seed=0), "pairs"),
    (WITH_PROMPTS, "pairs"),
    (Run("sft", {}, EIGHT, seed=0), "completions"),
]
"""Among them token means, whose weights differ from row to row."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> str:
    """Nothing in it is computed in less than the weights' own precision; its LM head is tied."""
    folder = str(tmp_path_factory.mktemp("gpt2"))
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def table(model) -> tuple[list[list[torch.Tensor]], list[list[list[torch.Tensor]]]]:
    """First-step gradients: alone in every split; on two ranks, plain and ZeRO 2 and 3, in three splits."""
    alone = gradients([EngineSetup(model, zero_stage=0, micro_batch_size=m) for m in SPLITS], RUNS)
    setups = [EngineSetup(model, zero_stage=z, micro_batch_size=m) for z in (0, 2, 3) for m in (4, 1, 3)]
    return alone, on_ranks(2, gradients, setups, RUNS)


@pytest.mark.parametrize("run", range(len(RUNS)), ids=[" ".join((r.method, *r.hyperparameters)) for r, _ in RUNS])
def test_splits_give_one_gradient(table, run):
    alone, ranks = table
    whole = alone[run][0]
    assert whole.norm() > 0
    for other in alone[run][1:]:
        assert distance(other, whole) < 1e-5
    for rank in ranks:
        for other in rank[run]:
            assert distance(other, whole) < 1e-5


def test_the_gradient_is_that_of_the_mean_over_the_whole_step(model):
    """Against autograd on one padded batch, and not on a mean of micro-batch means (which differs)."""
    run = RUNS[-1][0]
    setup = EngineSetup(model, zero_stage=0, micro_batch_size=3)
    trainer = Trainer(setup)
    got = gradient(trainer, run, "completions")
    tokens = token_set("completions")
    examples = trainer.running.plan.at(0)
    lm = trainer.engine.policy.lm
    losses = []
    for s in tokens.examples[examples, 0]:
        ids = torch.from_numpy(tokens.sequence(s).astype(np.int64))
        logps = lm(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        losses.append(-logps[tokens.prompt_lengths[s] - 1 :])
    parameters = trainer.engine.trainable

    def of(loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])

    assert distance(got, of(torch.cat(losses).mean())) < 1e-5
    assert distance(got, of(torch.stack([part.mean() for part in losses]).mean())) > 1e-2


@pytest.mark.parametrize("holes", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("at_once", [8, 3])
def test_nll_over_prompt_and_answer_is_that_of_whole_sequences(gpt2, shared, at_once, holes):
    """In fp64, against the model's own logits on each sequence alone: loss and gradient of a whole step."""
    trainer = Trainer(EngineSetup(gpt2, zero_stage=0, micro_batch_size=at_once))
    trainer._longest_shared = 10**6 if shared else 0
    tokens = token_set(holes=holes)
    trainer.begin(WITH_PROMPTS, tokens)
    lm, parameters = trainer.engine.policy.double().lm, trainer.engine.trainable
    sums = trainer.running.gradient(0)
    nll, scored = [], []
    for s in tokens.examples[trainer.running.plan.at(0)].T.flatten():
        ids = torch.from_numpy(tokens.sequence(s).astype(np.int64))
        logps = lm(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        nll.append(-logps)
        scored.append(logps[torch.from_numpy(tokens.mask[tokens.offsets[s] + 1 : tokens.offsets[s + 1]])].mean().exp())
    odds = torch.stack(scored) / (1 - torch.stack(scored))
    ratio = torch.sigmoid((odds[:8] / odds[8:]).log()).log()
    loss = torch.cat(nll[:8]).mean() - 0.5 * ratio.mean()
    assert sums["loss"][0] == pytest.approx(loss.item(), rel=1e-13)
    for ours, theirs in zip([p.grad for p in parameters], torch.autograd.grad(loss, parameters), strict=True):
        assert distance(ours, theirs) < 1e-12


def test_ragged_last_batches_count_their_examples(model):
    """12 pairs in steps of 7: the last one has 5, and its mean is over 5."""
    tokens = token_set()
    trainer = Trainer(EngineSetup(model, zero_stage=0, micro_batch_size=2))
    trainer.begin(dataclasses.replace(DPO, optimisation=Optimisation(lr=1e-9, batch_size=7, epochs=1)), tokens)
    assert trainer.total_steps == 2
    seen = []
    trainer.train(2, seen.append)
    assert [m["loss"] for m in seen] == pytest.approx([np.log(2)] * 2, abs=1e-6)
    assert seen[0]["dpo/accuracies"] == 0  # policy == reference: no margin is above 0


@pytest.mark.parametrize("name", sorted(METHODS))
def test_evaluation_does_not_depend_on_its_batches(model, name):
    """Every method: metrics of 12 examples by 1, 5 or 12 at once; those defined on a batch may differ, and say so."""
    method = METHODS[name]
    on_batch = {"batch", "mismatched"} & set(method.needs_for(**_required(method)))
    if on_batch and name != "beta_dpo":  # which is defined on a batch in training only
        pytest.skip("defined on a batch")
    tokens, found = token_set(method.data, seed=5), []
    for at_once in (1, 5, 12):
        trainer = Trainer(EngineSetup(model, zero_stage=0, micro_batch_size=at_once))
        trainer.begin(Run(name, _required(method), EIGHT, seed=0), token_set(method.data), _embeddings(12))
        trainer.running.supply.state = method.initial_state(**_required(method))
        with torch.no_grad():
            for p in trainer.engine.trainable:
                p.mul_(1.05)
        found.append(trainer.evaluate(tokens, _embeddings(12)))
    assert len(found[0]) >= 3
    assert found[1] == pytest.approx(found[0], rel=1e-6, abs=1e-7)
    assert found[2] == pytest.approx(found[0], rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_trains(model, name):
    """Two steps of each: a finite loss, weights that move, metrics by name."""
    method = METHODS[name]
    trainer = Trainer(EngineSetup(model, zero_stage=0, micro_batch_size=3))
    trainer.begin(Run(name, _required(method), EIGHT, seed=0), token_set(method.data), _embeddings(12))
    before = [p.clone() for p in trainer.engine.trainable]
    seen = []
    trainer.train(2, seen.append)
    assert all(np.isfinite(value) for metrics in seen for value in metrics.values())
    assert seen[0]["grad_norm"] > 0
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.engine.trainable, strict=True))


def _required(method):
    """A value for every hyperparameter without a default."""
    from raypo.methods import REQUIRED

    values = {}
    for name, h in method.hyperparameters.items():
        if h.default is REQUIRED:
            values[name] = h.choices[0] if h.choices else 0.1
    return values


def _embeddings(n: int) -> dict[str, np.ndarray]:
    rows = np.random.default_rng(0).normal(size=(n, 6))
    return {"embeddings": (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)}
