"""The command a newcomer types, made small: real training, sampling, judging, W&B files; killed, resumed, exported."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from raypo.cli import main

ROOT = Path(__file__).parents[2]
SMALL = [
    "model.sft={count: 640, epochs: 1, lr: 4e-3, batch_size: 64}",
    "data.count=400",
    "training.steps=16",
    "objective.prompts.count=24",
    "search.trials=1",
    "methods.ipo=null",
    "methods.simpo=null",
]


def command(*words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("raypo")), *words]


def search_words(name: str, *also: str) -> list[str]:
    sets = [word for text in [*SMALL, *also] for word in ("--set", text)]
    return ["search", str(ROOT / "search_spaces" / "quickstart.yaml"), "--name", name, *sets]


def environment(storage: Path) -> dict[str, str]:
    return {**os.environ, "RAYPO_STORAGE": str(storage), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}


def run(storage: Path, *words: str, expect: int = 0) -> str:
    done = subprocess.run(
        command(*words), env=environment(storage), cwd=storage, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout if expect == 0 else done.stderr


def said(storage: Path, *words: str, expect: int = 0) -> str:
    """What a command that starts no process prints, run in this one."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["raypo", *words])
        patch.setenv("RAYPO_STORAGE", str(storage))
        patch.chdir(storage)
        with pytest.raises(SystemExit) as ended:
            main()
    assert (ended.value.code or 0) == expect, err.getvalue()
    return out.getvalue() if expect == 0 else err.getvalue()


