"""The estimates against published figures: AlpacaEval, evalica and PandaLM."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypo.evaluation.agreement import cohen_kappa, order_consistency, place_bias
from raypo.evaluation.bradley_terry import bradley_terry, wins
from raypo.evaluation.length_control import Anchors, length_controlled
from raypo.evaluation.win_rate import estimate


def rows(path: Path) -> list[dict[str, str]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return list(csv.DictReader(text.splitlines()))


@pytest.fixture(scope="module")
def alpaca(shared_data: Path) -> dict[str, Any]:
    folder = shared_data / "alpaca_eval"
    gamed = rows(folder / "gamed_baseline_rows_reconstructed.csv.gz")
    column = {name: np.array([float(row[name]) for row in gamed]) for name in gamed[0] if name != "gamed_model"}
    difficulty = {
        r["index"]: float(r["instruction_difficulty"]) for r in rows(folder / "instruction_difficulty_recovered.csv")
    }
    models: dict[str, list[dict[str, str]]] = {}
    for row in rows(folder / "lc_annotations.csv.gz"):
        models.setdefault(row["model"], []).append(row)
    return {
        "models": models,
        "expected": {row["model"]: row for row in rows(folder / "lc_expected.csv")},
        "difficulty": difficulty,
        "anchors": Anchors(
            column["preference_moment_matched"], column["tanh_std_delta_len"], column["instruction_difficulty"]
        ),
    }


def preferences(annotations: list[dict[str, str]]) -> np.ndarray:
    """Win probabilities; a published preference of 0 is a draw."""
    return np.array([(float(row["preference"]) or 1.5) - 1 for row in annotations])


def test_raw_win_rates_of_all_published_models_are_exact(alpaca: dict[str, Any]) -> None:
    assert len(alpaca["expected"]) == 23
    for model, published in alpaca["expected"].items():
        scores = preferences(alpaca["models"][model])
        found = estimate(scores, judge="gpt-4-turbo", opponent="gpt4_1106_preview")
        assert 100 * found.win_rate == pytest.approx(float(published["published_win_rate"]), abs=1e-6), model
        error = float(published["published_standard_error"])
        assert 100 * found.standard_error == pytest.approx(error, abs=1e-6), model
        assert found.ci_low < found.win_rate < found.ci_high


def test_length_controlled_win_rates_are_within_a_fifth_of_a_point(alpaca: dict[str, Any]) -> None:
    errors = {}
    for model, published in alpaca["expected"].items():
        annotations = alpaca["models"][model]
        found = length_controlled(
            preferences(annotations),
            [float(row["len_2"]) for row in annotations],
            [float(row["len_1"]) for row in annotations],
            judge="gpt-4-turbo",
            opponent="gpt4_1106_preview",
            difficulty=[alpaca["difficulty"][row["index"]] for row in annotations],
            anchors=alpaca["anchors"],
            resamples=20,
        )
        errors[model] = abs(100 * found.estimate.win_rate - float(published["published_lc_winrate"]))
    assert max(errors.values()) < 0.2, errors
    assert np.median(list(errors.values())) < 0.05


def test_the_published_length_controlled_error_is_too_small_by_half(alpaca: dict[str, Any]) -> None:
    """It is the spread of fitted values; ours, through the fit, is what refitting on other prompts would show."""
    model = "FuseChat-Gemma-2-9B-Instruct"
    annotations = alpaca["models"][model]
    found = length_controlled(
        preferences(annotations),
        [float(row["len_2"]) for row in annotations],
        [float(row["len_1"]) for row in annotations],
        judge="gpt-4-turbo",
        opponent="gpt4_1106_preview",
        difficulty=[alpaca["difficulty"][row["index"]] for row in annotations],
        anchors=alpaca["anchors"],
    ).estimate
    published = float(alpaca["expected"][model]["published_lc_standard_error"])
    assert 2.0 < 100 * found.standard_error / published < 2.7
    assert found.ci_high - found.ci_low == pytest.approx(3.92 * found.standard_error, rel=0.1)


def test_bradley_terry_equals_the_golden_scores(shared_data: Path) -> None:
    votes = rows(shared_data / "llmfao" / "crowd-comparisons.csv.gz")
    assert len(votes) == 8931
    golden = {
        row["item"]: float(row["score"])
        for row in rows(shared_data / "evalica_golden" / "llmfao-golden.csv")
        if row["algorithm"] == "bradley_terry"
    }
    place = {name: i for i, name in enumerate(golden)}
    won = {"left": 1.0, "right": 0.0, "tie": 0.5}
    table = wins(
        [place[v["left"]] for v in votes],
        [place[v["right"]] for v in votes],
        [won[v["winner"]] for v in votes],
        len(place),
    )
    strengths = np.exp(bradley_terry(table))
    expected = np.array(list(golden.values()))
    assert strengths / strengths.sum() == pytest.approx(expected / expected.sum(), rel=1e-9)


def test_kappas_of_the_pandalm_annotators(shared_data: Path) -> None:
    with gzip.open(shared_data / "pandalm" / "testset-v1.json.gz", "rt") as file:
        items = json.load(file)
    one, two, three = ([item[f"annotator{k}"] for item in items] for k in (1, 2, 3))
    kappas = [cohen_kappa(one, two), cohen_kappa(one, three), cohen_kappa(two, three)]
    assert [round(kappa, 2) for kappa in kappas] == [0.85, 0.88, 0.86]


def test_gpt4_decides_46_of_75_swapped_pairs_alike_and_likes_what_it_sees_first(shared_data: Path) -> None:
    path = shared_data / "mt_bench" / "phi3_dpo__model_judgment__gpt-4_pair.jsonl.gz"
    with gzip.open(path, "rt") as file:
        games = [json.loads(line) for line in file]
    score = {"model_1": 1.0, "model_2": 0.0, "tie": 0.5, "error": np.nan}
    first, second = ([score[game[f"g{k}_winner"]] for game in games] for k in (1, 2))
    readable = int((~np.isnan(np.add(first, second))).sum())
    assert (len(games), readable) == (75, 73)
    assert order_consistency(first, second) == pytest.approx(46 / readable)
    # 16 comparisons went to whoever stood first, 2 to whoever stood second, 9 were half so.
    assert place_bias(first, second) == pytest.approx((16 - 2 + (5 + 3 - 1) / 2) / readable)
