"""A search in an object store: machines that share nothing else go on with each other's work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from played import Played, new, study_in
from small_bench import Pulse, job_of, open_bench, small_study
from test_any_moment import table

from raypo.cli.common import results_of, send
from raypo.errors import Hindrance, StorageError
from raypo.evaluation.completions import append
from raypo.evaluation.judges import Verdict
from raypo.search import checkpoints, keeping_up
from raypo.search.contents import check_unchanged, forget
from raypo.search.exporting import Models, copy_model
from raypo.search.folders import location_of, trial_folder
from raypo.search.forking import fork
from raypo.search.jobs import Job, Outcome
from raypo.search.keeping_up import kept_up
from raypo.search.lease import LEASE, holder, lease
from raypo.search.pruning import verdicts
from raypo.search.reading import read_results
from raypo.search.remote import WorkingCopy
from raypo.search.rivals import scores_of
from raypo.search.searches import SearchFolder, create, discard_if_empty, opened

Machine = Callable[[str], None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Go to a machine by name; each has a cache of its own."""

    def go(name: str) -> None:
        monkeypatch.setenv("RAYPO_CACHE", str(tmp_path / "machines" / name))

    go("a")
    return go


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An object store that keeps time stamps, and one that has none."""
    return f"{request.param}://{tmp_path}/bucket/raypo"


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    return f"file://{tmp_path}/bucket/raypo"


def there(bucket: str, *path: str) -> Path:
    return Path(bucket.removeprefix("file://"), *path)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# Copies -----------------------------------------------------------------------------------------------------------


def test_machines_agree_on_what_the_sources_of_a_search_held(store: str, machine: Machine) -> None:
    check_unchanged(WorkingCopy(location_of(store, "hh"), of="slots"), {"data.source": "a" * 32})
    machine("b")
    elsewhere = WorkingCopy(location_of(store, "hh"), of="slots")
    with pytest.raises(Hindrance, match=r"data\.source: what it names has changed"):
        check_unchanged(elsewhere, {"data.source": "b" * 32})
    forget(WorkingCopy(location_of(store, "hh")))
    assert check_unchanged(elsewhere, {"data.source": "b" * 32}) == {"data.source": "b" * 32}


def test_what_one_machine_pushed_another_pulls_new_replaced_or_gone(store: str, machine: Machine) -> None:
    ours = WorkingCopy(location_of(store, "hh"))
    ours.push(write(ours.path / "metrics.jsonl", "1\n"), write(ours.path / "b", "b"))
    machine("b")
    theirs = WorkingCopy(location_of(store, "hh"))
    assert theirs.path != ours.path
    files = [theirs.path / name for name in ("metrics.jsonl", "b")]
    theirs.pull(*files)
    assert [file.read_text() for file in files] == ["1\n", "b"]
    theirs.push(write(files[0], "1\n2\n"))
    files[1].unlink()
    theirs.push(files[1])
    ours.pull(ours.path / "metrics.jsonl", ours.path / "b")
    assert (ours.path / "metrics.jsonl").read_text() == "1\n2\n"
    assert not (ours.path / "b").exists()


def test_what_is_here_already_is_not_brought_again(bucket: str, machine: Machine) -> None:
    ours = WorkingCopy(location_of(bucket, "hh"))
    file = write(ours.path / "big", "x" * 100)
    ours.push(file)
    machine("b")
    theirs = WorkingCopy(location_of(bucket, "hh"))
    theirs.pull(theirs.path / "big")
    brought = (theirs.path / "big").stat().st_ino
    theirs.pull(theirs.path / "big")
    assert (theirs.path / "big").stat().st_ino == brought


def test_nobody_sees_a_part_of_a_file_that_is_being_sent(bucket: str, machine: Machine) -> None:  # noqa: ARG001
    copy = WorkingCopy(location_of(bucket, "hh"))
    log, journal = copy.path / "metrics.jsonl", copy.path / "ledger.journal"
    contents = [letter * 4_000_000 + "\n" for letter in "ab"]

    def send(content: str) -> None:
        copy.push(write(log, content))
        copy.push_journal(write(journal, content))

    send(contents[0])
    looks = 0
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(lambda: [send(contents[i % 2]) for i in range(20)])
        while not sent.done():
            looks += 1
            assert there(bucket, "hh", log.name).read_text() in contents
            assert there(bucket, "hh", journal.name).read_text() in contents
        sent.result()
    assert looks > 5
    assert {path.name for path in there(bucket, "hh").iterdir()} == {log.name, journal.name}


def test_a_search_in_a_folder_is_its_own_mirror(tmp_path: Path, machine: Machine) -> None:  # noqa: ARG001
    copy = WorkingCopy(location_of(str(tmp_path / "storage"), "hh"))
    assert copy.path == tmp_path / "storage" / "hh"
    file = write(copy.path / "metrics.jsonl", "1\n")
    copy.pull(file, copy.path / "none")
    copy.push(file)
    copy.push_folder(copy.path, "metrics.jsonl")
    assert [path.name for path in copy.path.iterdir()] == ["metrics.jsonl"]
    assert not (tmp_path / "machines").exists()


def test_an_address_may_end_in_a_query() -> None:
    assert location_of("s3://bucket/prefix?region=eu", "hh") == "s3://bucket/prefix/hh?region=eu"


def test_an_address_with_a_key_is_refused_and_not_repeated() -> None:
    with pytest.raises(StorageError, match="has a key in its address") as caught:
        location_of("s3://AKIA:secret@bucket/prefix", "hh")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("storage", ["file:///proc/nowhere", "nosuch://bucket/prefix"])
def test_a_store_that_cannot_be_used_is_one_line(storage: str, machine: Machine) -> None:  # noqa: ARG001
    with pytest.raises(StorageError, match=f"storage {storage}: cannot be used, got .*; check its address") as caught:
        new(storage)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


# Checkpoints --------------------------------------------------------------------------------------------------------


def checkpoint(copy: WorkingCopy, step: int) -> Path:
    return checkpoints.write(copy.path / "checkpoints", step, lambda part: write(part / "state", str(step)))  # type: ignore[arg-type, return-value]


def test_a_half_pushed_checkpoint_is_not_used(store: str, machine: Machine) -> None:
    ours = WorkingCopy(location_of(store, "hh"))
    ours.push_folder(checkpoint(ours, 4), checkpoints.MARKER)
    half = checkpoint(ours, 8)
    ours.push(half / "state")  # and then the machine is gone
    machine("b")
    theirs = WorkingCopy(location_of(store, "hh"))
    checkpoints.fetch(theirs, theirs.path / "checkpoints", at_most=12)
    found = checkpoints.newest(theirs.path / "checkpoints")
    assert found is not None
    assert (found.name, (found / "state").read_text()) == ("step-00000004", "4")


def test_the_mirror_counts_where_a_machine_has_other_checkpoints(bucket: str, machine: Machine) -> None:
    ours = WorkingCopy(location_of(bucket, "hh"))
    checkpoint(ours, 4)  # of a search that had the name before
    machine("b")
    theirs = WorkingCopy(location_of(bucket, "hh"))
    kept = checkpoint(theirs, 4)
    (kept / "state").write_text("another")
    theirs.push_folder(kept, checkpoints.MARKER)
    machine("a")
    checkpoints.fetch(ours, ours.path / "checkpoints", at_most=12)
    assert (ours.path / "checkpoints" / "step-00000004" / "state").read_text() == "another"
    checkpoints.forget(theirs, theirs.path / "checkpoints")
    checkpoints.fetch(ours, ours.path / "checkpoints", at_most=12)
    assert checkpoints.newest(ours.path / "checkpoints") is None


def test_a_checkpoint_that_lost_its_end_here_is_brought_again(store: str, machine: Machine) -> None:  # noqa: ARG001
    copy = WorkingCopy(location_of(store, "hh"))
    kept = checkpoint(copy, 4)
    copy.push_folder(kept, checkpoints.MARKER)
    (kept / "state").write_text("")  # a machine without power
    checkpoints.fetch(copy, kept.parent, at_most=12)
    assert checkpoints.newest(kept.parent) == kept
    assert (kept / "state").read_text() == "4"


# Journals and drivers -----------------------------------------------------------------------------------------------


def test_a_journal_goes_there_in_whole_lines_and_the_longer_one_stays(bucket: str, machine: Machine) -> None:
    ours = WorkingCopy(location_of(bucket, "hh"))
    journal = write(ours.path / "ledger.journal", '{"a": 1}\n{"torn')
    ours.push_journal(journal)
    assert there(bucket, "hh", "ledger.journal").read_text() == '{"a": 1}\n'
    ours.pull_journal(journal)
    assert journal.read_text() == '{"a": 1}\n{"torn'
    machine("b")
    theirs = WorkingCopy(location_of(bucket, "hh"))
    other = write(theirs.path / "ledger.journal", '{"b": 1}\n')
    theirs.pull_journal(other)
    assert other.read_text() == '{"a": 1}\n'


def test_a_journal_is_pushed_while_it_grows(bucket: str, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setattr(keeping_up, "PUSH_EVERY_S", 0.02)
    copy = WorkingCopy(location_of(bucket, "hh"))
    live, mirrored = copy.path / "live.json", there(bucket, "hh", "ledger.journal")
    with kept_up(copy, copy.path / "ledger.journal", [live]):
        write(copy.path / "ledger.journal", "1\n")
        write(live, "{}")
        deadline = time.monotonic() + 5
        while not (mirrored.exists() and there(bucket, "hh", "live.json").exists()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert mirrored.read_text() == "1\n"
        with (copy.path / "ledger.journal").open("a") as file:
            file.write("2\n")
        live.unlink()
    assert mirrored.read_text() == "1\n2\n"
    assert not there(bucket, "hh", "live.json").exists()


def test_one_driver_at_a_time_whatever_the_machine(bucket: str, machine: Machine) -> None:
    with lease(WorkingCopy(location_of(bucket, "hh")), "hh"):
        machine("b")
        copy = WorkingCopy(location_of(bucket, "hh"))
        assert holder(copy) is not None
        with pytest.raises(StorageError, match="hh: a driver runs it already"), lease(copy, "hh"):
            pass
    assert holder(copy) is None
    write(there(bucket, "hh", LEASE), json.dumps({"host": "lost", "pid": 1, "started": 0, "beat": time.time() - 90}))
    with lease(copy, "hh"):
        assert "lost" not in str(holder(copy))


def played(search: SearchFolder, **how: Any) -> Played:
    with lease(search.copy, search.name):
        search.pull()
        with kept_up(search.copy, search.journal, []):
            return Played(search, **how).run()


class Gone(Exception):
    """The driver's machine is gone."""


