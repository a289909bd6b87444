"""Pairs per second, peak memory and model FLOPs of a DPO step: raypo, the same loop in bare PyTorch, and TRL.

    python tests/benchmarks/training_speed.py --trl-python PATH/TO/python --sizes 2m,22m --shapes hh,ultrafeedback
    python tests/benchmarks/training_speed.py --device cuda --sizes 0.5b,1.5b --sides raypo,bare,trl

Every measurement is a process of its own; rounds go through all sides in turn, so that what else runs on the machine
hits them alike. TRL (1.16) may live in another environment. Neither Ray nor a hub is needed: models have random
weights, texts are random words whose lengths are drawn like those of Anthropic HH and of UltraFeedback. Beside the
clock, CPU seconds are taken: on a machine that is shared they are the steadier figure. The machine's own matmul rate
is taken between the steps, so that a neighbour slows both alike. Each side goes through its data twice and is measured
the second time: until the longest batch has been seen, a step also waits for memory that it takes for the first time,
once in the life of a process that trains for hours.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from raypo.training import CPU_ALLOCATION

SIZES: dict[str, dict[str, Any]] = {
    "2m": {
        "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4,
        "vocab_size": 8192,
    },
    "22m": {
        "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 9, "num_attention_heads": 6,
        "vocab_size": 16384,
    },
    "0.5b": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936,
    },
    "1.5b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936,
    },
}  # fmt: skip
"""The two large ones have the shapes of Qwen2.5."""
SHAPES = {"hh": (150, 68, 512), "ultrafeedback": (160, 380, 1024)}
"""(mean prompt, mean answer, most) tokens; log-normal with a spread of 0.8."""
EPOCHS = 2
"""The last one is measured."""


def examples(shape: str, count: int, vocabulary: int) -> list[tuple[list[int], list[int], list[int]]]:
    """(prompt, chosen, rejected) word numbers; answers end with the end-of-sequence word, number 1."""
    import numpy as np

    prompt, answer, most = SHAPES[shape]
    rng = np.random.default_rng(0)

    def lengths(mean: int, longest: int) -> Any:
        return np.clip(rng.lognormal(np.log(mean) - 0.32, 0.8, count), 3, longest).astype(int)

    def words(n: int) -> list[int]:
        return [int(i) for i in rng.integers(3, vocabulary, n)]

    sizes = zip(lengths(prompt, most // 2), lengths(answer, most // 2 - 1), lengths(answer, most // 2 - 1), strict=True)
    return [(words(p), [*words(c), 1], [*words(r), 1]) for p, c, r in sizes]


def build(size: str, folder: Path) -> None:
    """A model folder with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[size], max_position_embeddings=2048, tie_word_embeddings=True)
    LlamaForCausalLM(config).to(torch.bfloat16 if size.endswith("b") else torch.float32).save_pretrained(folder)


def token_set(rows: list[tuple[list[int], list[int], list[int]]]) -> Any:
    import numpy as np

    from raypo.data.tokens import TokenSet

    sequences = [prompt + answer for prompt, *answers in rows for answer in answers]
    prompts = [len(prompt) for prompt, *_ in rows for _ in range(2)]
    scored = [np.arange(len(s)) >= p for s, p in zip(sequences, prompts, strict=True)]
    return TokenSet(
        kind="pairs",
        ids=np.concatenate(sequences).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64),
        prompt_lengths=np.array(prompts, np.int32),
        mask=np.concatenate(scored),
        unit=None,
        score=np.full(len(sequences), np.nan, np.float32),
        examples=np.arange(len(sequences), dtype=np.int32).reshape(-1, 2),
        record=np.arange(len(rows), dtype=np.int32),
        stage=np.zeros(len(rows), np.int16),
    )


# Sides: each yields once per optimizer step of `batch` pairs. ---------------------------------------------------------


def raypo(o: argparse.Namespace, rows: list[Any], stage: int = 0) -> Iterator[None]:
    """raypo's trainer with stored reference log-probs."""
    import numpy as np

    from raypo.training.settings import EngineSetup, Optimisation, Run
    from raypo.training.trainer import Trainer

    dtype = "bf16" if o.dtype == "bf16" else "fp32"
    setup = EngineSetup(o.model, dtype, zero_stage=max(stage, dtype == "bf16"), micro_batch_size=o.batch)  # type: ignore[arg-type]
    trainer, tokens = Trainer(setup), token_set(rows)
    optimisation = Optimisation(lr=1e-6, batch_size=o.batch, epochs=EPOCHS, schedule="constant", warmup=0.0)
    trainer.begin(Run("dpo", {}, optimisation, 0), tokens, {"reference": np.full(len(tokens.ids), -9.0, np.float32)})
    for step in range(trainer.total_steps):
        trainer.train(step + 1)
        yield


