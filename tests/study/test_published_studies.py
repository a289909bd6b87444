"""The studies after papers load, hold the cells that the papers ran, and pass every check in miniature."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raypo.artifacts import Store
from raypo.data.records import as_messages
from raypo.search.drawing import rules_of
from raypo.search.fitting import first_prompts, first_records, framed_apart
from raypo.search.grid import grid_cells
from raypo.search.materials import Materials
from raypo.search.preflight import check
from raypo.search.targets import targets
from raypo.study import Study, load

FOLDER = Path(__file__).parents[2] / "search_spaces" / "studies"
MINIATURE = FOLDER / "miniature.yaml"
BESIDE = {"miniature", "published"}
STUDIES = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in BESIDE)
SETTINGS = {
    "insights_without_sft": "insights_into_alignment",
    "insights_instruct": "insights_into_alignment",
    "preference_informed_tldr": "preference_informed_mistral",
    "paradox_gpt4_turbo": "paradox_of_preference",
    "epsilon_dpo_mistral": "epsilon_dpo",
    "simpo_mistral_instruct": "simpo_baselines",
    "simpo_llama3_base": "simpo_baselines",
    "simpo_mistral_base": "simpo_baselines",
}
FRAMED = [
    *((name, None) for name in ("simpo_baselines", "epsilon_dpo", "paradox_of_preference", "insights_into_alignment")),
    *((name, overlay) for overlay, name in SETTINGS.items() if not overlay.startswith("preference_informed")),
]
SIDES = ("chosen", "rejected")
SWEEP = [1e-3, 2.5e-3, 5e-3, 6.25e-3, 1e-2, 5e-2, 1e-1, 1.5e-1, 2e-1, 5e-1, 9e-1]


def study(name: str, *files: Path, sets: tuple[str, ...] = ()) -> Study:
    return load(FOLDER / f"{name}.yaml", sets, files=files)


def cells(found: Study, label: str) -> list[dict[str, object]]:
    space = {name: axis.distribution() for name, axis in found.space(label).items()}
    return [dict(cell) for cell in grid_cells(space, rules_of(found, label), 0)]


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_named_as_its_file_and_searches_a_finite_grid(name: str) -> None:
    found = study(name)
    assert found.name == name
    assert found.search.sampler == "grid"
    assert all(1 <= int(count or 0) <= 100 for count in targets(found).values())


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_passes_every_check_in_miniature(name: str) -> None:
    sets = ("data.transforms=[]",) if name == "epsilon_dpo_hh" else ()
    check(study(name, MINIATURE, sets=sets), print)


def test_every_overlay_makes_another_search_of_its_study() -> None:
    assert {path.stem for path in (FOLDER / "settings").glob("*.yaml")} == set(SETTINGS)
    for overlay, name in SETTINGS.items():
        found = study(name, FOLDER / "settings" / f"{overlay}.yaml")
        assert found.name == overlay
        assert list(found.methods) == list(study(name).methods)


@pytest.mark.parametrize(("name", "overlay"), FRAMED)
def test_questions_reach_a_chat_model_in_the_frame_of_its_training_rows(
    name: str, overlay: str | None, tmp_path: Path
) -> None:
    """The benchmark's questions are plain text, the preference data conversations; both in their published columns."""
    turns = {side: [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": side}] for side in SIDES}
    row = {
        **turns,
        "all_generated_responses": list(SIDES),
        "all_rm_scores": [0.9, 0.1],
        "query": "Why?",
        **{f"response_{i}": {"content": side} for i, side in enumerate(SIDES, 1)},
        "preference_labels": {"human": "response_1", "gpt-4-turbo": "response_2"},
    }
    files = {"rows": row, "questions": {"instruction": "Why?", "output": "So.", "prompt": ["Why?"], "category": "qa"}}
    for file, content in files.items():
        (tmp_path / f"{file}.jsonl").write_text(json.dumps(content) + "\n")
    sets = (f"data.source={tmp_path}/rows.jsonl", f"objective.prompts.source={tmp_path}/questions.jsonl")
    found = study(name, *([FOLDER / "settings" / f"{overlay}.yaml"] if overlay else []), sets=sets)
    records, prompts = first_records(found)[0], first_prompts(found)
    assert (len(records), prompts) == (1, ["Why?"])
    assert not list(framed_apart(found, records, prompts))


def test_three_starting_points() -> None:
    with_sft = study("insights_into_alignment")
    without = study("insights_into_alignment", FOLDER / "settings" / "insights_without_sft.yaml")
    instruct = study("insights_into_alignment", FOLDER / "settings" / "insights_instruct.yaml")
    assert with_sft.model.sft is not None
    assert (without.model.sft, instruct.model.sft) == (None, None)
    assert with_sft.model.path == without.model.path != instruct.model.path


def test_the_paradox_grid_holds_the_papers_cells_and_no_others() -> None:
    found = study("paradox_of_preference")
    for label, name, flips in (("dpo", "beta", {0, 0.05}), ("ipo", "tau", {0}), ("cdpo", "beta", {0, 0.05})):
        tried = {(c["data.fraction"], c["data.flip_labels"], c[name]) for c in cells(found, label)}
        volumes = {(share, 0, 0.1) for share in (0.25, 0.5, 0.75, 1)}
        noise = {(1, share, 0.1) for share in (0, 0.05, 0.25, 0.5, 0.75) if label != "ipo" or share == 0}
        assert tried == volumes | noise | {(1, share, strength) for share in flips for strength in SWEEP}
    assert found.search.repeats.seeds == 4
    assert found.objective.at == (0.25, 0.5, 0.75, 1.0)


def test_the_epsilon_ablation_varies_one_thing_at_a_time() -> None:
    tried = {(c["beta"], c["epsilon_check"], c["epsilon"]) for c in cells(study("epsilon_dpo_hh"), "epsilon_dpo")}
    front = {(beta, 0.01, 0.01) for beta in (0.01, 0.05, 0.1, 0.5)}
    assert tried == front | {(0.05, 0.01, e) for e in (0.005, 0.02)} | {(0.05, c, 0.01) for c in (0.005, 0.02)}


@pytest.mark.parametrize(
    ("name", "temperature", "tokens"),
    [
        ("simpo_baselines", 0.9, 4096),
        ("simpo_llama3_base", 0.9, 4096),
        ("simpo_mistral_base", 0.7, 2048),
        ("simpo_mistral_instruct", 0.5, 2048),
        ("epsilon_dpo", 0.9, 4096),
        ("epsilon_dpo_mistral", 0.5, 2048),
    ],
)
def test_answers_to_alpaca_eval_are_drawn_as_simpo_drew_them(name: str, temperature: float, tokens: int) -> None:
    overlay = [FOLDER / "settings" / f"{name}.yaml"] if name in SETTINGS else []
    sampling = study(SETTINGS.get(name, name), *overlay).objective.sampling
    assert (sampling.temperature, sampling.max_new_tokens) == (temperature, tokens)


@pytest.mark.parametrize("name", ["epsilon_dpo_hh", "preference_informed_mistral"])
def test_dialogue_is_judged_on_single_turns(name: str, shared_data: Path, tmp_path: Path) -> None:
    test_file = shared_data / "hh_rlhf" / "helpful-base_test.jsonl.gz"
    found = study(name, sets=(f"objective.prompts.source={test_file}",))
    asked = Materials(found, Store(tmp_path), lambda _: None).prompts()
    assert len(asked) == found.objective.prompts.count
    assert all(len(as_messages(prompt.text)) == 1 for prompt in asked)


def test_koh_trains_under_table_1() -> None:
    found = study("preference_informed_mistral")
    fixed = found.fixed("dpo")
    assert (fixed["optimizer"], fixed["batch_size"], fixed["lr"], fixed["beta"]) == ("rmsprop", 64, 5e-7, 0.1)
    sft = found.model.sft
    assert sft is not None
    assert (sft.optimizer, sft.batch_size, sft.lr, sft.epochs) == ("rmsprop", 64, 5e-7, 1)
    assert {name: fixed[name] for name in ("schedule", "warmup", "gradient_clipping")} == {
        "schedule": sft.schedule,
        "warmup": sft.warmup,
        "gradient_clipping": sft.gradient_clipping,
    }
    assert (found.data.max_length, found.data.max_prompt_length) == (512, 256)
    assert (found.objective.prompts.count, found.objective.opponent) == (128, "chosen")
