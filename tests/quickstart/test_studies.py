"""The two studies of the newcomer: they load, and their parts of the data keep apart."""

from pathlib import Path

import pytest

from raypo.artifacts import Store
from raypo.data.specs import apply_transforms, parse_transforms
from raypo.search.materials import Materials
from raypo.search.prompts import read_prompts
from raypo.search.sources import read_records
from raypo.study.loading import load

STUDIES = Path(__file__).parents[2] / "search_spaces"
METHODS = ["dpo", "ipo", "simpo", "epsilon_dpo"]


@pytest.mark.parametrize("name", ["quickstart", "hh_short"])
def test_the_study_loads_with_four_methods_each_searched_with_its_learning_rate(name: str) -> None:
    study = load(STUDIES / f"{name}.yaml")
    assert list(study.methods) == METHODS
    own = {"dpo": "beta", "ipo": "tau", "simpo": "beta", "epsilon_dpo": "epsilon"}
    assert all({own[label], "lr"} <= set(study.space(label)) for label in METHODS)


def test_the_quickstart_is_judged_on_prompts_it_does_not_train_on() -> None:
    study = load(STUDIES / "quickstart.yaml")
    wanted = study.objective.prompts
    trained = {record.prompt for record in read_records("quickstart", split=study.data.split, count=study.data.count)}
    judged = {prompt for prompt, _ in read_prompts("quickstart", split=wanted.split, count=wanted.count)}
    assert len(judged) == wanted.count
    assert not trained & judged


@pytest.mark.parametrize(("asked", "made"), [({}, 2000), ({"count": 2800}, 2800), ({"count": 2800, "rows": 256}, 256)])
def test_the_quickstart_makes_as_many_rows_as_are_asked_for(asked: dict[str, int], made: int) -> None:
    assert len(read_records("quickstart", **asked)) == made


def test_start_training_judge_and_evaluation_of_the_hh_study_share_no_prompt(shared_data: Path, tmp_path: Path) -> None:
    pairs = shared_data / "hh_rlhf"
    places = [f"{part}.source={pairs / 'hh_short_train.jsonl.gz'}" for part in ("data", "objective.judge")]
    places.append(f"objective.prompts.source={pairs / 'hh_short_test.jsonl.gz'}")
    study = load(STUDIES / "hh_short.yaml", places)
    shared, judge = Materials(study, Store(tmp_path), lambda _: None), study.objective.judge
    read = apply_transforms(read_records(str(judge.source)), parse_transforms(judge.transforms))

    imitated = {record.prompt for record in shared.sft_records()}
    trained = {record.prompt for record in shared.training_records("pairs", {})}
    judging = {record.prompt for record in read}
    evaluated = {prompt.text for prompt in shared.prompts()}
    assert imitated == trained
    assert len(trained) > 900 < len(judging)
    assert not trained & judging
    assert not evaluated & (trained | judging)
