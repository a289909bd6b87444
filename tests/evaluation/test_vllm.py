"""The vLLM code path against a stub engine of the same interface: vLLM itself needs a GPU."""

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from raypo.errors import StudyError
from raypo.evaluation.sampling import Sampling
from raypo.evaluation.vllm import open_engine, sample_with_vllm


@dataclass(frozen=True)
class Params:
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop_token_ids: list[int]


class StubEngine:
    """Repeats the prompt's last token; ends after as many tokens as the prompt has, if the limit allows."""

    def __init__(self, model: str = "", **options: Any) -> None:
        self.model, self.options = model, options
        self.params: list[Params] = []

    def generate(self, prompts: list[dict[str, list[int]]], sampling_params: list[Params], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        self.params = sampling_params
        outputs = []
        for prompt, params in zip(prompts, sampling_params, strict=True):
            ids = prompt["prompt_token_ids"]
            ends = len(ids) < params.max_tokens
            tokens = [ids[-1]] * min(len(ids), params.max_tokens)
            output = SimpleNamespace(token_ids=tokens, finish_reason="stop" if ends else "length", stop_reason=None)
            outputs.append(SimpleNamespace(outputs=[output]))
        return outputs


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = StubEngine, Params  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.mark.usefixtures("vllm")
def test_settings_seeds_and_stops_reach_the_engine_and_answers_come_back_in_order(tiny: Any) -> None:
    engine = open_engine("somewhere", dtype="bfloat16")
    assert (engine.model, engine.options) == ("somewhere", {"dtype": "bfloat16"})
    asked = ["w1 w2", "w3 w4 w5 w6", "w1 w2"]
    found = sample_with_vllm(engine, tiny.tokenizer, asked, Sampling(0.7, 0.9, 4, seed=3), frozenset({0}))
    assert [c.text for c in found] == ["w2 w2", "w6 w6 w6 w6", "w2 w2"]
    assert [c.truncated for c in found] == [False, True, False]
    assert [c.tokens[-1] == 0 for c in found] == [True, False, True]
    assert [c.index for c in found] == [0, 1, 2]
    assert len({p.seed for p in engine.params}) == 3
    assert engine.params[0].stop_token_ids == [0]
    seeds = [p.seed for p in engine.params]
    sample_with_vllm(engine, tiny.tokenizer, asked[::-1], Sampling(0.7, 0.9, 4, seed=3), frozenset({0}))
    assert [p.seed for p in engine.params] == [seeds[0], seeds[1], seeds[2]]


def test_without_vllm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(StudyError, match=r"raypo\[vllm\]"):
        open_engine("somewhere")