def test_a_search_goes_on_from_an_empty_machine(bucket: str, machine: Machine, tmp_path: Path) -> None:
    calm = new(tmp_path / "calm")
    Played(calm).run()

    def end(job: Job) -> None:
        if job.trial == "ipo-0000":
            raise Gone

    with pytest.raises(Gone):
        Played(new(bucket), busy=end).run()  # type: ignore[arg-type]
    machine("b")
    with pytest.raises(StorageError, match="there is a search of that name"):
        new(bucket)  # type: ignore[arg-type]
    again = opened(bucket, "played")
    assert {row.name: row.state for row in again.ledger.rows()}["ipo-0000"] == "running"
    played(again)
    assert table(again) == table(calm)
    machine("a")
    assert table(opened(bucket, "played")) == table(calm)
    with pytest.raises(StorageError, match=r"no search of that name in .*/raypo; there are: played"):
        opened(bucket, "other")


def test_commands_reach_a_search_that_rests_from_any_machine(bucket: str, machine: Machine) -> None:
    search = new(bucket)  # type: ignore[arg-type]
    played(search)
    machine("b")
    send("played", bucket, "extend", trials=1, hours=0.0)
    with lease(opened(bucket, "played").copy, "played"):
        machine("c")
        with pytest.raises(StorageError, match=r"its driver runs elsewhere .*ledger: postgresql"):
            send("played", bucket, "stop", live=True, trial=None)
    machine("a")
    again = opened(bucket, "played")
    assert len(played(again).rows) == 6


