"""Hand-over: from the last step of a trial to the first step of the next, on the quickstart model.

python tests/benchmarks/hand_over.py --trials 12
python tests/benchmarks/hand_over.py --trials 12 --trl-site FOLDER    with TRL beside it (installed there, --no-deps)

A hand-over runs from the end of one trial's last optimizer step to the end of the next trial's first. It includes the
model's export, a tiny evaluation (4 prompts, 4 new tokens, judged), the report to the ledger, the draw of a trial, its
job's way to the slot, the new start weights and optimizer, and that first step, whose median length is given beside.
The sides, each a process with a Ray of its own: raypo, whose tpe waits for the result before it draws; raypo with the
random sampler, whose next trial is ready; the same trials as Tune trials that each start a TorchTrainer;
Tune function trials around TRL's DPOTrainer, with and without reuse_actors (one process a trial, for they have no
second worker).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

STEPS, BATCH = 8, 32
SIDES = ("raypo", "raypo_ready", "torch_trainer", "trl", "trl_reuse")
STUDY: dict[str, Any] = {
    "name": "handing",
    "model": {"path": "quickstart", "sft": {"count": 640, "epochs": 1, "lr": 4e-3, "batch_size": 64}},
    "data": {"source": "quickstart", "count": 600, "max_length": 64, "heldout": 0.0},
    "training": {"steps": STEPS, "lr": {"log_uniform": [1e-5, 1e-4]}, "batch_size": BATCH, "micro_batch_size": 16},
    "methods": {"dpo": {"beta": {"log_uniform": [0.05, 1.0]}}},
    "objective": {
        "judge": {"kind": "rule", "function": "quickstart"},
        "prompts": {"count": 4},
        "at": [1.0],
        "sampling": {"max_new_tokens": 4},
    },
    "search": {"sampler": "tpe", "pruner": "none"},
    "resources": {"slots": 1, "workers": 2},
    "tracking": {"wandb": "disabled"},
}


def study_in(storage: Path, trials: int, **search: Any) -> Any:
    from raypo.study import build

    content = {**STUDY, "storage": str(storage), "search": {**STUDY["search"], "trials": trials, **search}}
    return build(content, "handing")


class Silent:
    """A watcher that follows nothing."""

    def started(self, *_: Any) -> None: ...
    def running(self, *_: Any) -> None: ...
    def event(self, *_: Any) -> None: ...
    def ended(self, *_: Any) -> None: ...
    def stage(self, text: str) -> None: ...


def raypo(storage: Path, trials: int, **search: Any) -> None:
    """The search as it is."""
    from raypo.search import driver, searches

    study = study_in(storage, trials, **search)
    driver.run(searches.create(study), study, Silent())


def torch_trainer(storage: Path, trials: int) -> None:
    """Every Tune trial starts a TorchTrainer, whose workers do one raypo job and end."""
    import ray
    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    settings = {
        "study": study_in(storage, trials).written(),
        "search": "handing",
        "folder": str(storage / "handing"),
        "allow_code": False,
    }

    def work(config: dict[str, Any]) -> None:
        from raypo.search.bench import TrialBench
        from raypo.search.jobs import Job

        bench = TrialBench(**settings)
        job = Job(**config)
        bench.run(job, _Pulse())  # type: ignore[arg-type]
        bench.close()

    def trial(config: dict[str, Any]) -> None:
        trainer = TorchTrainer(
            work,
            train_loop_config=config["job"],
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(storage_path=str(storage / "ray"), name=config["job"]["trial"]),
        )
        trainer.fit()

    def job(trial: str, kind: str) -> dict[str, Any]:
        point = {**study_in(storage, trials).fixed("dpo"), "lr": 5e-5, "beta": 0.1}
        return {"trial": trial, "label": "dpo", "point": point, "seed": 0, "until": 1.0, "kind": kind}

    ray.init(address="local", num_cpus=3, include_dashboard=True, dashboard_host="127.0.0.1", log_to_driver=False)
    jobs = [job("prepare", "prepare"), *(job(f"dpo-{n:04d}", "trial") for n in range(trials))]
    _tune(tune.with_resources(trial, {"cpu": 0.1}), {"job": tune.grid_search(jobs)}, storage, reuse=False)


class _Pulse:
    """A pulse that nobody hears."""

    cancelled = False

    def __call__(self, *_: object, **__: object) -> None: ...

    def ours(self) -> bool:
        return True


def trl(storage: Path, trials: int, reuse: bool = False) -> None:
    """Every Tune trial makes TRL's DPOTrainer, trains, saves the model and samples."""
    import ray
    from ray import tune

    ray.init(address="local", num_cpus=2, include_dashboard=True, dashboard_host="127.0.0.1", log_to_driver=False)
    model = os.environ["HAND_OVER_MODEL"]
    names = [f"dpo-{n:04d}" for n in range(trials)]

    class Trial(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.name = config["name"]

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.name = new_config["name"]
            return True

        def step(self) -> dict[str, Any]:
            train_with_trl(model, storage / "handing" / "trials" / self.name)
            return {"done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:  # noqa: ARG002
            return {}

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Nothing to load."""

    _tune(tune.with_resources(Trial, {"cpu": 2}), {"name": tune.grid_search(names)}, storage, reuse)


def train_with_trl(model: str, folder: Path) -> None:
    """One trial; steps go to metrics.jsonl as raypo writes them."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from raypo.quickstart import task

    folder.mkdir(parents=True)
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in task.pairs(600, 0)]
    log = (folder / "metrics.jsonl").open("a")

    class Stamp(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            log.write(json.dumps({"step": state.global_step, "time": time.time()}) + "\n")

    config = DPOConfig(
        output_dir=str(folder), per_device_train_batch_size=BATCH, max_steps=STEPS, learning_rate=5e-5, beta=0.1,
        bf16=False, use_cpu=True, gradient_checkpointing=False, max_length=64, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    policy = AutoModelForCausalLM.from_pretrained(model)
    trainer = DPOTrainer(
        model=policy,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Stamp()],
    )
    trainer.train()
    log.close()
    trainer.save_model(str(folder / "model"))
    for prompt in task.prompts(4, 0):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        policy.generate(ids, max_new_tokens=4, do_sample=True, pad_token_id=tokenizer.eos_token_id)


def _tune(trainable: Any, space: dict[str, Any], storage: Path, reuse: bool) -> None:
    from ray import tune

    tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=reuse),
        run_config=tune.RunConfig(name="tune", storage_path=str(storage / "tune"), verbose=0),
    ).fit()


