"""A database that is away for a moment ends no search; one that stays away ends it with a word of what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from sqlalchemy.exc import DataError, DBAPIError, OperationalError

from raypo.errors import StorageError
from raypo.search import patience
from raypo.search.storage import open_storage


def failing(
    monkeypatch: pytest.MonkeyPatch, name: str, times: int, of: type[DBAPIError] = OperationalError
) -> list[int]:
    """Have a call of the database fail so many times, as Optuna tells it; counts all of them."""
    plain, calls = getattr(RDBStorage, name), []

    def call(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) > times:
            return plain(*arguments, **named)
        raise StorageInternalError("An exception is raised during the commit.") from of(
            "SELECT 1", {}, Exception("server closed the connection\nunexpectedly")
        )

    monkeypatch.setattr(RDBStorage, name, call)
    monkeypatch.setattr(patience, "AGAIN_S", 0.01)
    return calls


def test_what_failed_for_want_of_a_database_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/here.db")
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "played/dpo")
    calls = failing(monkeypatch, "set_study_user_attr", 3)
    storage.set_study_user_attr(study, "command:1", {"kind": "stop"})
    assert len(calls) == 4
    assert storage.get_study_user_attrs(study) == {"command:1": {"kind": "stop"}}


def test_a_database_that_stays_away_is_given_up_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/here.db"
    storage = open_storage(url)
    failing(monkeypatch, "get_all_studies", 10**6)
    monkeypatch.setattr(patience, "AWAY_S", 0.1)
    told = f"ledger: {url} does not answer, server closed the connection; once it does, raypo resume goes on"
    with pytest.raises(StorageError, match=told):
        storage.get_all_studies()


def test_a_trial_that_may_have_been_made_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/here.db")
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "played/dpo")
    calls = failing(monkeypatch, "_create_new_trial", 1)
    with pytest.raises(StorageError, match="does not answer"):
        storage.create_new_trial(study)
    assert len(calls) == 1
    assert storage.get_n_trials(study) == 0


def test_what_the_database_refuses_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/here.db")
    calls = failing(monkeypatch, "get_all_studies", 1, DataError)
    with pytest.raises(StorageInternalError):
        storage.get_all_studies()
    assert len(calls) == 1