def test_a_refused_search_leaves_nothing(bucket: str, machine: Machine) -> None:  # noqa: ARG001
    discard_if_empty(new(bucket))  # type: ignore[arg-type]
    assert not there(bucket, "played").exists()
    assert new(bucket).name == "played"  # type: ignore[arg-type]


def test_a_new_search_knows_nothing_of_one_that_was_removed(bucket: str, machine: Machine) -> None:  # noqa: ARG001
    search = new(bucket)  # type: ignore[arg-type]
    played(search)
    search.copy.drop(search.path)
    write(search.journal, "left\n")
    assert not new(bucket).begun  # type: ignore[arg-type]


def test_an_added_method_reaches_slots_elsewhere(bucket: str, machine: Machine) -> None:
    from raypo.search.serving import SlotPlan, _Lazy

    search = create(study_in(bucket))  # type: ignore[arg-type]
    search.revise(search.study(), 1)
    machine("b")
    where = {"study": {}, "folder": search.copy.location}
    plan = SlotPlan("played", "slot-0", "", "", "", where, 1, 1, 0, "PACK", "")
    slot = _Lazy(plan)
    slot._revision = 1
    assert slot._settings()["study"]["methods"].keys() == {"dpo", "ipo"}


# Trials -------------------------------------------------------------------------------------------------------------


