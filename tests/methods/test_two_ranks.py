"""Two real processes over gloo give what one process gives on the whole batch, with unequal shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
import torch.multiprocessing as mp

Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each of two ranks found, on rows (0, 3) and on rows (1, 2, 4, 5)."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(ranks.main, (str(folder),), nprocs=2)
    return [torch.load(Path(folder) / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    """The same on one rank with all rows."""
    return ranks.results(0, 1)


def rejoined(parts: list[torch.Tensor]) -> torch.Tensor:
    """Rows of both ranks in the order of the whole batch."""
    order = [i for rank in range(2) for i in ranks.SHARES[2][rank]]
    return torch.cat(parts)[torch.argsort(torch.tensor(order))]


def test_kto_baseline_is_that_of_the_concatenated_batch(one: dict[str, Any], two: Results) -> None:
    whole = one["kto_baseline"]
    assert whole["z"] > 0
    assert [rank["kto_baseline"]["z"].item() for rank in two] == [whole["z"].item()] * 2
    torch.testing.assert_close(rejoined([rank["kto_baseline"]["slope"] for rank in two]), whole["slope"])
    total, count = two[0]["kto_baseline"]["kl"]
    assert total / count == pytest.approx(whole["z"].item())


def test_beta_dpo_keeps_the_same_pairs_on_every_rank(one: dict[str, Any], two: Results) -> None:
    whole, parts = one["beta_dpo_mask"], [rank["beta_dpo_mask"] for rank in two]
    assert torch.equal(parts[0]["kept"], parts[1]["kept"])
    assert torch.equal(parts[0]["kept"], whole["kept"])
    assert whole["kept"].sum() == 4
    assert torch.equal(parts[0]["h"], whole["h"])
    torch.testing.assert_close(torch.cat([part["slope"] for part in parts]), whole["slope"])


def test_beta_dpo_statistics_agree_on_every_rank(one: dict[str, Any], two: Results) -> None:
    states = [rank["beta_dpo_mask"]["state"] for rank in two]
    assert states[0] == states[1]
    assert states[0] == pytest.approx(one["beta_dpo_mask"]["state"], rel=1e-12)


def test_epsilon_dpo_walks_the_same_path_of_beta_on_ranks_and_under_accumulation(
    one: dict[str, Any], two: Results
) -> None:
    betas = one["epsilon_dpo_betas"]["betas"]
    assert len(set(betas)) > 3
    assert [rank["epsilon_dpo_betas"]["betas"] for rank in two] == [betas] * 2
    assert ranks.accumulated_betas() == betas


@pytest.mark.parametrize("method", ["rpo", "rpo_unpaired"])
def test_rpo_sees_the_whole_matrix_from_every_rank(method: str, one: dict[str, Any], two: Results) -> None:
    value, slope = one["rpo_gradient"][method]
    parts = [rank["rpo_gradient"][method] for rank in two]
    assert sum(part[0] for part in parts) == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(rejoined([part[1] for part in parts]), slope)


def test_whitening_takes_the_tokens_of_all_ranks(one: dict[str, Any], two: Results) -> None:
    torch.testing.assert_close(rejoined([rank["whitened_ppo"]["slope"] for rank in two]), one["whitened_ppo"]["slope"])
