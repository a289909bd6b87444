"""A name is taken by a search that has trials; one that failed before any was drawn makes room for the mended study."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from played import Played, new, study_in

from raypo.errors import StorageError, StorageUnavailable
from raypo.search import searches
from raypo.search.commands import Commands
from raypo.search.folders import artifact_store
from raypo.search.jobs import Job
from raypo.search.keeping_up import kept_up
from raypo.search.lease import lease
from raypo.search.remote import WorkingCopy
from raypo.search.searches import SearchFolder, create, discard_if_empty, opened
from raypo.search.sharing import prune


@pytest.fixture(params=["folder", "object store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAYPO_CACHE", str(tmp_path / "cache"))
    return str(tmp_path / "kept") if request.param == "folder" else f"file://{tmp_path}/kept"


def failed_to_prepare(search: SearchFolder) -> None:
    """What a driver has done when the preparation fails."""
    with lease(search.copy, search.name), kept_up(search.copy, search.journal, []):
        assert Commands(search.ledger).standing().revision == 0
    assert search.journal.exists()


def test_a_search_whose_preparation_failed_makes_room_for_the_mended_study(storage: str, tmp_path: Path) -> None:
    search = create(study_in(storage, trials=7))  # type: ignore[arg-type]
    failed_to_prepare(search)
    discard_if_empty(search)
    assert not search.path.exists()
    assert not (tmp_path / "kept" / "played").exists()
    assert new(storage).study().search.trials == 2  # type: ignore[arg-type]


def test_a_search_with_a_trial_keeps_its_name(storage: str) -> None:
    class Killed(Exception):
        """The driver is gone."""

    def kill(_: Job) -> None:
        raise Killed

    search = new(storage)  # type: ignore[arg-type]
    with pytest.raises(Killed):
        Played(search, busy=kill).run()
    discard_if_empty(search)
    assert [row.name for row in search.ledger.rows()] == ["dpo-0000"]
    with pytest.raises(StorageError, match="there is a search of that name"):
        new(storage)  # type: ignore[arg-type]


@pytest.mark.parametrize("moment", [(searches, "targets"), (WorkingCopy, "push")])
def test_of_two_that_make_a_search_at_once_one_does(
    storage: str, monkeypatch: pytest.MonkeyPatch, moment: tuple[object, str]
) -> None:
    whole, refused = getattr(*moment), list[str]()

    def meanwhile(*args: object) -> object:
        if not refused:
            refused.append("tries")
            with pytest.raises(StorageError) as told:
                create(study_in(storage, trials=9))  # type: ignore[arg-type]
            refused.append(str(told.value))
        return whole(*args)

    monkeypatch.setattr(*moment, meanwhile)
    search = create(study_in(storage, trials=7))  # type: ignore[arg-type]
    assert re.search("a driver runs it already|there is a search of that name", refused[1])
    assert search.study().search.trials == search.settings["targets"]["dpo"] == 7


def test_a_storage_that_cannot_be_written_is_told() -> None:
    with pytest.raises(StorageUnavailable, match=r"storage /proc/nowhere: cannot be written, got .*--storage"):
        create(study_in("/proc/nowhere"))  # type: ignore[arg-type]


def test_a_search_that_another_driver_has_taken_up_is_left_to_it(storage: str) -> None:
    search = new(storage)  # type: ignore[arg-type]
    with lease(search.copy, search.name):
        discard_if_empty(search)
        assert search.study().name == "played"


def test_asking_whether_a_search_began_makes_no_ledger(storage: str) -> None:
    search = new(storage)  # type: ignore[arg-type]
    assert not search.begun
    assert not search.journal.exists()


def test_the_place_of_what_searches_share_is_no_search(storage: str) -> None:
    with pytest.raises(StorageError, match=r"'artifacts' is no name of a search: .* take another"):
        create(study_in(storage), "artifacts")  # type: ignore[arg-type]


def test_what_a_running_search_needs_is_not_removed(storage: str) -> None:
    search = new(storage)  # type: ignore[arg-type]
    artifact_store(storage).get_or_make("tokens", {"count": 1}, lambda folder: (folder / "ids").touch())
    with lease(search.copy, search.name), pytest.raises(StorageError, match=r"played runs \(.*raypo stop played"):
        prune(storage, 0)
    assert [artifact.kind for artifact in prune(storage, 0)] == ["tokens"]
    assert artifact_store(storage).list() == ()


def test_a_folder_that_was_renamed_says_which_search_it_is(storage: str, tmp_path: Path) -> None:
    """Its ledger knows it by its own name, so under another one it would seem to have no trials."""
    Played(new(storage)).run()  # type: ignore[arg-type]
    (tmp_path / "kept" / "played").rename(tmp_path / "kept" / "older")
    with pytest.raises(StorageError, match=r"older: is the folder of the search played, .* call the folder played"):
        opened(storage, "older")


def test_a_folder_whose_name_no_search_can_have_is_in_nobodys_way(storage: str, tmp_path: Path) -> None:
    new(storage)  # type: ignore[arg-type]
    (tmp_path / "kept" / "played").rename(tmp_path / "kept" / "played (copy)")
    assert prune(storage, 0.0) == ()
    with pytest.raises(StorageError, match=r"no search of that name in .*; raypo search FILE starts one"):
        opened(storage, "other")
