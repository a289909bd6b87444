from dataclasses import replace

import pytest

from raypo.errors import StorageError
from raypo.search.results import SearchResults
from raypo.tracking.cursor import Cursor
from raypo.tracking.runs import configuration, fingerprint, public, public_text, run_id, summary, tags


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/jane/models/base", "…/base"),
        ("~/data/pairs.jsonl", "…/pairs.jsonl"),
        ("C:\\Users\\jane\\model", "…/model"),
        ("../Users/jane/x", "…/x"),
        ("/home/jane", "…/"),
        ("~jane/", "…/"),
        ("file:///srv/jane/x/", "…/x"),
        ("data/pairs.jsonl", "data/pairs.jsonl"),
        ("meta-llama/Llama-3-8B", "meta-llama/Llama-3-8B"),
        ("s3://bucket/models/base", "s3://bucket/models/base"),
        ("https://jane:pass@host/v1", "https://host/v1"),
        ("sk-abcdefgh12345678", "(hidden)"),
        ("hf_abcdefgh12345678", "(hidden)"),
        (None, None),
        (0.5, 0.5),
        (True, True),
    ],
)
def test_no_value_tells_more_than_it_should(value: object, shown: object) -> None:
    assert public({"x": value, "many": [value]}) == {"x": shown, "many": [shown]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[Errno 2] No such file or directory: '/home/jane/my data/pairs.jsonl'", "'…/pairs.jsonl'"),
        ('File "/home/jane/code/train.py", line 3, in step', 'File "…/train.py", line 3, in step'),
        (
            "cannot read /Users/jane/models/base: not a model (see ~/notes.txt)",
            "read …/base: not a model (see …/notes.txt)",
        ),
        ("no model in path=/home/jane/base, got [/home/jane/x]", "no model in path=…/base, got […/x]"),
        ("the folder /home/jane is full", "the folder …/ is full"),
        (r"'C:\Users\jane' and C:\Users\jane\model, 'C:\\Users\\jane'", "'…/' and …/model, '…/'"),
        ("../../home/jane/x and file:///srv/jane/y", "…/x and …/y"),
        ("https://jane:pass@host/v1 said: wrong key sk-abcdefgh12345678", "https://host/v1 said: wrong key (hidden)"),
        ("win rate 41.2 % at 1/3 of the schedule", "win rate 41.2 % at 1/3 of the schedule"),
        ("s3://bucket/models/base and org/model, and/or 3 / 4", "s3://bucket/models/base and org/model, and/or 3 / 4"),
    ],
)
def test_running_text_tells_no_folder_of_a_person_and_no_credential(text: str, shown: str) -> None:
    assert public_text(text).endswith(shown)
    assert "jane" not in public_text(text)
    assert public_text(public_text(text)) == public_text(text)


def test_a_summary_tells_no_private_path_of_its_reason(results: SearchResults) -> None:
    failed = replace(results.trials[9], reason="no space left on '/home/jane/raypo searches/a.pt'")
    assert summary(failed)["reason"] == "no space left on '…/a.pt'"


def test_credentials_are_left_out_and_counts_of_tokens_are_not() -> None:
    judge = {
        "api_key": "a",
        "OPENAI_API_KEY": "b",
        "token": "c",
        "password": "d",
        "max_new_tokens": 64,
        "tokenizer": "t",
    }
    assert public({"judge": judge}) == {"judge.max_new_tokens": 64, "judge.tokenizer": "t"}


def test_a_configuration_is_flat_and_complete(results: SearchResults) -> None:
    trial = results.trials[0]
    found = configuration(results, trial)
    assert all(not isinstance(value, dict) for value in found.values())
    assert {"beta", "lr", "seed", "method", "trial", "search", "versions.git", "model.path", "data.source"} <= set(
        found
    )
    assert found["space.beta.log_uniform"] == [0.01, 1.0]
    assert not any(name.startswith(("methods.", "storage")) for name in found)


def test_ids_are_stable_short_and_keep_searches_of_one_name_apart() -> None:
    assert run_id("my search/1", "a1b2c3", "epsilon_dpo-0007") == "my-search-1-a1b2c3-epsilon_dpo-0007"
    assert run_id("s", "a1b2c3", "dpo-0007") != run_id("s", "d4e5f6", "dpo-0007")
    assert len(run_id("x" * 300, "a1b2c3", "epsilon_dpo-0007")) <= 64


def test_a_summary_is_the_confirmed_figure_with_the_search_estimate_beside_it(results: SearchResults) -> None:
    trial = results.trials[0]
    assert summary(trial)["win_rate"] == trial.estimate.win_rate
    assert summary(trial)["win_rate_confirmed"] is False
    confirmed = replace(trial, confirmation={"win_rate": 0.55, "ci_low": 0.5, "ci_high": 0.6, "n": 900})
    found = summary(confirmed)
    assert (found["win_rate"], found["n"], found["win_rate_confirmed"]) == (0.55, 900, True)
    assert found["search/win_rate"] == trial.estimate.win_rate
    assert "confirmed" in tags(confirmed)


def test_a_trial_without_an_evaluation_is_described_by_its_reason(results: SearchResults) -> None:
    failed = replace(results.trials[9], history=(), fraction=0.0)
    assert summary(failed) == {"state": "failed", "fraction": 0.0, "cost_s": failed.cost_s, "reason": failed.reason}


def test_a_fingerprint_changes_when_there_is_something_to_send(results: SearchResults) -> None:
    trial = results.trials[0]
    assert fingerprint(trial) == fingerprint(replace(trial))
    for change in ({"state": "failed"}, {"confirmation": {"win_rate": 0.5}}, {"history": trial.history[:1]}):
        assert fingerprint(replace(trial, **change)) != fingerprint(trial)


def test_the_cursor_keeps_its_token_and_an_unreadable_one_is_named(tmp_path) -> None:
    first = Cursor.open(tmp_path)
    first.mark("offline", "dpo-0001", "abc")
    again = Cursor.open(tmp_path)
    assert again.token == first.token
    assert again.has("offline", "dpo-0001", "abc")
    assert not again.has("https://api.wandb.ai//raypo", "dpo-0001", "abc")
    (tmp_path / "wandb.json").write_text("{")
    with pytest.raises(StorageError, match=r"wandb\.json: cannot be read"):
        Cursor.open(tmp_path)