def answers(copy: WorkingCopy, trial: str, scores: list[float]) -> None:
    path = trial_folder(copy.path, trial) / "completions.parquet"
    path.parent.mkdir(parents=True)
    texts = [str(i) for i in range(len(scores))]
    verdicts = [Verdict(score) for score in scores]
    append(path, fraction=1.0, prompts=texts, answers=texts, opponents=texts, verdicts=verdicts, judge="rule")
    copy.push(path)


def test_a_slot_races_against_what_slots_elsewhere_found(bucket: str, machine: Machine) -> None:
    slot = WorkingCopy(location_of(bucket, "hh"), of="slots")
    answers(slot, "dpo-0001", [0.0, 1.0])
    machine("b")
    other = WorkingCopy(location_of(bucket, "hh"), of="slots")
    job = Job("dpo-0004", "dpo", {}, 0, 1.0, rival="dpo-0001")
    rival = scores_of(other.others(), job, 2)
    assert rival is not None
    assert rival.tolist() == [0.0, 1.0]


def test_wilcoxon_compares_with_what_slots_elsewhere_found(bucket: str, machine: Machine) -> None:
    search = new(bucket)  # type: ignore[arg-type]
    name = played(search).rows["dpo-0000"].name
    answers(WorkingCopy(search.copy.location, of="slots"), name, [0.0, 1.0])
    machine("b")
    again = opened(bucket, "played")
    assert verdicts(again.study(), again.ledger, "dpo", again.copy, 0, 1) == {"0": 0.0, "1": 1.0}


def test_models_of_losers_go_and_the_winner_is_exported(bucket: str, machine: Machine, tmp_path: Path) -> None:
    search = new(bucket, repeats={"seeds": 1})  # type: ignore[arg-type]
    slot = WorkingCopy(search.copy.location, of="slots")
    played(search)
    rows = search.ledger.rows("dpo")
    for row in rows:
        model = trial_folder(slot.path, row.name) / "model"
        write(model / "config.json", row.name), write(model / "weights", row.name)
        slot.push_folder(model, "config.json")
    best = max(rows, key=lambda row: row.evaluations[-1]["objective"])
    machine("b")
    theirs = opened(bucket, "played")
    Models(theirs.copy, 1, rows)
    machine("c")
    search = opened(bucket, "played")
    exported = copy_model(search.copy, search.study(), best.name, tmp_path / "out")
    assert {path.name: path.read_text() for path in exported.iterdir()} == dict.fromkeys(
        ("config.json", "weights"), best.name
    )
    loser = next(row.name for row in rows if row.name != best.name)
    with pytest.raises(StorageError, match=f"{loser}: its model is not kept"):
        copy_model(search.copy, search.study(), loser, tmp_path / "other")


STEPS = {"training": {"steps": 8}, "objective": {"at": [0.5, 1.0]}}