def gaps(storage: Path) -> tuple[list[float], float]:
    """(seconds from each trial's last step to the next one's first, median seconds of a step)."""
    logs = sorted((storage / "handing" / "trials").glob("dpo-*/metrics.jsonl"))
    times = [[json.loads(line)["time"] for line in log.read_text().splitlines()] for log in logs]
    times.sort()
    steps = [after - before for trial in times for before, after in itertools.pairwise(trial)]
    found = [after[0] - before[-1] for before, after in itertools.pairwise(times)]
    return found, statistics.median(steps)


def compare(words: argparse.Namespace) -> None:
    print("| side | hand-overs | median s | from, to (10 %, 90 %) | median step s | load |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as top:
        for side in words.sides.split(","):
            storage = Path(top) / side
            storage.mkdir()
            paths = [words.trl_site or "", os.environ.get("PYTHONPATH", "")]
            models = list((Path(top) / "raypo" / "artifacts").glob("sft-model/*/config.json"))
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                "HAND_OVER_MODEL": str(models[0].parent) if models else "",
                "OMP_NUM_THREADS": "1",
                "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
            }
            command = [sys.executable, __file__, "--measure", side, "--trials", str(words.trials)]
            done = subprocess.run([*command, "--storage", storage], env=environment, capture_output=True, text=True)
            if done.returncode:
                print(f"| {side} | not measured: {done.stderr.strip().splitlines()[-1:]} | | | | |", flush=True)
                continue
            found, step = gaps(storage)
            low, high = statistics.quantiles(found, n=10)[0], statistics.quantiles(found, n=10)[-1]
            load = psutil.getloadavg()[0]
            middle = statistics.median(found)
            print(
                f"| {side} | {len(found)} | {middle:.2f} | {low:.2f}, {high:.2f} | {step:.3f} | {load:.1f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--trl-site")
    parser.add_argument("--measure", choices=SIDES)
    parser.add_argument("--storage", type=Path)
    words = parser.parse_args()
    match words.measure:
        case None:
            compare(words)
        case "raypo":
            raypo(words.storage, words.trials)
        case "raypo_ready":
            raypo(words.storage, words.trials, sampler="random")
        case "torch_trainer":
            torch_trainer(words.storage, words.trials)
        case side:
            trl(words.storage, words.trials, reuse=side == "trl_reuse")


if __name__ == "__main__":
    main()
