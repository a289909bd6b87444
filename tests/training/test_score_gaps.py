"""Scores that a method cannot take are told before the first step, and fail no evaluation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from training_parts import build_model, token_set

from raypo.data.tokens import TokenSet
from raypo.errors import MethodError
from raypo.training.settings import EngineSetup, Optimisation, Run
from raypo.training.trainer import Trainer


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(EngineSetup(build_model(tmp_path_factory.mktemp("model")), zero_stage=0, micro_batch_size=3))


def run(scale: str) -> Run:
    return Run("odpo", {"scale": scale}, Optimisation(lr=1e-3, batch_size=2, steps=2), seed=1)


def scored(rejected: dict[int, float], examples: int = 12) -> TokenSet:
    """Pairs whose chosen answers have a score of 2 and the rejected ones 1, but for some."""
    tokens = token_set(examples=examples)
    score = np.tile(np.array([2.0, 1.0], np.float32), examples)
    for example, value in rejected.items():
        score[2 * example + 1] = value
    return replace(tokens, score=score, record=tokens.record + 100)


@pytest.mark.parametrize(
    ("scale", "rejected", "said"),
    [
        ("log", {5: 2.0, 7: 2.5}, "above 0 for scale log, 2 of 12 pairs have none such: record 105 has 2 against 2; "),
        ("log1p", {5: 2.0, 7: 3.0}, "above -1 for scale log1p, 1 of 12 pairs have none such: record 107"),
    ],
)
def test_one_bad_gap_anywhere_is_told_before_the_first_step(
    trainer: Trainer, scale: str, rejected: dict[int, float], said: str
) -> None:
    with pytest.raises(MethodError) as told:
        trainer.begin(run(scale), scored(rejected))
    assert said in str(told.value)
    assert "drop them with the transform filter: {min_margin: ...}" in str(told.value)
    assert str(told.value).endswith("or set another scale")


def test_another_scale_takes_them(trainer: Trainer) -> None:
    trainer.begin(run("identity"), scored({5: 2.0, 7: 3.0}))
    trainer.train(1)
    assert trainer.step == 1


@pytest.mark.parametrize("odd", [2.0, 2.5, np.nan])
def test_held_out_pairs_that_the_method_cannot_take_are_left_out(trainer: Trainer, odd: float) -> None:
    trainer.begin(run("log"), scored({}))
    trainer.train(1)
    among, alone = scored({1: odd, 4: odd}, examples=6), scored({}, examples=6)
    alone = replace(alone, examples=alone.examples[[0, 2, 3, 5]])
    found = trainer.evaluate(among)
    assert found == pytest.approx(trainer.evaluate(alone))
    assert "dpo/accuracies" in found
    assert trainer.evaluate(scored(dict.fromkeys(range(6), odd), examples=6)) == {}
