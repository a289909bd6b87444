"""Nothing is dropped, cut or shared between both sides in silence."""

import json
from pathlib import Path

from small_bench import small_study

from raypo.artifacts import Store
from raypo.search.materials import Materials


def test_dropped_rows_cut_prompts_and_shared_prompts_are_told(tmp_path: Path) -> None:
    rows = [{"prompt": f"Name the letter {i} :", "chosen": " a b c", "rejected": " d"} for i in range(6)]
    rows.append({"prompt": "Say it :", "chosen": " a", "rejected": " a"})
    rows.append({"prompt": "w " * 60, "chosen": " a", "rejected": " b"})
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"source": str(file), "count": None, "max_length": 32, "heldout": 0.0}
    objective = {"prompts": {"source": str(file), "split": "train", "count": 3}}
    study = small_study(tmp_path, data=data, objective=objective)
    materials = Materials(study, Store(tmp_path / "artifacts"), lambda _: None)
    materials.training_tokens("pairs", study.fixed("dpo"))
    read, tokens, warning = materials.notes()
    assert read.startswith(f"data from {file}: 8 rows read as ")
    assert "dropped 1 (" in read or "dropped 1 (equal answers)" in tokens
    assert tokens.startswith("training (pairs): 7 examples of ")
    assert "truncated 1 (" in tokens
    assert warning.startswith("warning: 3 of 3 evaluation prompts occur in training, as 'Name the letter 0 :'")
