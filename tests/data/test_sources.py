"""Sources and formats: small files of the published shapes, and the real ones where they are at hand."""

import csv
import gzip
import json
import math
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from raypo.data.files import read_file
from raypo.data.formats import FORMATS
from raypo.data.records import Demonstration, Labelled, Pair, Ranking
from raypo.data.sources import load
from raypo.errors import DataError

ROWS = [
    {"prompt": "What?", "chosen": " This.", "rejected": " That.", "chosen_score": 2.0, "rejected_score": 1.0},
    {"prompt": "Who?", "chosen": " She.", "rejected": " He.", "chosen_score": 3.0, "rejected_score": 2.5},
]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def written(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def only(folder: Path, row: dict[str, Any], **given: Any) -> Any:
    """The record of a file with one row."""
    (record,) = load(written(folder, [row]), **given).records
    return record


class TestFiles:
    @pytest.mark.parametrize(
        "name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.json.gz", "a.csv.gz"]
    )
    def test_every_kind_of_file_gives_the_same_records(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / name
        if name == "a.parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
        else:
            with gzip.open(path, "wt") if name.endswith("gz") else path.open("w") as stream:
                if "jsonl" in name:
                    stream.writelines(json.dumps(row) + "\n" for row in ROWS)
                elif "json" in name:
                    json.dump(ROWS, stream)
                else:
                    writer = csv.DictWriter(stream, list(ROWS[0]), delimiter="\t" if "tsv" in name else ",")
                    writer.writeheader()
                    writer.writerows(ROWS)
        loaded = load(str(path))
        assert loaded.format == "pairs"
        assert [(r.prompt, r.chosen, r.rejected, r.margin) for r in loaded.records] == [
            ("What?", " This.", " That.", 1.0),
            ("Who?", " She.", " He.", 0.5),
        ]
        assert loaded.records[1].source == f"{path} row 2"

    def test_saved_data_sets_and_their_splits(self, tmp_path: Path) -> None:
        data = datasets.Dataset.from_list(ROWS)
        data.save_to_disk(str(tmp_path / "one"))
        datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(str(tmp_path / "two"))
        assert len(load(str(tmp_path / "one")).records) == 2
        assert load(str(tmp_path / "two"), split="test").records[0].prompt == "Who?"
        with pytest.raises(DataError, match="no split 'validation'; found train, test"):
            load(str(tmp_path / "two"), split="validation")

    def test_a_folder_of_data_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        (tmp_path / "mine").mkdir()
        written(tmp_path / "mine", ROWS, "train.jsonl")
        written(tmp_path / "mine", ROWS[1:], "test.jsonl")
        assert len(load(str(tmp_path / "mine")).records) == 2
        assert load(str(tmp_path / "mine"), split="test").records[0].prompt == "Who?"
        with pytest.raises(DataError, match=r"cannot be loaded \(split 'dev'"):
            load(str(tmp_path / "mine"), split="dev")

    def test_a_function_is_called_only_with_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "my_rows.py").write_text(
            "from raypo.data.records import Pair\n"
            "def rows(): return [{'prompt': 'a', 'completion': 'b'}]\n"
            "def records(): yield Pair('a', 'b', 'c')\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(DataError, match="is Python code; give --allow-code"):
            load("my_rows:rows")
        assert load("my_rows:rows", allow_code=True).records == [Demonstration("a", "b", source="my_rows:rows row 1")]
        assert load("my_rows:records", allow_code=True).records == [Pair("a", "b", "c")]
        with pytest.raises(DataError, match="cannot be imported"):
            load("my_rows:nothing", allow_code=True)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("NUMBER", "my_odd_rows:NUMBER: is no function, got 5"),
            ("asks", "my_odd_rows:asks: raises TypeError: asks"),
            ("breaks", "my_odd_rows:breaks: raises ZeroDivisionError: division by zero; it must return rows"),
            ("nothing", "my_odd_rows:nothing: raises TypeError: 'NoneType' object is not iterable"),
            ("words", r"my_odd_rows:words: must return rows \(mappings\) or records, got 'a' among them"),
        ],
    )
    def test_a_function_that_gives_no_rows_is_named(
        self, name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "my_odd_rows.py").write_text(
            "NUMBER = 5\ndef asks(x): return []\ndef breaks(): yield {'prompt': 1 / 0}\n"
            "def nothing(): pass\ndef words(): return ['a']\n"
        )
        (tmp_path / "my_broken_rows.py").write_text("def f(:\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(DataError, match=said):
            load(f"my_odd_rows:{name}", allow_code=True)
        with pytest.raises(DataError, match="my_broken_rows:f: cannot be imported, SyntaxError"):
            load("my_broken_rows:f", allow_code=True)

    def test_the_hub_is_not_asked_when_offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        with pytest.raises(DataError, match=r"nobody/nothing: cannot be loaded \(split 'train'"):
            load("nobody/nothing")


class TestMistakes:
    def test_a_missing_file_names_its_neighbour(self, tmp_path: Path) -> None:
        written(tmp_path, ROWS, "train.jsonl")
        with pytest.raises(DataError, match=r"no such file or folder. Did you mean 'train.jsonl'\?"):
            load(str(tmp_path / "trian.jsonl"))

    def test_an_empty_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"rows.jsonl: no rows"):
            load(written(tmp_path, []))

    @pytest.mark.parametrize("answer", ["", "  ", None])
    def test_a_row_without_an_answer_is_named_by_file_and_row(self, answer: str | None, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"rows.jsonl row 3: no rejected; every row needs one"):
            load(written(tmp_path, [*ROWS, {"prompt": "a", "chosen": "b", "rejected": answer}]))

    def test_rows_without_an_answer_may_be_left_out_and_counted(self, tmp_path: Path) -> None:
        path = written(tmp_path, [*ROWS, {"prompt": "a", "chosen": "b", "rejected": ""}])
        loaded = load(path, format={"pairs": {"empty": "drop"}})
        assert loaded.report == {"rows": 3, "dropped/empty_answer": 1}
        with pytest.raises(
            DataError, match=r"data.format.pairs.empty: input should be 'refuse' or 'drop', got 'ignore'"
        ):
            load(path, format={"pairs": {"empty": "ignore"}})

    def test_the_first_row_may_be_the_bad_one(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"rows.jsonl row 1: no chosen"):
            load(written(tmp_path, [{"prompt": "a", "chosen": "", "rejected": "c"}, *ROWS]))

    def test_unknown_columns_are_shown_with_what_is_allowed(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"found answer, question; allowed: hh .* pairs \(chosen, rejected"):
            load(written(tmp_path, [{"question": "a", "answer": "b"}]))

    def test_mistyped_column_maps(self, tmp_path: Path) -> None:
        path = written(tmp_path, [{"question": "a", "answer": "b"}])
        with pytest.raises(DataError, match=r"data.columns: no such columns \['promt'\]; allowed: prompt, "):
            load(path, columns={"promt": "question"})
        with pytest.raises(
            DataError, match=r"names 'questoin', found columns answer, question; did you mean 'question'\?"
        ):
            load(path, columns={"prompt": "questoin", "completion": "answer"})

    @pytest.mark.parametrize(
        "template", ["{prompt[5]}", "{chosen.foo}", "{chosen", "Q: {chosen} \\boxed{}", "{chosen:d}"]
    )
    def test_templates_that_cannot_be_filled(self, template: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"row 1: data.columns has the template .*, which cannot be filled: "):
            load(written(tmp_path, ROWS), columns={"prompt": template})

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"a": "b"}\n{"a": \n', r"row 2: not JSON"),
            ("[1, 2]\n", r"row 1: must be an object"),
        ],
    )
    def test_broken_rows(self, text: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl").write_text(text)
        with pytest.raises(DataError, match=message):
            load(str(tmp_path / "rows.jsonl"), format="pairs", columns={"prompt": "a", "chosen": "a", "rejected": "a"})

    def test_broken_files(self, tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl.gz").write_bytes(b"not gzip")
        (tmp_path / "rows.parquet").write_bytes(b"not parquet")
        (tmp_path / "rows.xls").write_bytes(b"")
        damaged = bytearray(gzip.compress(json.dumps(ROWS[0]).encode() * 2000))
        damaged[30] ^= 0xFF
        (tmp_path / "rows.csv.gz").write_bytes(damaged)
        for name, message in (
            ("jsonl.gz", "cannot be read"),
            ("csv.gz", "cannot be read, Error -3 while decompressing"),
            ("parquet", "not a Parquet file"),
            ("xls", "unknown kind"),
        ):
            with pytest.raises(DataError, match=message):
                load(str(tmp_path / f"rows.{name}"))

    def test_unknown_formats_and_options(self, tmp_path: Path) -> None:
        path = written(tmp_path, ROWS)
        with pytest.raises(DataError, match=r"no such format 'pair'; allowed: auto, .*; did you mean 'pairs'\?"):
            load(path, format="pair")
        with pytest.raises(DataError, match=r"data.format.shp.ratio: no such argument; allowed: min_score_ratio"):
            load(path, format={"shp": {"ratio": 3}})
        with pytest.raises(
            DataError, match=r"data.format.shp.min_score_ratio: input should be a valid number, .*'abc'"
        ):
            load(path, format={"shp": {"min_score_ratio": "abc"}})
        for format in ({}, {"pairs": {}, "shp": {}}, {"shp": 3}):
            with pytest.raises(DataError, match=r"data.format: needs one name, or one with its options, got \{"):
                load(path, format=format)

    def test_labels_and_scores_must_make_sense(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="row 1: label must say whether the answer is good, got 'maybe'"):
            only(tmp_path, {"prompt": "a", "completion": "b", "label": "maybe"})
        with pytest.raises(DataError, match="row 1: 2 completions but 1 scores"):
            only(tmp_path, {"prompt": "a", "completions": ["b", "c"], "scores": [1]})
        with pytest.raises(DataError, match="row 1: completion 2 of 2 is empty"):
            only(tmp_path, {"prompt": "a", "completions": ["b", ""], "scores": [1, 2]})
        listed = {"prompt": "a", "completions": ["b", "c"], "scores": [1, 2]}
        with pytest.raises(DataError, match="row 1: models must be a list, got 'gpt'"):
            only(tmp_path, {**listed, "models": "gpt"})
        with pytest.raises(DataError, match="row 1: 2 completions but 1 models"):
            only(tmp_path, {**listed, "models": ["gpt"]})


class TestFormats:
    def test_a_shared_beginning_is_the_prompt(self, tmp_path: Path) -> None:
        pair = only(tmp_path, {"chosen": "Tell me why. Because it is", "rejected": "Tell me why. Because I say"})
        assert (pair.prompt, pair.chosen, pair.rejected) == ("Tell me why. Because", " it is", " I say")
        with pytest.raises(DataError, match="do not begin alike"):
            only(tmp_path, {"chosen": "yes", "rejected": "no"})

    def test_conversations_part_where_they_differ(self, tmp_path: Path) -> None:
        shared = [{"role": "system", "content": "Be kind."}, user("Tell me")]
        row = {"prompt": "Tell me", "chosen": [*shared, assistant("yes")], "rejected": [*shared, assistant("no")]}
        pair = only(tmp_path, row)
        assert pair.prompt == tuple(shared)
        assert pair.chosen == (assistant("yes"),)

    def test_a_prompt_column_that_answers_do_not_repeat_comes_before_what_they_share(self, tmp_path: Path) -> None:
        asked = [{"role": "system", "content": "Be kind."}, user("How warm is it?")]
        called = [assistant("call weather"), {"role": "tool", "content": "21 C"}]
        for prompt in (asked, asked[1]["content"]):
            row = {"chosen": [*called, assistant("21 C")], "rejected": [*called, assistant("Cold")]}
            pair = only(tmp_path, {"prompt": prompt, **row})
            assert pair.prompt == (*(asked if prompt is asked else asked[1:]), *called)
            assert pair.rejected == (assistant("Cold"),)

    def test_a_prompt_column_that_answers_repeat_is_not_said_twice(self, tmp_path: Path) -> None:
        turns = [user("Tell me"), assistant("What?"), user("Why")]
        row = {"chosen": [*turns, assistant("yes")], "rejected": [*turns, assistant("no")]}
        for prompt in (turns, turns[:1], [user("Tell me ")], "Why", "Tell me", "  "):
            assert only(tmp_path, {"prompt": prompt, **row}).prompt == tuple(turns)
        with_system = [{"role": "system", "content": "Be kind."}, *turns]
        row = {"chosen": [*with_system, assistant("yes")], "rejected": [*with_system, assistant("no")]}
        assert only(tmp_path, {"prompt": turns, **row}).prompt == tuple(with_system)

    def test_content_in_parts_is_their_text(self, tmp_path: Path) -> None:
        parts = [{"type": "text", "text": "Tell "}, {"type": "text", "text": "me"}]
        asked = {"role": "user", "content": parts}
        assert only(tmp_path, {"messages": [asked, assistant("yes")]}).prompt == (user("Tell me"),)
        for odd in ([{"type": "image", "text": "x.png"}, *parts], [{"type": "text", "text": None}], ["Tell me"], 5):
            with pytest.raises(DataError, match="row 1: a message's content must be a string or a list of parts"):
                only(tmp_path, {"messages": [{"role": "user", "content": odd}, assistant("yes")]})

    def test_other_spellings_of_messages(self, tmp_path: Path) -> None:
        row = {
            "conversations": [{"from": "human", "value": "Tell me"}],
            "chosen": {"from": "gpt", "value": "yes"},
            "rejected": {"from": "gpt", "value": "no"},
        }
        pair = only(tmp_path, row, columns={"prompt": "conversations"})
        assert (pair.prompt, pair.rejected) == ((user("Tell me"),), (assistant("no"),))

    def test_columns_may_be_paths_and_templates(self, tmp_path: Path) -> None:
        row = {"instruction": "Sum", "input": "1 2", "answer": {"good": "3", "bad": "4"}}
        columns = {"prompt": "{instruction}: {input}\n", "chosen": "answer.good", "rejected": "answer.bad"}
        pair = only(tmp_path, row, columns=columns)
        assert (pair.prompt, pair.chosen, pair.rejected) == ("Sum: 1 2\n", "3", "4")

    def test_unpaired(self, tmp_path: Path) -> None:
        row = {"prompt": "a", "completion": "b", "label": 0, "score": 1.5, "source_model": "m"}
        assert only(tmp_path, row) == Labelled("a", "b", False, 1.5, "m", source=f"{tmp_path}/rows.jsonl row 1")
        turns = {"messages": [user("a"), assistant("b")], "label": True}
        assert only(tmp_path, turns).completion == (assistant("b"),)

    def test_ranked_lists_and_rows(self, tmp_path: Path) -> None:
        listed = only(tmp_path, {"prompt": "a", "completions": ["b", "c"], "scores": [1, 2], "models": ["x", "y"]})
        assert (listed.completions, listed.scores, listed.models) == (("b", "c"), (1.0, 2.0), ("x", "y"))
        rows = [
            {"prompt": p, "completion": c, "score": s}
            for p, c, s in (("a", "b", 1), ("d", "e", 3), ("a", "c", 2), ("d", "f", 4))
        ]
        lists = load(written(tmp_path, rows)).records
        assert [(r.prompt, r.scores) for r in lists] == [("a", (1, 2)), ("d", (3, 4))]

    def test_stepwise(self, tmp_path: Path) -> None:
        row = {"prompt": "1+1+1?\n", "prefix": ["1+1=2"], "chosen": "2+1=3", "rejected": "2+1=4"}
        pair = only(tmp_path, row)
        assert (pair.prompt, pair.final) == ("1+1+1?\n1+1=2\n", False)
        turns = only(tmp_path, row, format={"stepwise": {"turns": True}})
        assert turns.prompt == (user("1+1+1?\n"), assistant("1+1=2\n"))
        published = {"prompt": [user("1+1+1?")], "initial_reason_steps": "So 2.", "chosen": "3", "rejected": "4"}
        assert only(tmp_path, published).prompt == (user("1+1+1?"), assistant("So 2."))

    def test_demonstrations(self, tmp_path: Path) -> None:
        assert only(tmp_path, {"messages": [user("a"), assistant("b")]}).prompt == (user("a"),)
        with pytest.raises(DataError, match="must end with the assistant's answer"):
            only(tmp_path, {"messages": [user("a")]})


class TestPublished:
    def test_hh(self, tmp_path: Path) -> None:
        start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
        loaded = load(
            written(
                tmp_path,
                [{"chosen": f"{start} So.", "rejected": f"{start} No."}, {"chosen": start, "rejected": f"{start} No."}],
            )
        )
        assert loaded.format == "hh"
        assert loaded.report == {"rows": 2, "dropped/empty_answer": 1}
        assert (loaded.records[0].prompt, loaded.records[0].chosen) == (start, " So.")

    def test_ultrafeedback(self, tmp_path: Path) -> None:
        row = {
            "prompt": "Why?",
            "prompt_id": "1",
            "chosen": [user("Why?"), assistant("So.")],
            "rejected": [user("Why?"), assistant("No.")],
            "messages": [user("Why?"), assistant("So.")],
            "score_chosen": 8.5,
            "score_rejected": 4.0,
        }
        empty = {**row, "rejected": [user("Why?"), assistant("")]}
        loaded = load(written(tmp_path, [row, empty]), format="ultrafeedback")
        assert loaded.report["dropped/empty_answer"] == 1
        assert (loaded.records[0].prompt, loaded.records[0].margin) == ((user("Why?"),), 4.5)

    def test_ultrafeedback_raw(self, tmp_path: Path) -> None:
        row = {
            "source": "evol_instruct",
            "instruction": "Why?",
            "models": ["a", "b"],
            "completions": [
                {"model": "a", "response": "So.", "overall_score": 10.0, "fine-grained_score": 2.5},
                {"model": "b", "response": "No.", "overall_score": 7.0, "fine-grained_score": 4.75},
            ],
        }
        made = only(tmp_path, row, format="ultrafeedback_raw")
        assert (made.prompt, made.scores, made.models) == ((user("Why?"),), (2.5, 4.75), ("a", "b"))
        assert only(tmp_path, row, format={"ultrafeedback_raw": {"score": "overall_score"}}).scores == (10.0, 7.0)
        with pytest.raises(DataError, match=r"row 1: completions have no 'quality', found fine-grained_score"):
            only(tmp_path, row, format={"ultrafeedback_raw": {"score": "quality"}})

    def test_shp(self, tmp_path: Path) -> None:
        rows = [
            {"history": "Why?", "human_ref_A": "So.", "human_ref_B": "No.", "labels": a > b, "score_A": a, "score_B": b}
            for a, b in ((10, 4), (3, 2), (5, 15))
        ]
        rows = [{**row, "labels": int(row["labels"])} for row in rows]
        loaded = load(written(tmp_path, rows), format="shp")
        assert loaded.report == {"rows": 3, "dropped/score_ratio": 1}
        assert [(r.chosen[0]["content"], r.margin) for r in loaded.records] == [("So.", 6), ("No.", 10)]
        assert len(load(written(tmp_path, rows), format={"shp": {"min_score_ratio": 1.2}}).records) == 3

    def test_gair_dissection(self, tmp_path: Path) -> None:
        row = {
            "query": "Why?",
            "response_1": {"content": "So.", "model": "m1", "num_words": 1},
            "response_2": {"content": "No.", "model": "m2", "num_words": 1},
            "preference_labels": {"human": "response_1", "gpt-4-turbo": "response_2"},
        }
        human = only(tmp_path, row, format="gair_dissection")
        judged = only(tmp_path, row, format={"gair_dissection": {"label": "gpt-4-turbo"}})
        assert (human.chosen, human.chosen_model) == ((assistant("So."),), "m1")
        assert (judged.chosen, judged.rejected_model) == ((assistant("No."),), "m1")
        with pytest.raises(DataError, match="no preference of 'gpt-5'; found gpt-4-turbo, human"):
            only(tmp_path, row, format={"gair_dissection": {"label": "gpt-5"}})

    def test_tldr(self, tmp_path: Path) -> None:
        row = {
            "info": {"id": "t3", "post": "Long story.", "title": "Help", "subreddit": "advice"},
            "summaries": [{"text": " Short. ", "policy": "sup1", "note": None}, {"text": "Shorter.", "policy": "ref"}],
            "choice": 1,
        }
        news = {**row, "info": {"id": "cnn", "post": None, "article": "News."}}
        loaded = load(written(tmp_path, [row, news]), format="tldr")
        pair = loaded.records[0]
        assert pair.prompt == "SUBREDDIT: r/advice\nTITLE: Help\nPOST: Long story.\nTL;DR:"
        assert (pair.chosen, pair.rejected, pair.chosen_model) == (" Shorter.", " Short.", "ref")
        assert loaded.report["dropped/no_post"] == 1

    def test_princeton(self, tmp_path: Path) -> None:
        row = {
            "prompt_id": "1",
            "prompt": "Why?",
            "all_generated_responses": ["So.", "No.", "Eh."],
            "all_rm_scores": [0.9, 0.1, 0.5],
            "chosen": [user("Why?"), assistant("So.")],
            "rejected": [user("Why?"), assistant("No.")],
        }
        pair = only(tmp_path, row, format="princeton")
        assert (pair.prompt, pair.chosen_score, pair.rejected_score) == ((user("Why?"),), 0.9, 0.1)
        listed = only(
            tmp_path,
            row,
            format="ranked",
            columns={"completions": "all_generated_responses", "scores": "all_rm_scores"},
        )
        assert listed.scores == (0.9, 0.1, 0.5)

    @pytest.mark.parametrize(
        ("format", "row"),
        [
            ("ultrafeedback", {"prompt": "q", "chosen": ["a"], "rejected": ["b"]}),
            ("ultrafeedback_raw", {"instruction": "q", "completions": ["a", "b"]}),
            ("tldr", {"info": {"post": "x"}, "summaries": ["a", "b"], "choice": 0}),
            ("gair_dissection", {"query": "q", "preference_labels": "human"}),
            ("princeton", {**ROWS[0], "all_generated_responses": [" This.", " That."], "all_rm_scores": [1.0]}),
        ],
    )
    def test_rows_of_another_shape_are_named(self, format: str, row: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(DataError, match=rf"rows.jsonl row 1: no row of format {format} \(.*found columns "):
            only(tmp_path, row, format=format)
        shp = {"history": "a", "human_ref_A": "b", "human_ref_B": "c", "score_A": 3, "score_B": 1}
        with pytest.raises(DataError, match="row 1: labels must say which comment is better, got nan; allowed: 1"):
            only(tmp_path, shp, format="shp")

    def test_every_format_says_what_it_reads(self) -> None:
        assert all(function.__doc__ for function in FORMATS.values())


class TestRealFiles:
    def test_hh_transcripts(self, shared_data: Path) -> None:
        for name, rows in (("helpful-base", 2354), ("helpful-online", 1137)):
            loaded = load(str(shared_data / "hh_rlhf" / f"{name}_test.jsonl.gz"))
            assert (loaded.format, loaded.report["rows"]) == ("hh", rows)
            assert len(loaded.records) + loaded.report["dropped/empty_answer"] == rows
            assert all(r.prompt.endswith("\n\nAssistant:") and r.chosen.strip() for r in loaded.records)

    def test_hh_short(self, shared_data: Path) -> None:
        loaded = load(str(shared_data / "hh_rlhf" / "hh_short_train.jsonl.gz"))
        assert (loaded.format, len(loaded.records)) == ("pairs", 3038)

    def test_llama_factory_demos(self, shared_data: Path) -> None:
        pairs = load(str(shared_data / "dpo_kto_demo" / "dpo_en_demo.json.gz"), columns={"prompt": "conversations"})
        assert (pairs.format, len(pairs.records)) == ("pairs", 300)
        unpaired = load(str(shared_data / "dpo_kto_demo" / "kto_en_demo.json.gz"))
        assert (unpaired.format, sum(r.desirable for r in unpaired.records)) == ("unpaired", 150)

    def test_scored_lists(self, shared_data: Path) -> None:
        folder = shared_data / "listwise"
        tldr = load(
            str(folder / "tldr_test_6way_rewards.json.gz"),
            columns={"prompt": "key", "completions": "responses", "scores": "rewards"},
        )
        assert (tldr.format, len(tldr.records), sum(len(r.scores) for r in tldr.records)) == ("ranked", 102, 839)
        imdb = load(
            str(folder / "imdb_10way_sentiment_reward.jsonl.gz"),
            format={"ranked_rows": {"empty": "drop"}},
            columns={"completion": "text", "score": "reward"},
        )
        assert (imdb.format, len(imdb.records)) == ("ranked_rows", 252)
        assert all(isinstance(r, Ranking) and not any(map(math.isnan, r.scores)) for r in imdb.records)

    def test_solution_steps(self, shared_data: Path, tmp_path: Path) -> None:
        """Pairs of a right and a wrong step after the same steps, from solutions with a marked first error."""
        rows = []
        for _, row in read_file(shared_data / "step_labels" / "prmbench_target_394.jsonl.gz"):
            right, wrong, at = row["original_process"], row["modified_process"], min(row["error_steps"] or [0]) - 1
            if 0 <= at < min(len(right), len(wrong)) and right[:at] == wrong[:at] and right[at] != wrong[at]:
                steps = {"prefix": right[:at], "chosen": right[at], "rejected": wrong[at]}
                rows.append({"prompt": row["original_question"] + "\n", **steps})
        loaded = load(written(tmp_path, rows))
        assert loaded.format == "stepwise"
        assert len(loaded.records) == len(rows) > 250
        assert not any(r.final for r in loaded.records)

    def test_short_instructions(self, shared_data: Path) -> None:
        loaded = load(
            str(shared_data / "short_instruction_prefs" / "instruction-data-with-preference.json.gz"),
            columns={"prompt": "{instruction}\n{input}\n"},
        )
        assert (loaded.format, len(loaded.records)) == ("pairs", 1100)