class Family:
    """All processes that descend from one, as seen while it runs; those that outlive it are what it left behind."""

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self._process, self._seen = process, set[psutil.Process]()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while self._process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._seen |= set(psutil.Process(self._process.pid).children(recursive=True))
            time.sleep(0.2)

    def left(self) -> list[str]:
        """Command lines of what is still there."""
        self._thread.join()
        assert len(self._seen) > 10, "Ray's processes were seen while the command ran"
        _, alive = psutil.wait_procs(list(self._seen), timeout=5)
        return [" ".join(process.cmdline())[:100] for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Loss by step of every trial."""
    logs = sorted(folder.glob("trials/*/metrics.jsonl"))
    rows = {log.parent.name: [json.loads(line) for line in log.read_text().splitlines()] for log in logs}
    return {name: [(row["step"], row["loss"]) for row in found] for name, found in rows.items()}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("searches")


@pytest.fixture(scope="module")
def undisturbed(storage: Path) -> dict[str, Any]:
    process = subprocess.Popen(
        command(*search_words("calm"), "--json"),
        env=environment(storage),
        cwd=storage,
        stdout=subprocess.PIPE,
        text=True,
    )
    family = Family(process)
    told, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    assert not family.left()
    return dict(json.loads(told))


def test_the_comparison_has_a_row_per_method(undisturbed: dict[str, Any]) -> None:
    assert undisturbed["search"] == "calm"
    assert [row["method"] for row in undisturbed["methods"]] == ["dpo", "epsilon_dpo"]
    for row in undisturbed["methods"]:
        assert row["finished"] + row["diverged"] == 1
        assert row["n"] == 24
        assert 0 <= row["ci_low"] <= row["win_rate"] <= row["ci_high"] <= 1
        assert set(row["hyperparameters"]) >= {"beta", "lr"}


@pytest.mark.usefixtures("undisturbed")
def test_status_lists_every_trial(storage: Path) -> None:
    found = json.loads(said(storage, "status", "calm", "--json"))
    assert found["driver"] is None
    assert [trial["trial"] for trial in found["trials"]] == ["dpo-0000", "epsilon_dpo-0000"]
    assert all(trial["evaluations"] == 3 for trial in found["trials"] if trial["state"] == "finished")


@pytest.mark.usefixtures("undisturbed")
def test_every_trial_has_its_answers_and_its_log(storage: Path) -> None:
    from raypo.evaluation.completions import read

    for name, curve in curves(storage / "calm").items():
        assert [step for step, _ in curve] == list(range(1, 17))
        rows = read(storage / "calm" / "trials" / name / "completions.parquet", 1.0)
        assert len(rows) == 24
        assert all(row.score in (0, 0.5, 1) for row in rows)


@pytest.mark.usefixtures("undisturbed")
def test_every_trial_every_slot_and_the_search_is_a_wandb_run(storage: Path) -> None:
    runs = list((storage / "calm" / "wandb").glob("offline-run-*/run-*.wandb"))
    names = {re.sub(r"run-calm-[0-9a-f]{6}-", "", run.stem) for run in runs}
    assert len(runs) == len(names)
    assert names == {"dpo-0000", "epsilon_dpo-0000", "slot-0", "search"}
    assert all(run.stat().st_size > 1000 for run in runs)


@pytest.mark.usefixtures("undisturbed")
def test_the_best_model_loads_with_transformers(storage: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said(storage, "export", "calm", "--method", "dpo", "--to", "best")
    model = AutoModelForCausalLM.from_pretrained(storage / "best")
    tokenizer = AutoTokenizer.from_pretrained(storage / "best")
    assert model.config.vocab_size == len(tokenizer)


def test_killed_and_resumed_it_ends_as_if_undisturbed(undisturbed: dict[str, Any], storage: Path) -> None:
    folder = storage / "killed"
    words = search_words("killed", "training.checkpoint_every_s=0.1")
    process = subprocess.Popen(command(*words), env=environment(storage), cwd=storage)
    try:
        _wait(lambda: _logged(folder) >= 6, process)
        _kill_a_worker(process.pid)
        _wait(lambda: len(list(folder.glob("trials/*/evaluations/1.000000.json"))) >= 1, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = {path.parents[1].name for path in folder.glob("trials/*/evaluations/1.000000.json")}
    stamps = {name: (folder / "trials" / name / "metrics.jsonl").stat().st_mtime for name in finished}
    found = json.loads(run(storage, "resume", "killed", "--json"))
    assert found["methods"] == undisturbed["methods"]
    assert curves(folder) == curves(storage / "calm"), "bit for bit the same losses"
    for name, stamp in stamps.items():
        assert (folder / "trials" / name / "metrics.jsonl").stat().st_mtime == stamp, "a finished trial ran again"


@pytest.mark.slow
def test_an_object_store_is_enough_to_go_on_from_an_empty_machine(
    undisturbed: dict[str, Any], storage: Path, tmp_path: Path
) -> None:
    def on(machine: str) -> dict[str, str]:
        return {
            **environment(storage),
            "RAYPO_STORAGE": f"file://{tmp_path}/bucket",
            "RAYPO_CACHE": str(tmp_path / machine),
        }

    mirror = tmp_path / "bucket" / "moved"
    process = subprocess.Popen(
        command(*search_words("moved", "training.checkpoint_every_s=0.1")), env=on("first"), cwd=storage
    )
    try:
        _wait(lambda: len(list(mirror.glob("trials/*/evaluations/1.000000.json"))) >= 1, process)
    finally:
        _lose_machine(process)
    shutil.rmtree(tmp_path / "first", ignore_errors=True)
    told = subprocess.run(
        command("resume", "moved", "--json"),
        env=on("second"),
        cwd=storage,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=True,
    ).stdout
    assert json.loads(told)["methods"] == undisturbed["methods"]
    assert curves(mirror) == curves(storage / "calm"), "bit for bit the same losses"


@pytest.mark.usefixtures("undisturbed")
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(storage: Path) -> None:
    process = subprocess.Popen(
        command(*search_words("stopped")), env=environment(storage), cwd=storage, stderr=subprocess.PIPE, text=True
    )
    family = Family(process)
    _wait(lambda: _logged(storage / "stopped") >= 2, process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "raypo resume stopped" in told
    assert "Traceback" not in told
    assert not family.left()


@pytest.mark.usefixtures("undisturbed")
def test_a_taken_name_is_refused_with_the_two_ways_on(storage: Path) -> None:
    told = said(storage, *search_words("calm"), expect=1)
    assert "raypo resume calm" in told
    assert "raypo extend calm --trials N" in told


def test_mistakes_are_one_line_each_without_a_traceback(storage: Path) -> None:
    sets = ["--set", "search.trails=3", "--set", "methods.dpo.betta=1", "--set", "data.source=none.jsonl"]
    told = said(storage, *search_words("wrong"), *sets, expect=2)
    assert "search.trails: no such key" in told
    assert "did you mean 'beta'" in told
    assert "Traceback" not in told
    told = said(storage, *search_words("absent"), "--set", "data.source=none.jsonl", expect=2)
    assert "data.source: no such file or folder, got 'none.jsonl'" in told
    told = said(storage, *search_words("nomodel"), "--set", f"model.path={storage}", expect=2)
    assert "is no model folder, it has no config.json" in told
    assert not (storage / "absent").exists(), "nothing of a refused study stays"


@pytest.mark.usefixtures("local_ray")
def test_more_workers_than_the_cluster_has_is_said_at_once(storage: Path) -> None:
    sets = ["--set", "resources.gpus_per_worker=4", "--set", "resources.workers=2"]
    told = said(storage, *search_words("large"), *sets, expect=1)
    assert "a slot of 2 workers needs 8 GPUs, the cluster has 0" in told


def _logged(folder: Path) -> int:
    return sum(len(log.read_text().splitlines()) for log in folder.glob("trials/*/metrics.jsonl"))


def _lose_machine(process: subprocess.Popen[Any]) -> None:
    """End a driver and all that it started, at once: a worker that outlived it would go on writing to the bucket."""
    everything = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in everything:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    psutil.wait_procs(everything, timeout=30)


def _wait(until: Any, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 300
    while not until():
        assert process.poll() is None, "the search ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _kill_a_worker(driver: int) -> None:
    workers = [p for p in psutil.Process(driver).children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
    assert len(workers) == 2
    workers[1].kill()