class Steps(Pulse):
    """Remembers after which steps, of 8, it was told of training."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def __call__(self, fraction: float, stage: str, loss: float | None = None, saved: float = 0.0) -> None:
        super().__call__(fraction, stage, loss, saved)
        self.steps += [round(8 * fraction)] if stage == "training" else []


def test_a_trial_goes_on_elsewhere_bit_for_bit_and_is_recorded_once(
    bucket: str, machine: Machine, tmp_path: Path
) -> None:
    whole = small_study(tmp_path / "calm", **STEPS)
    bench = open_bench(whole, tmp_path / "calm" / "small")
    job = job_of(whole, "dpo-0000")
    wanted = [bench.run(job.until_fraction(until), Pulse()) for until in (0.5, 1.0)]
    bench.close()

    study = small_study(bucket, **STEPS)  # type: ignore[arg-type]
    search, found, pulse = create(study), [], Steps()
    for name, until in (("a", 0.5), ("b", 1.0)):
        machine(name)
        bench = open_bench(study, search.copy.location)  # type: ignore[arg-type]
        found.append(bench.run(job.until_fraction(until), pulse))
        bench.close()
    assert pulse.steps == [1, 2, 3, 4, 5, 6, 7, 8], "no step twice"
    assert pulse.saved == [0.0] * 4 + [0.5] * 4, "the pool is told how far nothing can be lost any more"
    assert [outcome.evaluation for outcome in found] == [outcome.evaluation for outcome in wanted]
    machine("c")
    bench = open_bench(study, search.copy.location)  # type: ignore[arg-type]
    assert [bench.run(job.until_fraction(until), pulse) for until in (0.5, 1.0)] == found
    assert len(pulse.steps) == 8, "no step again"
    bench.close()

    machine("reader")
    result = opened(bucket, "small")
    result.pull_trials()
    folder, calm = trial_folder(result.path, "dpo-0000"), trial_folder(tmp_path / "calm" / "small", "dpo-0000")
    assert {path.name for path in folder.iterdir()} == {"metrics.jsonl", "completions.parquet"}
    assert losses(folder) == losses(calm)
    assert {"model", "data.source", "objective.prompts"} <= read_results(result).contents.keys()
    result.copy.pull_folder(folder / "model", "config.json")
    weights = [(each / "model" / "model.safetensors").read_bytes() for each in (folder, calm)]
    assert weights[0] == weights[1]
    assert not there(bucket, "small", "trials", "dpo-0000", "checkpoints").exists()


def test_a_slot_keeps_no_model_that_the_store_has(bucket: str, machine: Machine) -> None:  # noqa: ARG001
    study = small_study(bucket)  # type: ignore[arg-type]
    search = create(study)
    bench = open_bench(study, search.copy.location)  # type: ignore[arg-type]
    for trial in ("dpo-0000", "dpo-0000.r1"):  # its own seed and a further one
        outcome = bench.run(replace(job_of(study, "dpo-0000"), trial=trial), Pulse())
        assert outcome.checkpoint == f"trials/{trial}/model"
        assert not (bench.folder / str(outcome.checkpoint)).exists()
        search.pull_models(trial)
        assert (search.path / str(outcome.checkpoint) / "model.safetensors").exists()
    bench.close()


def losses(folder: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def test_seeds_that_a_driver_elsewhere_heard_are_averaged(bucket: str, machine: Machine) -> None:
    search = new(bucket, repeats={"seeds": 2}, trials=1)  # type: ignore[arg-type]
    slot = WorkingCopy(search.copy.location, of="slots")

    def outcome(job: Job) -> Outcome | None:
        if job.until < 1:
            return None
        answers(slot, job.trial, [1.0, 0.5 if ".r" in job.trial else 0.0])
        figures = {"objective": 0.5, "win_rate": 0.5, "n": 2, "kl": 0.0, "length": 1.0}
        figures |= {"judge": "rule", "opponent": "start"}
        return Outcome(job.trial, "finished", 1.0, 10, figures, 2.0)

    def end(job: Job) -> None:
        if job.trial == "dpo-0000.r1":
            raise Gone

    with pytest.raises(Gone):
        played(search, outcome=outcome, busy=end)
    machine("b")
    again = opened(bucket, "played")
    assert played(again, outcome=outcome).rows["dpo-0000"].evaluations[-1]["win_rate"] == 0.625


def test_a_fork_takes_trials_with_it(bucket: str, machine: Machine) -> None:
    search = new(bucket)  # type: ignore[arg-type]
    slot = WorkingCopy(search.copy.location, of="slots")
    played(search)
    answers(slot, "dpo-0000", [1.0])
    machine("b")
    forked = fork(opened(bucket, "played"), "other", ["search.trials=4"])
    machine("c")
    found = results_of(bucket, "other")
    assert {trial.state for trial in found.trials} == {"finished"}
    assert len(found.trials) == len(forked.taken) == 4
    assert (trial_folder(found.folder, forked.taken["dpo-0000"]) / "completions.parquet").exists()
