"""Rows, passes and micro-batches: one prompt for all its completions, equal to one row per sequence."""

import numpy as np
import pytest
import torch
from training_parts import build_model, token_set

from raypo.data.batches import Plan, share_out
from raypo.training.layout import WIDTH_STEP, Layout, MicroBatch
from raypo.training.model import load_lm, load_policy
from raypo.training.settings import EngineSetup


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(EngineSetup(build_model(tmp_path_factory.mktemp("model")))).eval()


LAYOUTS = [Layout(shared, rows) for shared in (True, False) for rows in ("joined", "padded", "by_width")]
SHARED = Layout(shared=True, rows="by_width")


def logps(policy, tokens, examples, layout=SHARED):
    batch = MicroBatch.of(tokens, np.asarray(examples), layout)
    with torch.no_grad():
        return batch, batch.spread(policy(batch.passes)[0])


@pytest.mark.parametrize("kind", ["pairs", "unpaired", "ranked", "completions"])
@pytest.mark.parametrize("holes", [True, False])
def test_log_probs_are_the_models_own(policy, kind, holes):
    """Each sequence alone, unpadded, through the Hugging Face model: the same to 1e-5, in every layout."""
    tokens = token_set(kind, holes=holes)
    for layout in LAYOUTS:
        batch, got = logps(policy, tokens, np.arange(len(tokens)), layout)
        for row, mask, s in zip(got, batch.mask, batch.sequences, strict=True):
            ids = torch.from_numpy(tokens.sequence(s).astype(np.int64))
            with torch.no_grad():
                own = policy.lm(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None]).squeeze(1)
            own = own[tokens.prompt_lengths[s] - 1 :]
            scored = torch.from_numpy(
                tokens.mask[tokens.offsets[s] : tokens.offsets[s + 1]][tokens.prompt_lengths[s] :]
            )
            assert torch.equal(mask[: len(scored)], scored)
            assert not mask[len(scored) :].any()
            torch.testing.assert_close(row[: len(own)], own * scored, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["pairs", "unpaired", "ranked", "completions"])
@pytest.mark.parametrize("holes", [True, False])
def test_log_probs_of_prompts_are_the_models_own_and_change_no_other(policy, kind, holes):
    """Every token of an example's first sequence that is not scored, its first token apart; read in the same row."""
    tokens = token_set(kind, holes=holes)
    for layout in LAYOUTS:
        _, without = logps(policy, tokens, np.arange(len(tokens)), layout)
        batch = MicroBatch.of(tokens, np.arange(len(tokens)), layout, prompts=True)
        with torch.no_grad():
            flat = policy(batch.passes)[0]
        assert torch.equal(batch.spread(flat), without)
        assert sum(len(p.widths) for p in batch.passes) == len(tokens) * (
            1 if layout.shared else tokens.examples.shape[1]
        )
        for got, mask, s in zip(batch.spread_prompts(flat), batch.prompt_mask, tokens.examples[:, 0], strict=True):
            ids = torch.from_numpy(tokens.sequence(s).astype(np.int64))
            with torch.no_grad():
                own = policy.lm(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None]).squeeze(1)
            wanted = ~torch.from_numpy(tokens.mask[tokens.offsets[s] + 1 : tokens.offsets[s + 1]])
            assert torch.equal(mask[: len(wanted)], wanted)
            assert not mask[len(wanted) :].any()
            torch.testing.assert_close(got[: len(own)], own * wanted, rtol=0, atol=1e-5)


def test_gradients_are_alike_in_every_layout(policy):
    tokens = token_set()
    gradients = []
    for layout in LAYOUTS:
        batch = MicroBatch.of(tokens, np.arange(12), layout)
        policy.zero_grad()
        weights = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(0))
        (batch.spread(policy(batch.passes)[0]) * weights).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters()]))
    for gradient in gradients[1:]:
        assert float((gradient - gradients[0]).norm() / gradients[0].norm()) < 1e-5


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout.rows != "padded"], ids=str)
def test_an_example_has_the_same_bits_in_any_company(policy, layout):
    """Cached references equal live ones only if this holds; widths from 16 to 1000 cross every attention kernel."""
    tokens = token_set(examples=16, longest=420, seed=3)
    _, whole = logps(policy, tokens, np.arange(16), layout)
    for company in ([0], [5, 2], [7, 8, 9, 10], [15, 0, 3, 1, 12]):
        batch, part = logps(policy, tokens, company, layout)
        for row, s in zip(part, batch.sequences, strict=True):
            n = int(tokens.lengths[s] - tokens.prompt_lengths[s])
            position = s // 2 + 16 * (s % 2)  # all chosen, then all rejected
            assert torch.equal(row[:n], whole[position, :n])


def test_passes_have_one_width_each_and_little_padding():
    tokens = token_set(examples=400, longest=60)
    plan = Plan.of(tokens, batch_size=32, seed=0)
    there = padded = 0
    for step in range(plan.steps_per_epoch):
        for examples in share_out(plan.at(step), plan.lengths, 1, 8)[0]:
            batch = MicroBatch.of(tokens, examples, SHARED)
            assert all(p.ids.shape[1] % WIDTH_STEP == 0 for p in batch.passes)
            there += int(plan.lengths[examples].sum())
            padded += sum(sum(p.widths) for p in batch.passes)
            joined = MicroBatch.of(tokens, examples, Layout(shared=True, rows="joined"))
            assert sum(joined.passes[0].widths) == joined.passes[0].ids.numel() == plan.lengths[examples].sum()
    # These rows are short (70 tokens); steps of 16 cost at most 15 tokens a row, 7.5 on average.
    assert padded - there < 8.5 * 400


def test_prompts_that_differ_are_not_shared():
    """Truncation can leave the two sides of a pair with different prompts: two rows then."""
    tokens = token_set(examples=1)
    tokens.ids[tokens.offsets[1]] += 1
    batch = MicroBatch.of(tokens, np.arange(1), Layout(shared=True, rows="padded"))
    assert batch.passes[0].ids.shape[0] == 2
    assert batch.passes[0].branch is None


def test_rejected_cannot_see_chosen(policy):
    """Changing the chosen answer changes nothing of the rejected one in the same row, bit for bit."""
    tokens = token_set(examples=1)
    _, before = logps(policy, tokens, [0])
    tokens.ids[tokens.offsets[1] - 2] = (tokens.ids[tokens.offsets[1] - 2] + 1) % 200
    _, after = logps(policy, tokens, [0])
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_load_refuses_what_is_not_a_safetensors_model(tmp_path):
    from raypo.errors import ModelError

    path = tmp_path / "pickled"
    build_model(path)
    (path / "model.safetensors").rename(path / "elsewhere")
    torch.save({}, path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_lm(str(path), torch.float32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_lm(str(tmp_path / "empty"), torch.float32)