def bare(o: argparse.Namespace, rows: list[Any]) -> Iterator[None]:
    """The same batches, layout and chunked head in a loop of plain PyTorch, the loss written out."""
    import numpy as np
    import torch

    from raypo.data.batches import Plan
    from raypo.training.layout import Layout, MicroBatch
    from raypo.training.model import load_policy
    from raypo.training.settings import EngineSetup

    tokens, device = token_set(rows), torch.device(o.device)
    policy = load_policy(EngineSetup(o.model, "bf16" if o.dtype == "bf16" else "fp32", zero_stage=1)).to(device)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, weight_decay=0.0, fused=True)
    plan = Plan.of(tokens, o.batch, seed=0)
    for step in range(EPOCHS * plan.steps_per_epoch):
        batch = MicroBatch.of(tokens, plan.at(step), Layout(True, "joined" if o.device == "cpu" else "padded"))
        logps = batch.spread(policy(tuple(p.to(device) for p in batch.passes))[0]).sum(-1)
        reference = torch.from_numpy(np.full(len(logps), -9.0, np.float32)).to(device) * batch.mask.to(device).sum(-1)
        chosen, rejected = (logps - reference).chunk(2)
        torch.nn.functional.softplus(-0.1 * (chosen - rejected)).mean().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield


def trl(o: argparse.Namespace, rows: list[Any], precompute: bool) -> Iterator[None]:
    """TRL's DPOTrainer; its reference stored, or a second live model. It cannot batch these texts by length."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    size = json.loads((Path(o.model) / "config.json").read_text())["vocab_size"]
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(size)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w2", unk_token="w0")

    def text(ids: list[int]) -> str:
        return " ".join(f"w{i}" for i in ids)

    data = [{"prompt": text(p), "chosen": " " + text(c), "rejected": " " + text(r)} for p, c, r in rows]
    marks: list[Callable[[], None]] = []

    class Tick(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks[0]()

    config = DPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=o.batch, num_train_epochs=EPOCHS, learning_rate=1e-6,
        lr_scheduler_type="constant", bf16=o.dtype == "bf16", use_cpu=o.device == "cpu", gradient_checkpointing=False,
        max_length=SHAPES[o.shape][2], precompute_ref_log_probs=precompute, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True,
        model_init_kwargs={"dtype": "bfloat16" if o.dtype == "bf16" else "float32"},
    )  # fmt: skip
    trainer = DPOTrainer(
        model=o.model,
        args=config,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        callbacks=[Tick()],
    )
    yield from _stepwise(trainer.train, marks)


def _stepwise(run: Callable[[], object], marks: list[Callable[[], None]]) -> Iterator[None]:
    """Turn a callback per step into an iterator, by running the loop in a thread that waits for us."""
    import queue
    import threading

    steps: queue.Queue[bool] = queue.Queue()
    go_on = threading.Semaphore(0)

    def tick() -> None:
        steps.put(True)
        go_on.acquire()

    def work() -> None:
        try:
            run()
        finally:
            steps.put(False)

    marks.append(tick)
    threading.Thread(target=work, daemon=True).start()
    while steps.get():
        yield
        go_on.release()


SIDES: dict[str, Callable[[argparse.Namespace, list[Any]], Iterator[None]]] = {
    "raypo": lambda o, rows: raypo(o, rows),
    "raypo-zero2": lambda o, rows: raypo(o, rows, stage=2),
    "bare": bare,
    "trl": lambda o, rows: trl(o, rows, precompute=True),
    "trl-live": lambda o, rows: trl(o, rows, precompute=False),
}


def measure(o: argparse.Namespace) -> dict[str, float]:
    """Run one side in this process."""
    import torch

    if o.device == "cpu":
        torch.set_num_threads(o.threads)
    vocabulary = json.loads((Path(o.model) / "config.json").read_text())["vocab_size"]
    rows = examples(o.shape, o.batch * o.steps, vocabulary)
    # An idle process holds its libraries; what is counted is the model, its training and the data.
    importlib.import_module("trl.trainer.dpo_trainer" if o.measure.startswith("trl") else "raypo.training.trainer")
    if o.measure == "raypo-zero2":
        importlib.import_module("deepspeed")
    matmul_rate = matmul_rates(o.device, o.dtype)
    rates, walls, cpus = [matmul_rate()], [], []
    idle = _memory(o.device)
    began = time.perf_counter(), time.process_time()
    for _ in SIDES[o.measure](o, rows):
        if o.device == "cuda":
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - began[0])
        cpus.append(time.process_time() - began[1])
        rates.append(matmul_rate())
        began = time.perf_counter(), time.process_time()
    pairs = o.steps * o.batch
    return {
        "pairs_per_s": pairs / sum(walls[-o.steps :]),
        "pairs_per_cpu_s": pairs / sum(cpus[-o.steps :]),
        "memory_mib": _memory(o.device) - idle,
        "matmul_rate": statistics.median(rates[-o.steps :]),
    }


def _memory(device: str) -> float:
    """Peak memory so far, MiB: allocated on the GPU, or resident."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def flops_per_pair(size: str, shape: str, count: int) -> float:
    """Model FLOPs of a pair in its cheapest form: prompt once, head on answers alone, cached reference.

    Attention counts by the pairs of tokens that a causal answer needs, nothing that a kernel computes twice or throws
    away (model FLOPs of Chowdhery et al., 2022, appendix B, with the masked half left out).
    """
    s = SIZES[size]
    d, heads, kv = s["hidden_size"], s["num_attention_heads"], s.get("num_key_value_heads", s["num_attention_heads"])
    layer = 2 * d * d + 2 * d * d * kv // heads + 3 * d * s["intermediate_size"]
    rows = examples(shape, count, s["vocab_size"])
    tokens = answered = looks = 0
    for prompt, *answers in rows:
        p, lengths = len(prompt), [len(answer) for answer in answers]
        tokens += p + sum(lengths)
        answered += sum(lengths)
        looks += p * (p + 1) // 2 + sum(n * p + n * (n + 1) // 2 for n in lengths)
    products = s["num_hidden_layers"] * (layer * tokens + 2 * d * looks) + d * s["vocab_size"] * answered
    return 6 * products / len(rows)


