"""Evaluations of the real bench: racing, the sampling engine, the template, what judging has cost."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from small_bench import Pulse, job_of, open_bench, small_study

from raypo.artifacts import Store
from raypo.data.records import Text
from raypo.errors import StudyError
from raypo.evaluation.completions import append, read
from raypo.evaluation.judges import Verdict
from raypo.search.folders import trial_folder
from raypo.search.judging import make_judge
from raypo.search.materials import Materials
from raypo.study import Study

ASKED: list[str] = []


def counted(_prompt: Text, answer: str) -> float:
    """A quality that no answer differs in, and a note of every answer that was judged."""
    ASKED.append(answer)
    return 1.0


def finished_before(search: Path, study: Study, trial: str, score: float) -> None:
    """The answers that a finished trial leaves behind that had `score` on every prompt."""
    where = trial_folder(search, trial)
    where.mkdir(parents=True)
    prompts = [p.text for p in Materials(study, Store(search.parent / "artifacts"), print).prompts()]
    append(
        where / "completions.parquet",
        fraction=1.0,
        prompts=prompts,
        answers=["yes"] * 128,
        opponents=["no"] * 128,
        verdicts=[Verdict(score)] * 128,
        judge="rule",
    )


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Study]]:
    storage = tmp_path_factory.mktemp("race")
    judge = {"kind": "rule", "function": f"{__name__}:counted"}
    study = small_study(storage, allow_code=True, objective={"racing": True, "judge": judge}, confirm={"top": 1})
    finished_before(storage / "small", study, "dpo-0000", 1.0)
    bench = open_bench(study, storage / "small")
    yield bench, study
    bench.close()


def test_a_configuration_behind_the_best_so_far_stops_being_judged(race: tuple[Any, Study]) -> None:
    bench, study = race
    ASKED.clear()
    found = bench.run(job_of(study, "dpo-0003", rival="dpo-0000"), Pulse()).evaluation
    assert found["n"] < 128
    assert found["n"] % 16 == 0
    assert found["n"] + found["not_judged"] == 128
    assert found["win_rate"] == 0.5
    rows = read(trial_folder(bench.folder, "dpo-0003") / "completions.parquet", 1.0)
    assert len(rows) == 128, "every answer is kept"
    judged = [row for row in rows if not math.isnan(row.score)]
    assert set(ASKED) == {text for row in judged for text in (row.answer, row.opponent)}
    assert len(ASKED) <= 2 * found["n"]
    unjudged = [row for row in rows if math.isnan(row.score)]
    assert len(unjudged) == found["not_judged"]
    assert "behind" in str(unjudged[0].failure)


def test_without_a_rival_every_answer_is_judged(race: tuple[Any, Study]) -> None:
    bench, study = race
    found = bench.run(job_of(study, "dpo-0002"), Pulse()).evaluation
    assert (found["n"], "not_judged" in found) == (128, False)


def test_a_confirmation_is_judged_in_full(race: tuple[Any, Study]) -> None:
    bench, study = race
    found = bench.run(job_of(study, "dpo-0004.s0", confirm=True), Pulse()).evaluation
    assert (found["n"], "not_judged" in found) == (128, False)


@dataclass(frozen=True)
class Params:
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop_token_ids: list[int]


class StubEngine:
    """Answers every prompt with its first token, and remembers which folders it was opened on."""

    opened: list[tuple[Path, dict[str, Any]]] = []  # noqa: RUF012
    asked: list[list[int]] = []  # noqa: RUF012

    def __init__(self, model: str, **options: Any) -> None:
        assert (Path(model) / "config.json").is_file()
        assert list(Path(model).glob("*.safetensors"))
        self.opened.append((Path(model), options))

    def generate(self, prompts: list[dict[str, list[int]]], sampling_params: list[Params], use_tqdm: bool) -> list[Any]:
        assert len(prompts) == len(sampling_params)
        assert not use_tqdm
        self.asked[:] = [prompt["prompt_token_ids"] for prompt in prompts]
        outputs = [SimpleNamespace(token_ids=ids[:1], finish_reason="length", stop_reason=None) for ids in self.asked]
        return [SimpleNamespace(outputs=[output]) for output in outputs]


def test_vllm_samples_from_an_export_of_each_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = StubEngine, Params  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    bench = open_bench(small_study(tmp_path, objective={"engine": "vllm"}), tmp_path / "small")
    try:
        outcome = bench.run(job_of(bench.study, "dpo-0000"), Pulse())
    finally:
        bench.close()
    assert outcome.state == "finished"
    assert outcome.evaluation["length"] == 1.0
    folders = [folder for folder, _ in StubEngine.opened]
    assert len(set(folders)) == 2, "one for the opponent's answers, one for the trial's"
    assert not any(folder.exists() for folder in folders)
    assert StubEngine.opened[0][1] == {"dtype": "float32", "trust_remote_code": False}


def test_answers_are_sampled_with_the_template_of_training(tmp_path: Path) -> None:
    template = "{% for m in messages %}list {{ m.content }}{% endfor %}"
    seen = []
    for name, data in (("plain", {}), ("templated", {"chat_template": template})):
        study = small_study(tmp_path / name, data=data)
        bench = open_bench(study, tmp_path / name / "small")
        try:
            completions, _ = bench.evaluator._answer(bench._trainer_for({}), bench.materials.prompts()[:4])
        finally:
            bench.close()
        seen.append([completion.prompt_tokens for completion in completions])
    assert all(len(templated) == len(plain) + 1 for plain, templated in zip(*seen, strict=True))


def test_a_prompt_without_a_chosen_answer_is_refused_before_the_first_trial(tmp_path: Path) -> None:
    """An empty answer in its place would lose against everything."""
    file = tmp_path / "labelled.jsonl"
    rows = [{"prompt": f"Name the letter {i} :", "completion": " a b", "label": i > 0} for i in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = small_study(tmp_path, objective={"opponent": "chosen", "prompts": {"source": str(file), "count": 4}})
    with pytest.raises(StudyError, match=r"labelled\.jsonl has none for 1 of 4, such as 'Name the letter 0 :'"):
        open_bench(study, tmp_path / "small")


def test_what_judging_has_cost_is_counted_by_search(tmp_path: Path) -> None:
    judge = {"kind": "llm", "model": "m", "max_cost": 1.0, "price_per_million_tokens": [1.0, 1.0]}
    study = small_study(tmp_path, objective={"judge": judge})
    materials = Materials(study, Store(tmp_path / "artifacts"), print)
    spending = [make_judge(materials, "cpu", tmp_path / name).comparer.server.spending for name in ("a", "b")]  # type: ignore[attr-defined]
    assert [found.folder for found in spending] == [tmp_path / "a" / "spending", tmp_path / "b" / "spending"]
