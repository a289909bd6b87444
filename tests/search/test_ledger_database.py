"""A ledger in PostgreSQL is the same memory as a journal: who resumes, steers or reads finds every trial there."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import played
import postgres
import pytest
from test_any_moment import table

from raypo.errors import StorageError, StudyError
from raypo.search.commands import Commands
from raypo.search.jobs import Job
from raypo.search.searches import SearchFolder, create, discard_if_empty, opened
from raypo.study import build

pytestmark = [
    pytest.mark.skipif(postgres.binaries() is None, reason="no PostgreSQL server here: apt-get install postgresql"),
    pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="pip install 'raypo[postgres]'"),
]


class Killed(Exception):
    """The driver is gone."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgres.server() as found:
        yield found


def search_in(storage: Path, url: str | None, name: str = "played", **search: Any) -> SearchFolder:
    content = {**played.STUDY, "name": name, "storage": str(storage), "ledger": url}
    return create(build({**content, "search": {**played.STUDY["search"], **search}}, name))


def test_a_driver_killed_in_mid_trial_goes_on_to_the_same_end(tmp_path: Path, url: str) -> None:
    calm = search_in(tmp_path / "calm", None, trials=4, sampler="tpe", pruner="median")
    played.Played(calm).run()
    search = search_in(tmp_path / "database", url, trials=4, sampler="tpe", pruner="median")
    for kill_at in (0, 3, 6, None):
        done: list[Job] = []

        def busy(job: Job, kill_at: int | None = kill_at, done: list[Job] = done) -> None:
            done.append(job)
            if len(done) - 1 == kill_at:
                raise Killed

        again = opened(str(search.path.parent), search.name)
        try:
            played.Played(again, again.study(), busy=busy).run()
        except Killed:
            continue
    assert not (search.path / "ledger.journal").exists()
    assert table(opened(str(search.path.parent), search.name)) == table(calm)


def test_another_connection_steers(tmp_path: Path, url: str) -> None:
    search = search_in(tmp_path, url, "steered", trials=1)
    sent: list[Any] = []
    run = played.Played(search, busy=lambda _: sent or sent.append(run.send("extend", trials=1, hours=0.0)))
    run.run()
    assert run.answer(sent[0]).answer is not None
    assert list(run.states.values()) == ["finished"] * 4


def test_a_name_is_taken_though_its_folder_is_elsewhere(tmp_path: Path, url: str) -> None:
    played.Played(search_in(tmp_path / "here", url, "taken", trials=1)).run()
    with pytest.raises(StorageError, match="holds a search of that name whose folder is not in"):
        search_in(tmp_path / "there", url, "taken")


def test_a_search_that_failed_before_a_trial_was_drawn_frees_its_name(tmp_path: Path, url: str) -> None:
    search = search_in(tmp_path / "here", url, "refused")
    Commands(search.ledger).send("extend", trials=1, hours=0.0)
    search.ledger.study("dpo")  # as a driver does that is about to draw
    played.Played(search_in(tmp_path / "here", url, "refused2", trials=1)).run()
    discard_if_empty(search)
    assert not search.path.exists()
    again = search_in(tmp_path / "there", url, "refused")
    assert Commands(again.ledger).all() == []
    assert len(opened(str(tmp_path / "here"), "refused2").ledger.rows()) == 2, "another search has its trials"


def test_a_server_that_restarts_is_waited_for(tmp_path: Path, url: str) -> None:
    calm = search_in(tmp_path / "calm", None, sampler="tpe", pruner="median")
    played.Played(calm).run()
    search = search_in(tmp_path / "restarted", url, "restarted", sampler="tpe", pruner="median")
    back: list[threading.Timer] = []

    def busy(job: Job) -> None:
        if (job.label, job.until) == ("ipo", 0.5):
            back.append(postgres.away(url, 2.0))

    run = played.Played(search, busy=busy)
    with run.steering.following(search.path / "live.json"):
        run.run()
    for timer in back:
        timer.join()
    assert len(back) == 2
    assert table(search) == table(calm)


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"ledger: postgresql://raypo@127\.0\.0\.1:9/db does not answer, .*refused"):
        search_in(tmp_path, "postgresql://raypo@127.0.0.1:9/db")
    assert not (tmp_path / "played").exists()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("postgresql://me:secret@host/db", "ledger: .*password"),
        ("sqlite:///here.db", "ledger: got 'sqlite'; a database's URL begins with postgresql or mysql://"),
    ],
)
def test_an_url_that_is_none_is_refused(tmp_path: Path, url: str, complaint: str) -> None:
    with pytest.raises(StudyError, match=complaint) as refused:
        search_in(tmp_path, url)
    assert "secret" not in str(refused.value)
