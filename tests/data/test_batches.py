"""The order of examples: from (seed, step) alone, whatever ranks and micro-batches, with little padding."""

from pathlib import Path

import numpy as np
import pytest

from raypo.data.batches import Plan, padding_share, share_out
from raypo.data.mismatch import mismatched, partners
from raypo.data.records import Labelled, Pair, Ranking
from raypo.data.rewriting import as_kind
from raypo.data.tokenise import tokenise
from raypo.data.tokens import TokenSet
from raypo.data.truncation import Limits
from raypo.errors import DataError


def plan(n: int = 103, batch_size: int = 8, seed: int = 0, **given) -> Plan:
    lengths = np.arange(n) * 7919 % 195 + 5
    return Plan(lengths, batch_size, seed, given.get("strata", np.zeros(n, int)), given.get("stage", np.zeros(n, int)))


class TestPlan:
    def test_every_example_once_an_epoch_and_the_ragged_batch_last(self) -> None:
        for epoch in range(3):
            batches = plan().epoch(epoch)
            assert [len(batch) for batch in batches] == [8] * 12 + [7]
            assert sorted(np.concatenate(batches)) == list(range(103))

    def test_a_step_follows_from_seed_and_step_alone(self) -> None:
        """Asked for the last step first, by a fresh plan, the answer is the same: resuming needs no state."""
        straight = [plan().at(step) for step in range(30)]
        for step in reversed(range(30)):
            assert np.array_equal(plan().at(step), straight[step])

    def test_epochs_and_seeds_differ(self) -> None:
        orders = [np.concatenate(plan(seed=seed).epoch(epoch)).tolist() for seed in (0, 1) for epoch in (0, 1)]
        assert len({tuple(order) for order in orders}) == 4

    def test_the_order_is_the_same_on_every_machine(self) -> None:
        """Recorded values: searches that are resumed under another library version must go on as they began."""
        assert plan().at(0).tolist() == [46, 28, 87, 10, 69, 51, 33, 92]
        assert plan(seed=7).at(20).tolist() == [14, 73, 55, 37, 96, 19, 78, 1]

    def test_batches_hold_examples_of_like_length_but_not_in_order_of_length(self) -> None:
        p = plan(4096, 32)
        spread = np.mean([np.ptp(p.lengths[batch]) for batch in p.epoch(0)])
        means = [p.lengths[batch].mean() for batch in p.epoch(0)]
        assert spread < 20, "lengths go from 5 to 200"
        assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3

    def test_stages_come_in_order(self) -> None:
        stage = np.arange(100) % 3
        batches = plan(100, 8, stage=stage).epoch(0)
        seen = [set(stage[batch]) for batch in batches]
        assert all(len(stages) == 1 for stages in seen)
        order = [stages.pop() for stages in seen]
        assert order == sorted(order)
        assert len(batches) == plan(100, 8, stage=stage).steps_per_epoch == 5 + 5 + 5

    def test_batch_size_must_be_positive(self, words) -> None:
        with pytest.raises(DataError, match="batch_size: must be at least 1, got 0"):
            Plan.of(tokenise([Pair("p0", " c0", " r0")], words, Limits(8)), 0, 0)


class TestSharingOut:
    @pytest.mark.parametrize(("ranks", "micro"), [(1, 8), (2, 4), (8, 1), (3, 2), (2, 16)])
    @pytest.mark.parametrize("size", [32, 13, 1])
    def test_each_example_goes_to_one_rank_once(self, ranks: int, micro: int, size: int) -> None:
        batch, lengths = np.arange(50, 50 + size), np.random.default_rng(0).integers(1, 99, 100)
        shares = share_out(batch, lengths, ranks, micro)
        assert len(shares) == ranks
        assert len({len(share) for share in shares}) == 1, "collectives need equally many micro-batches on each rank"
        assert sorted(np.concatenate([part for share in shares for part in share])) == batch.tolist()
        assert max(len(part) for share in shares for part in share) <= micro

    def test_ranks_get_equal_work(self) -> None:
        lengths = np.random.default_rng(0).integers(1, 500, 64)
        work = [sum(int(lengths[part].sum()) for part in share) for share in share_out(np.arange(64), lengths, 2, 8)]
        assert max(work) / min(work) < 1.05


@pytest.mark.parametrize(("ranks", "micro"), [(1, 16), (2, 16), (2, 8), (1, 32)])
def test_padding_of_hh_is_under_a_tenth(hh, ranks: int, micro: int) -> None:
    assert padding_share(hh.tokens, Plan.of(hh.tokens, 32, 0), 0, ranks, micro) < 0.1


