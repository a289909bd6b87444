"""A whole search with the real bench in one process, and its confirmation on prompts that it never saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from played import Played
from small_bench import Pulse, open_bench, small_study

from raypo.artifacts import hash_folder
from raypo.data.keys import hash_records
from raypo.evaluation.completions import Judged, read
from raypo.search.confirming import candidates, combined, confirm
from raypo.search.folders import trial_folder
from raypo.search.jobs import Job, Outcome
from raypo.search.reading import read_results
from raypo.search.results import SearchResults
from raypo.search.searches import create
from raypo.search.sources import read_source
from raypo.tracking.compare import caption, compare
from raypo.tracking.tables import headline

LOST = "KL 300 over the limit of 100"


class Confirmed:
    """A search of two trials, confirmed with three seeds of which the second is lost."""

    def __init__(self, storage: Path) -> None:
        study = small_study(
            storage,
            objective={"prompts": {"split": "eval", "count": 24}},
            confirm={"top": 1, "seeds": 3, "prompts": {"split": "confirm", "count": 32}},
        )
        search = create(study)
        bench = open_bench(study, search.path)
        self.jobs: list[Job] = []
        self.said: list[str] = []

        def together(jobs: Sequence[Job]) -> Iterator[Outcome]:
            for job in reversed(jobs):
                self.jobs.append(job)
                lost = Outcome(job.trial, "diverged", 0.5, reason=LOST)
                yield lost if job.trial.endswith(".s1") else bench.run(job, Pulse())

        try:
            played = Played(search, study, outcome=lambda job: bench.run(job, Pulse())).run()
            work = candidates(study, search.ledger, played.conductor.job)
            confirm(search.ledger, search.path, work, together, self.said.append)
        finally:
            bench.close()
        self.again = candidates(study, search.ledger, played.conductor.job)
        self.results: SearchResults = read_results(search)
        self.best = max(self.results.trials, key=lambda trial: trial.estimate.win_rate)  # type: ignore[union-attr]
        self.path = search.path

    def answers(self, trial: str) -> list[Judged]:
        return read(trial_folder(self.path, trial) / "completions.parquet", 1.0)


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> Confirmed:
    return Confirmed(tmp_path_factory.mktemp("confirmed"))


def test_the_best_is_trained_again_with_seeds_of_its_own(confirmed: Confirmed) -> None:
    assert {job.trial for job in confirmed.jobs} == {f"{confirmed.best.name}.s{k}" for k in range(3)}
    assert len({confirmed.best.seed, *(job.seed for job in confirmed.jobs)}) == 4
    assert all(job.point["beta"] == confirmed.best.hyperparameters["beta"] for job in confirmed.jobs)
    losses = [
        (trial_folder(confirmed.path, name) / "metrics.jsonl").read_text()
        for name in (confirmed.best.name, f"{confirmed.best.name}.s0")
    ]
    assert losses[0] != losses[1]
    assert not confirmed.again, "nothing is confirmed twice"


def test_its_prompts_are_none_that_the_search_saw(confirmed: Confirmed) -> None:
    seen = {row.prompt for trial in confirmed.results.trials for row in confirmed.answers(trial.name)}
    first, third = (confirmed.answers(f"{confirmed.best.name}.s{k}") for k in (0, 2))
    assert len(first) == 32
    assert [row.prompt for row in first] == [row.prompt for row in third]
    assert seen.isdisjoint(row.prompt for row in first)


def test_its_figure_is_the_headline_and_the_searchs_own_stands_beside_it(confirmed: Confirmed) -> None:
    rates = [np.mean([row.score for row in confirmed.answers(f"{confirmed.best.name}.s{k}")]) for k in (0, 2)]
    (row,) = compare(confirmed.results).rows
    assert row.confirmation is not None
    assert row.win_rate == pytest.approx(np.mean(rates))
    assert row.ci_low < row.win_rate < row.ci_high  # type: ignore[operator]
    assert row.n == 32
    assert row.confirmation.search_win_rate == confirmed.best.estimate.win_rate  # type: ignore[union-attr]
    assert row.confirmation.spread == pytest.approx(np.std(rates, ddof=1))
    table = headline(compare(confirmed.results))
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    assert cells["in the search %"] == f"{100 * row.confirmation.search_win_rate:.1f}"
    assert caption(compare(confirmed.results)).endswith("confirmed on unseen prompts.")


def test_a_seed_that_was_lost_is_counted_and_named(confirmed: Confirmed) -> None:
    (row,) = compare(confirmed.results).rows
    assert row.confirmation is not None
    assert (row.confirmation.seeds, dict(row.confirmation.failed)) == (2, {f"{confirmed.best.name}.s1": LOST})
    assert "(2 of 3)" in " ".join(headline(compare(confirmed.results)).rows[0])
    assert "1 of 3 seeds was lost" in confirmed.said[-1]


def test_a_confirmation_of_which_every_seed_is_lost_has_no_figure(tmp_path: Path) -> None:
    lost = [Outcome(f"dpo-0000.s{k}", "diverged", 0.5, reason=LOST) for k in range(2)]
    assert combined(lost, tmp_path) == {"seeds": 0, "failed": {"dpo-0000.s0": LOST, "dpo-0000.s1": LOST}}


def test_what_the_models_come_from_is_on_record(confirmed: Confirmed) -> None:
    (base,) = (confirmed.path.parent / "artifacts" / "base-model").glob("[!.]*/")
    records = read_source("quickstart", split="train", count=64, seed=0).records
    model, data = (confirmed.results.origins[kind] for kind in ("base-model", "dataset"))
    assert (model["name"], model["content"], model["start"]) == ("quickstart", hash_folder(base), hash_folder(base))
    assert (data["name"], data["records"], data["content"]) == ("quickstart", 64, hash_records(records))
