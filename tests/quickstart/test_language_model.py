import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from raypo.errors import DataError
from raypo.quickstart.language_model import build_from_text, byte_tokenizer, read_text

TEXT = "The king rode out. The queen stayed in. The cat slept by the fire. " * 40
TINY = {
    "vocabulary": 300,
    "hidden": 32,
    "layers": 1,
    "heads": 2,
    "steps": 60,
    "batch_size": 8,
    "length": 32,
    "lr": 1e-2,
}


def build(folder: Path, text: Path, **changes: Any) -> float:
    """Build it and return its last loss."""
    said: list[str] = []
    build_from_text(folder, text=str(text), **{**TINY, **changes}, say=said.append)
    found = re.fullmatch(r"pretraining, step (\d+) of \1, loss (\d+\.\d+)", said[-1])
    assert found, said
    return float(found[2])


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(TEXT)
    return path


def test_the_model_learns_its_text_and_loads_as_any_other(tmp_path: Path, story: Path) -> None:
    assert build(tmp_path / "model", story) < 1.5 < 5.0 < build(tmp_path / "untrained", story, steps=1)

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    prompt = tokenizer("The king rode", return_tensors="pt")
    told = model.generate(**prompt, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert "out." in tokenizer.decode(told[0])


def test_equal_seeds_give_equal_bytes_and_leave_the_generator_alone(tmp_path: Path, story: Path) -> None:
    before = torch.random.get_rng_state()
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        build(tmp_path / name, story, steps=3, seed=seed)
    assert torch.equal(before, torch.random.get_rng_state())
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "same", "other")}
    assert weights["one"] == weights["same"] != weights["other"]


def test_any_text_goes_through_the_tokenizer_unharmed() -> None:
    tokenizer = byte_tokenizer([TEXT], 280)
    for text in (" leading blank", "tabs\tand\n\nlines", "naïve “quotes” 🙂", "a  b , c !"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_plain_and_gzipped_text_and_data_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("drei ä".encode()))
    rows = [{"story": "s", "sections": ["x", "y"], "number": 3}, {"story": "t", "sections": []}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert list(read_text(tmp_path / "a.txt")) == ["one\ntwo"]
    assert list(read_text(tmp_path / "b.txt.gz")) == ["drei ä"]
    assert list(read_text(tmp_path / "c.jsonl")) == ["s\nx\ny", "t"]


def test_a_missing_file_and_too_little_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such text file"):
        list(read_text(tmp_path / "none.txt"))
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(DataError, match="fewer than one window of 32"):
        build(tmp_path / "model", tmp_path / "short.txt")
