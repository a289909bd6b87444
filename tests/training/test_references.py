"""References: cached ones equal live ones bit for bit, moving ones move as told, mismatched ones are what KTO means."""

import dataclasses

import numpy as np
import pytest
import torch
from rank_jobs import go_on, with_stored_hidden
from spawned import on_ranks
from training_parts import build_model, token_set

from raypo.data.mismatch import mismatched
from raypo.training.frozen import frozen_hidden, frozen_logps
from raypo.training.layout import Layout, MicroBatch
from raypo.training.needs import PROVIDERS
from raypo.training.settings import EngineSetup, Optimisation, Run
from raypo.training.trainer import Trainer


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def trainer(model) -> Trainer:
    return Trainer(EngineSetup(model, zero_stage=0, micro_batch_size=3))


def stored(trainer: Trainer, tokens, at_once: int = 5) -> np.ndarray:
    device = trainer.engine.device
    return frozen_logps(trainer.reference.forward, tokens, trainer.layout(tokens), at_once, device)


@pytest.mark.parametrize(("method", "kind"), [("dpo", "pairs"), ("offline_ppo", "unpaired"), ("kto", "unpaired")])
def test_a_cached_reference_trains_as_a_live_one_bit_for_bit(trainer, method, kind):
    """Computed 5 at a time over the sorted set, used 3 at a time in shuffled order."""
    tokens = token_set(kind, examples=16, longest=150)
    run = Run(method, {}, Optimisation(lr=1e-3, batch_size=8, epochs=2), seed=1)
    trainer.begin(run, tokens)
    live = go_on(trainer)
    frozen = {"reference": stored(trainer, tokens)}
    if method == "kto":
        frozen["mismatched"] = stored(trainer, mismatched(tokens, int(tokens.lengths.max())))
    trainer.begin(run, tokens, frozen)
    assert trainer.running.supply.reference is None  # no live copy takes part
    assert go_on(trainer) == live


def test_a_reference_that_training_does_not_ask_gives_its_memory_back_and_answers_as_before(trainer):
    """On a CPU a copy shares the start weights; here it is given memory of its own, as on a GPU."""
    tokens, answers = token_set(), [([1, 2, 3], [4, 5, 6]), ([9], [8, 7])]
    frozen, reference = {"reference": stored(trainer, tokens)}, trainer.reference
    _, before = trainer.sample_logps(answers)
    for cached, rests in ((frozen, True), ({}, False)):
        trainer.begin(Run("dpo", {}, Optimisation(lr=1e-3, batch_size=8, epochs=1), 0), tokens, cached)
        for p in reference.parameters:
            p.data = p.data.clone()
        trainer.train(2)
        pairs = zip(reference.parameters, trainer.engine.start, strict=True)
        shared = [p.data_ptr() == start.data_ptr() for p, start in pairs]
        assert shared == [rests] * len(shared)
        _, after = trainer.sample_logps(answers)
        assert all((a == b).all() for a, b in zip(after, before, strict=True))


def test_policy_equal_to_reference_gives_exactly_zero(trainer):
    tokens = token_set(examples=16, longest=150)
    trainer.begin(Run("dpo", {}, Optimisation(lr=1e-3, batch_size=8, epochs=1), 0), tokens)
    for frozen in ({}, {"reference": stored(trainer, tokens)}):
        found = trainer.evaluate(tokens, frozen)
        assert found["dpo/margins"] == 0.0
        assert found["kl/token_k1"] == 0.0


def test_stored_log_probs_are_zero_off_the_mask_and_the_models_own_on_it(trainer):
    tokens = token_set(examples=4, holes=True)
    flat = stored(trainer, tokens)
    assert flat.dtype == np.float32
    assert flat.shape == tokens.ids.shape
    assert (flat[~tokens.mask] == 0).all()
    assert (flat[tokens.mask] < 0).all()
    s = 3
    ids = torch.from_numpy(tokens.sequence(s).astype(np.int64))
    with trainer.policy() as lm:
        own = lm(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0].numpy()
    scored = tokens.mask[tokens.offsets[s] : tokens.offsets[s + 1]]
    np.testing.assert_allclose(
        flat[tokens.offsets[s] : tokens.offsets[s + 1]][1:][scored[1:]], own[scored[1:]], atol=1e-5
    )


def test_a_moving_reference_mixes_when_its_state_says_so(trainer):
    """tau 2, alpha 0.25: reference <- 0.25 policy + 0.75 reference after steps 2, 4, ..., else unmoved."""
    tokens = token_set()
    trainer.begin(Run("tr_dpo", {"tau": 2, "alpha": 0.25}, Optimisation(lr=1e-3, batch_size=4, steps=5), 0), tokens)
    moving = trainer.running.supply.moving
    expected = [p.clone() for p in moving.parameters]
    for step in range(1, 5):
        trainer.train(step)
        if step % 2 == 0:
            expected = [0.75 * r + 0.25 * p for r, p in zip(expected, trainer.engine.trainable, strict=True)]
        for mine, want in zip(moving.parameters, expected, strict=True):
            torch.testing.assert_close(mine, want, rtol=1e-5, atol=1e-7)


