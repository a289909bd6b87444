"""Real preferences: the HH study in a short form, with its own language model, reward model and held-apart pairs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = [
    "model.build.steps=20",
    "model.sft.epochs=0.2",
    "data.count=400",
    "training.steps=6",
    "objective.judge.count=400",
    "objective.prompts.count=16",
    "search.trials=1",
    "methods.ipo=null",
    "methods.simpo=null",
    "tracking.wandb=disabled",
]


@pytest.mark.slow
def test_the_hh_search_runs_on_real_pairs(shared_data: Path, tmp_path: Path) -> None:
    pairs, text = shared_data / "hh_rlhf", shared_data / "corpus" / "fairytales_val.jsonl.gz"
    paths = [
        f"model.build.text={text}",
        f"data.source={pairs / 'hh_short_train.jsonl.gz'}",
        f"objective.judge.source={pairs / 'hh_short_train.jsonl.gz'}",
        f"objective.prompts.source={pairs / 'hh_short_test.jsonl.gz'}",
    ]
    sets = [word for text in [*SHORT, *paths] for word in ("--set", text)]
    raypo = str(Path(sys.executable).with_name("raypo"))
    done = subprocess.run(
        [raypo, "search", str(ROOT / "search_spaces" / "hh_short.yaml"), "--storage", str(tmp_path), "--json", *sets],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout)["methods"]
    assert [row["method"] for row in rows] == ["dpo", "epsilon_dpo"]
    for row in rows:
        assert row["finished"] + row["diverged"] == 1
        assert row["finished"] == 0 or row["n"] == 16
    kinds = {path.parent.name for path in (tmp_path / "artifacts").glob("*/*/") if not path.name.startswith(".")}
    assert {"base-model", "sft-model", "reward-model", "tokens", "logps", "completions"} <= kinds