class TestUnpaired:
    def test_every_batch_has_both_labels_in_the_datas_share(self, words) -> None:
        """Pairs taken apart come label by label or in turn; a batch of one label starves KTO."""
        pairs = [Pair(f"p{i % 40}", " c0" * (1 + i % 7), " r0" * (1 + i % 3)) for i in range(200)]
        apart = as_kind(pairs, "unpaired")
        for records in (apart, sorted(apart, key=lambda r: r.desirable)):
            tokens = tokenise(records, words, Limits(16))
            for batch in Plan.of(tokens, 8, 0).epoch(0):
                assert tokens.desirable[tokens.examples[batch, 0]].sum() == 4

    def test_uneven_labels_are_spread_evenly(self, words) -> None:
        records = [Labelled(f"p{i % 40}", " c0" * (1 + i % 9), i % 5 == 0) for i in range(400)]
        tokens = tokenise(records, words, Limits(16))
        counts = [tokens.desirable[tokens.examples[b, 0]].sum() for b in Plan.of(tokens, 10, 0).epoch(0)]
        assert set(counts) <= {1, 2, 3}
        assert sum(counts) == 80

    def test_partners_have_another_prompt_and_serve_once(self) -> None:
        for groups in (np.arange(7), np.repeat(np.arange(5), 4), np.array([0, 0, 0, 1, 2, 3])):
            partner = partners(groups, seed=3)
            assert sorted(partner) == list(range(len(groups)))
            assert (groups[partner] != groups).all()
        assert partners(np.arange(50), 0).tolist() != partners(np.arange(50), 1).tolist()
        with pytest.raises(DataError, match="one prompt in 3 of 5 rows"):
            partners(np.array([0, 0, 0, 1, 2]), 0)

    def test_mismatched_sequences_are_other_prompts_answers(self, words) -> None:
        records = [Labelled(f"p{i}", f" c{i} c{i}", i % 2 == 0) for i in range(12)]
        tokens = tokenise(records, words, Limits(16))
        crossed = mismatched(tokens, 16)
        assert len(crossed) == len(tokens)
        for s in range(12):
            prompt, *answer = words.decode(crossed.sequence(s)).split()
            assert prompt == f"p{s}"
            assert answer[0] == answer[1] != f"c{s}"
            assert answer[2] == "<eos>"
        assert crossed.mask.sum() == tokens.mask.sum()

    def test_mismatched_sequences_stay_within_the_limit(self, words) -> None:
        records = [Labelled("p0 p1 p2 p3", " c0", True), Labelled("p4", " c0 c1 c2 c3", True)]
        crossed = mismatched(tokenise(records, words, Limits(6)), 6)
        assert crossed.lengths.tolist() == [6, 3]
        assert words.decode(crossed.sequence(0)) == "p0 p1 p2 p3 c0 c1"


class TestRows:
    def test_pairs_are_chosen_then_rejected(self, words) -> None:
        tokens = tokenise([Pair("p0", " c0 c1", " r0"), Pair("p1 p2", " c2", " r1")], words, Limits(16))
        rows, group = tokens.rows_of(np.array([1, 0]))
        texts = [words.decode(tokens.sequence(row)) for row in rows]
        assert texts == ["p1 p2 c2 <eos>", "p0 c0 c1 <eos>", "p1 p2 r1 <eos>", "p0 r0 <eos>"]
        assert group.tolist() == [0, 1, 0, 1]

    def test_lists_are_never_split(self, words) -> None:
        lists = [
            Ranking(f"p{i}", tuple(f" c{j}" for j in range(2 + i % 4)), tuple(range(2 + i % 4))) for i in range(20)
        ]
        tokens = tokenise(lists, words, Limits(8))
        for batch in Plan.of(tokens, 6, 0).epoch(0):
            for share in share_out(batch, tokens.example_lengths(), 2, 2):
                for examples in share:
                    _, group = tokens.rows_of(examples)
                    assert np.bincount(group, minlength=len(examples)).tolist() == [2 + e % 4 for e in examples]

    def test_no_examples_give_no_rows(self, words, tmp_path: Path) -> None:
        """Ranks that come away empty from a ragged batch still need arrays of the right kind."""
        tokenise([Pair("p0", " c0 c1", " r0")], words, Limits(16)).save(tmp_path)
        rows, group = TokenSet.load(tmp_path).rows_of(np.array([], int))
        assert rows.shape == group.shape == (0,)