def test_a_hard_update_is_an_exact_copy(trainer):
    trainer.begin(Run("tr_dpo", {"tau": 1, "alpha": 1.0}, Optimisation(lr=1e-3, batch_size=4, steps=3), 0), token_set())
    seen = []
    trainer.train(3, seen.append)
    assert [m["rewards/margins"] for m in seen] == [0.0] * 3
    assert seen[-1]["dpo/margins"] != 0.0


def test_mismatched_log_ratios_are_of_other_prompts_answers(trainer):
    tokens = token_set("unpaired", examples=8)
    trainer.begin(Run("kto", {}, Optimisation(lr=1e-3, batch_size=8, steps=4), 0), tokens)
    trainer.train(2)
    supply = trainer.running.supply
    examples = np.array([5, 1, 6])
    batch = MicroBatch.of(tokens, examples, Layout(shared=False, rows="by_width"))
    got = PROVIDERS["mismatched"].give(supply, batch, None)
    other = mismatched(tokens, int(tokens.lengths.max()))
    answers = []
    for s in examples:
        ids, n = other.sequence(s).tolist(), int(other.prompt_lengths[s])
        answers.append((ids[:n], ids[n:]))
        assert ids[:n] == tokens.sequence(s).tolist()[:n]
        assert ids != tokens.sequence(s).tolist()
    policy, reference = trainer.sample_logps(answers)
    want = [float(p.sum() - r.sum()) for p, r in zip(policy, reference, strict=True)]
    assert got.tolist() == pytest.approx(want, abs=1e-4)
    assert not got.requires_grad


def test_a_critic_changes_the_engine_and_learns(trainer):
    run = Run("offline_ppo", {"advantage": "gae"}, Optimisation(lr=1e-3, batch_size=4, epochs=2), 0)
    plain = trainer.engine
    trainer.begin(run, token_set("unpaired"))
    assert trainer.engine is not plain
    critic = trainer.engine.policy.critic
    assert float(critic.weight.abs().sum()) == 0
    first = go_on(trainer)
    assert float(critic.weight.abs().sum()) > 0
    trainer.begin(run, token_set("unpaired"))
    assert go_on(trainer) == first


def test_exact_kl_reaches_the_loss(trainer):
    run = Run("offline_ppo", {"kl_mode": "exact"}, Optimisation(lr=1e-3, batch_size=4, epochs=1), 0)
    trainer.begin(run, token_set("unpaired"))
    seen = []
    trainer.train(3, seen.append)
    assert seen[0]["ppo/kl"] == 0.0
    assert seen[-1]["ppo/kl"] > 0.0


@pytest.mark.parametrize(("method", "kind"), [("epsilon_dpo", "pairs"), ("offline_ppo", "unpaired")])
def test_stored_hidden_states_train_as_live_ones_bit_for_bit(trainer, monkeypatch, method, kind):
    """Without the reference but for its LM head, cold and warm: computed 5 at a time, used 3 at a time."""
    tokens = token_set(kind, examples=16, longest=150, holes=True)
    given = {"kl_mode": "exact"} if method == "offline_ppo" else {"beta": 0.3, "epsilon": 0.05}
    run = Run(method, given, Optimisation(lr=1e-3, batch_size=8, epochs=2), seed=1)
    trainer.begin(run, tokens)
    live, seen = [], []
    trainer.train(10**6, live.append)
    settings = (trainer.layout(tokens), 5, trainer.engine.device)
    hidden = frozen_hidden(trainer.reference.forward, tokens, *settings)
    assert hidden.shape == (tokens.mask.sum(), trainer.engine.policy.head.in_features)
    frozen = {"reference": stored(trainer, tokens), "hidden": hidden}
    other = Trainer(trainer.setup)
    monkeypatch.setattr(Trainer, "reference", property(lambda _: pytest.fail("the whole reference is not needed")))
    for _ in range(2):
        other.begin(run, tokens, frozen)
        seen.clear()
        other.train(10**6, seen.append)
        assert seen == live


@pytest.mark.parametrize("stage", [2, 3])
def test_stored_hidden_states_need_the_start_models_head_alone_under_zero(model, stage):
    """ZeRO-3's head is in parts until it is asked for; there a micro-batch is one pass, equal up to rounding."""
    live, stored = on_ranks(2, with_stored_hidden, EngineSetup(model, zero_stage=stage, micro_batch_size=2))[0]
    assert len(live) == 3
    for got, want in zip(stored, live, strict=True):
        assert got == (want if stage == 2 else pytest.approx(want, rel=1e-4, abs=1e-6))


def test_hidden_states_in_bf16_keep_their_bits(model):
    trainer = Trainer(EngineSetup(model, zero_stage=0))
    tokens = token_set(examples=3)
    trainer.begin(Run("dpo", {}, Optimisation(lr=1e-3, batch_size=3, steps=1), 0), tokens)

    def halved(passes):
        forward = trainer.reference.forward(passes)
        return dataclasses.replace(forward, hidden=forward.hidden.bfloat16())

    settings = (tokens, trainer.layout(tokens), 2, trainer.engine.device)
    bits = frozen_hidden(halved, *settings)
    assert bits.dtype == np.int16
    whole = torch.from_numpy(frozen_hidden(trainer.reference.forward, *settings))
    assert torch.equal(torch.from_numpy(bits).view(torch.bfloat16), whole.bfloat16())
