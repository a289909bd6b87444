"""Models of trials that lost are removed, whatever order trials end in and whoever begins anew."""

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from raypo.data.tokenise import encode_prompt
from raypo.errors import StorageError
from raypo.search.exporting import Models, copy_model
from raypo.search.remote import WorkingCopy
from raypo.search.rows import Row
from raypo.study import Study, build


def ended(search: Path, label: str, number: int, value: float, state: str = "finished") -> Row:
    row = Row(f"{label}-{number:04d}", label, number, state, {}, 0, ({"objective": value},))
    (search / "trials" / row.name / "model").mkdir(parents=True)
    return row


def kept(search: Path) -> set[str]:
    return {folder.parent.name for folder in search.glob("trials/*/model")}


def test_the_best_of_each_method_stay(tmp_path: Path) -> None:
    rows = [ended(tmp_path, label, n, n / 10) for label in ("dpo", "ipo") for n in range(6)]
    random.Random(0).shuffle(rows)
    early, late = rows[:7], rows[7:]
    first = Models(WorkingCopy(tmp_path), 2, early[:3])
    for row in early[3:]:
        first.heard("ended", row)
    second = Models(WorkingCopy(tmp_path), 2, early)  # a driver that goes on
    for row in late:
        second.heard("evaluated", row)
        second.heard("ended", row)
    assert kept(tmp_path) == {"dpo-0004", "dpo-0005", "ipo-0004", "ipo-0005"}


def test_the_model_of_a_confirmed_trial_stays_for_it_may_still_win(tmp_path: Path) -> None:
    models = Models(WorkingCopy(tmp_path), 1, [ended(tmp_path, "dpo", 0, 0.5)], confirmed={"dpo-0000"}.__contains__)
    for number, value in ((1, 0.6), (2, 0.7)):
        models.heard("ended", ended(tmp_path, "dpo", number, value))
    assert kept(tmp_path) == {"dpo-0000", "dpo-0002"}


def test_a_model_is_copied_neither_onto_a_file_nor_below_one(tmp_path: Path) -> None:
    model = tmp_path / "search" / "trials" / "dpo-0000" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    file = tmp_path / "file"
    file.write_text("mine")
    for to in (file, file / "below"):
        with pytest.raises(StorageError, match=f"--to {to}: {file} is a file; give a new folder"):
            copy_model(WorkingCopy(tmp_path / "search"), study(None), "dpo-0000", to)
    assert file.read_text() == "mine"


def test_a_stopped_trial_pushes_nobody_out(tmp_path: Path) -> None:
    models = Models(WorkingCopy(tmp_path), 1, [ended(tmp_path, "dpo", 0, 0.5)])
    models.heard("ended", ended(tmp_path, "dpo", 1, 0.9, state="stopped"))
    assert "dpo-0000" in kept(tmp_path)


def study(chat_template: str | None) -> Study:
    content = {
        "name": "written",
        "model": {"path": "quickstart"},
        "data": {"source": "quickstart", "chat_template": chat_template},
        "methods": ["dpo"],
        "objective": {"judge": {"kind": "rule", "function": "quickstart"}},
    }
    return build(content, "written")


def with_bos() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"<s>": 0, "<unk>": 1, "Human": 2, "Assistant": 3, ":": 4, "hi": 5}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<unk>")


@pytest.mark.parametrize("template", ["transcript", "{% for m in messages %}{{ m.content }} : {% endfor %}", None])
def test_an_exported_model_reads_conversations_as_it_did_in_training(tmp_path: Path, template: str | None) -> None:
    model = tmp_path / "search" / "trials" / "dpo-0000" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "llama"}')
    with_bos().save_pretrained(model)
    out = copy_model(WorkingCopy(tmp_path / "search"), study(template), "dpo-0000", tmp_path / "out")
    found = AutoTokenizer.from_pretrained(out)
    if template is None:
        assert found.chat_template is None
        return
    turns = [{"role": "user", "content": "hi"}]
    ids = found.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert ids == encode_prompt(with_bos(), "hi", template)
    assert (0 in ids) == (template == "transcript")
    assert AutoTokenizer.from_pretrained(model).chat_template is None, "the search's own model stays as it is"