def matmul_rates(device: str, dtype: str) -> Callable[[], float]:
    """Each call measures the FLOP/s of a 2048 x 2048 matrix product, the best of three: the machine's own rate now.

    Its matrices are kept, so that what they hold counts as idle.
    """
    import torch

    a, out = torch.randn(2, 2048, 2048, device=device, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32)

    def once() -> float:
        began = time.perf_counter()
        torch.mm(a, a, out=out)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return lambda: 2 * 2048**3 / min(once() for _ in range(3))


def compare(o: argparse.Namespace) -> None:
    """All sides in turn, `rounds` times; prints medians as a Markdown table."""
    rates = []
    print(f"machine: {o.threads} threads, {o.device}, {o.dtype}\n")
    print("| model | shape | side | pairs/s | pairs/CPU-s | peak MiB above idle | model FLOPs / matmul rate |")
    print("|---|---|---|---|---|---|---|")
    for size in o.sizes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            build(size, Path(folder))
            for shape in o.shapes.split(","):
                found: dict[str, list[dict[str, float]]] = {side: [] for side in o.sides.split(",")}
                for _ in range(o.rounds):
                    for side in found:
                        result = _in_process(o, side, folder, shape)
                        if result:
                            found[side].append(result)
                            rates.append(result["matmul_rate"] / 1e9)
                            print(f"{size} {shape} {side}: {result['pairs_per_s']:.2f} pairs/s", file=sys.stderr)
                flops = flops_per_pair(size, shape, o.batch * o.steps)
                for side, results in found.items():
                    _print_row(size, shape, side, results, flops)
    print(f"\nown matmul rate {min(rates):.0f} to {max(rates):.0f} GFLOP/s")


def _in_process(o: argparse.Namespace, side: str, folder: str, shape: str) -> dict[str, float] | None:
    python = o.trl_python if side.startswith("trl") else sys.executable
    same = {"steps": o.steps, "batch": o.batch, "threads": o.threads, "device": o.device, "dtype": o.dtype}
    options = [f"--{k}={v}" for k, v in same.items()]
    command = [python, __file__, f"--measure={side}", f"--model={folder}", f"--shape={shape}", *options]
    environment = {**os.environ, **(CPU_ALLOCATION if o.device == "cpu" else {})}  # as raypo's slots, for all sides
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(
            f"{side}: could not be measured: {(done.stderr.strip().splitlines() or ['no output'])[-1]}", file=sys.stderr
        )
        return None
    found: dict[str, float] = json.loads(lines[-1])
    return found


def _print_row(size: str, shape: str, side: str, results: list[dict[str, float]], flops: float) -> None:
    if not results:
        print(f"| {size} | {shape} | {side} | not measured | | | |")
        return
    middle = {name: statistics.median(r[name] for r in results) for name in results[0]}
    used = statistics.median(r["pairs_per_s"] * flops / r["matmul_rate"] for r in results)
    print(
        f"| {size} | {shape} | {side} | {middle['pairs_per_s']:.2f} | {middle['pairs_per_cpu_s']:.2f} "
        f"| {middle['memory_mib']:.0f} | {used:.0%} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="2m,22m")
    parser.add_argument("--shapes", default="hh,ultrafeedback")
    parser.add_argument("--sides", default="raypo,raypo-zero2,bare,trl,trl-live")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--trl-python", default=sys.executable)
    parser.add_argument("--measure", choices=SIDES, help="measure one side in this process")
    parser.add_argument("--model")
    parser.add_argument("--shape")
    o = parser.parse_args()
    if o.measure:
        print(json.dumps(measure(o)))
    else:
        compare(o)


if __name__ == "__main__":
    main()
