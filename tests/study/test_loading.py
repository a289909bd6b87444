"""A study file is read as written, and everything wrong with it is said at once."""

import sys
from pathlib import Path
from typing import Any

import pytest

from raypo import yaml
from raypo.errors import StudyError
from raypo.spaces import Space
from raypo.study import Study, build, load

GOOD = """
name: small
model: {path: quickstart}
data: {source: quickstart}
training: {lr: {log_uniform: [1e-7, 1e-3]}, steps: 60, batch_size: 32}
methods:
  dpo: {beta: {log_uniform: [0.01, 1]}}
  ipo: {tau: {uniform: [0.1, 1]}, aggregate: sum, lr: 5e-6}
  ipo_mean: {method: ipo, tau: {choice: [0.1, 1]}, aggregate: mean}
objective: {judge: {kind: rule, function: quickstart}, at: [1/3, 2/3, 1]}
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(GOOD)
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(StudyError) as caught:
        load(path, overrides)
    return str(caught.value).splitlines()


def test_numbers_without_a_dot_are_numbers(study_file: Path) -> None:
    assert load(study_file).training.lr == Space("log_uniform", (1e-7, 1e-3))


def test_fractions_are_read(study_file: Path) -> None:
    assert load(study_file).objective.at == pytest.approx((1 / 3, 2 / 3, 1.0))


def test_a_method_overrides_the_common_training(study_file: Path) -> None:
    study = load(study_file)
    assert set(study.space("dpo")) == {"beta", "lr"}
    assert set(study.space("ipo")) == {"tau"}
    assert study.fixed("ipo")["lr"] == 5e-6


def lengths(study: Study, label: str) -> dict[str, Any]:
    """What says how long a method trains."""
    return {name: value for name, value in study.axes(label).items() if name in ("epochs", "steps")}


def test_a_methods_own_length_replaces_the_studys_in_either_unit(study_file: Path) -> None:
    searched = Space("choice", (1, 2, 4))
    study = load(study_file, ["methods.dpo.epochs={choice: [1, 2, 4]}", "methods.ipo.steps=5"])
    assert lengths(study, "dpo") == {"epochs": searched}
    assert study.space("dpo")["epochs"] == searched
    assert (lengths(study, "ipo"), lengths(study, "ipo_mean")) == ({"steps": 5}, {"steps": 60})
    study = load(study_file, ["training={epochs: 2}", "methods.dpo.steps=5", "methods.ipo.epochs=3"])
    assert [lengths(study, label) for label in study.methods] == [{"steps": 5}, {"epochs": 3}, {"epochs": 2}]
    assert lengths(load(study_file, ["training={}"]), "dpo") == {"epochs": 1.0}
    assert lengths(load(study_file, ["training.steps=null", "methods.ipo.steps=null"]), "ipo") == {"epochs": 1.0}
    again = build(yaml.load(yaml.dump(study.written()), "again"), "again")
    assert [lengths(again, label) for label in again.methods] == [{"steps": 5}, {"epochs": 3}, {"epochs": 2}]


@pytest.mark.parametrize("where", ["training", "methods.dpo"])
def test_both_lengths_at_one_level_are_refused(study_file: Path, where: str) -> None:
    (line,) = problems(study_file, f"{where}={{steps: 5, epochs: {{choice: [1, 2]}}}}")
    assert f"{where}: epochs and steps both say how long to train, got {{'choice': [1, 2]}} and 5; keep one" in line


@pytest.mark.parametrize("where", ["training", "methods.dpo"])
def test_an_override_of_the_length_replaces_it_in_either_unit(study_file: Path, where: str) -> None:
    assert lengths(load(study_file, [f"{where}.epochs=2"]), "dpo") == {"epochs": 2}
    assert lengths(load(study_file, [f"{where}.epochs=2", f"{where}.steps=7"]), "dpo") == {"steps": 7}


def test_a_label_may_name_another_method(study_file: Path) -> None:
    study = load(study_file)
    assert study.methods["ipo_mean"].method.name == "ipo"
    assert study.fixed("ipo_mean")["aggregate"] == "mean"


def test_what_is_written_reads_back_the_same(study_file: Path) -> None:
    study = load(study_file)
    again = build(yaml.load(yaml.dump(study.written()), "again"), "again")
    assert isinstance(again, Study)
    assert again.written() == study.written()


def test_overrides(study_file: Path) -> None:
    study = load(study_file, ["search.trials=4", "methods.dpo.beta=0.2", "methods.ipo=null", "training.lr=1e-6"])
    assert study.search.trials == 4
    assert list(study.methods) == ["dpo", "ipo_mean"]
    assert study.fixed("dpo")["beta"] == 0.2
    assert study.fixed("dpo")["lr"] == 1e-6


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.trails=4", "search.trails: no such key"),
        ("search.trails=4", "did you mean 'trials'"),
        ("methods.dpo.betta=0.1", "methods.dpo.betta: dpo has no such hyperparameter"),
        ("methods.dpo.betta=0.1", "did you mean 'beta'"),
        ("methods.dpo.beta=-1", "methods.dpo.beta: not allowed, got -1"),
        ("methods.dpoo={}", "unknown method 'dpoo'"),
        ("methods.dpo.lr={log_uniform: [1e-3, 1e-5]}", "the range is empty"),
        ("methods.dpo.lr={log_unform: [1e-5, 1e-3]}", "unknown form 'log_unform'"),
        ("methods.ipo.aggregate=summ", "methods.ipo.aggregate: not allowed, got 'summ'; needs 'sum' or 'mean'"),
        ("data.max_length=ten", "data.max_length"),
        ("model.dtype=fp23", "model.dtype: got 'fp23'"),
        ("objective.at=[0.5, 0.2]", "objective.at: needs increasing fractions that end with 1"),
        ("search.trials=0", "search.trials: should be greater than 0, got 0"),
        ("name=../escape", "name: got '../escape'"),
        ("objective.judge={kind: llm}", "a judge of kind 'llm' needs model"),
        ("data.source=os:system", "data.source: 'os:system' names Python code; give --allow-code"),
        ("objective.judge.source=os:system", "objective.judge.source: 'os:system' names Python code"),
        ("confirm.prompts.source=os:system", "confirm.prompts.source: 'os:system' names Python code"),
        ("search.sampler=grid", "methods.dpo.beta: sampler grid needs choice or int, got log_uniform"),
        ("resources.workers=64", "fewer than the 64 workers"),
        ("training.warmup=1", "training.warmup: needs 0 <= value < 1, got 1"),
        ("model.sft={on: rejected}", "model.sft.on: got 'rejected'; allowed: 'chosen' or 'both'"),
        ("allow_code=true", "allow_code: no file may allow itself to run code; give --allow-code"),
        ("use=methods/dpo", "use: no such key"),
        ("search.trials=true", "search.trials: should be a valid integer, got True"),
        ("search.trials=010", "search.trials: should be a valid integer, got '010'"),
        ("training.micro_batch_size=true", "training.micro_batch_size: should be a valid integer, got True"),
        ("confirm.top=true", "confirm.top: should be a valid integer, got True"),
        ("search.seed=-1", "search.seed: should be greater than or equal to 0, got -1"),
        (
            "objective.sampling.seed=18446744073709551616",
            "objective.sampling.seed: should be less than 9223372036854775",
        ),
        ("data.seed=true", "data.seed: should be a valid integer, got True"),
        ("objective.sampling.temperature=true", "objective.sampling.temperature: should be a valid number, got True"),
        ("objective.sampling.temperature=.inf", "objective.sampling.temperature: should be a finite number, got inf"),
        ("model.sft={epochs: .inf}", "model.sft.epochs: should be a finite number, got inf"),
        ("search.budget={gpu_hours: .inf}", "search.budget.gpu_hours: should be a finite number, got inf"),
        ("resources.gpus_per_worker=.inf", "resources.gpus_per_worker: should be a finite number, got inf"),
        ("data.heldout=true", "data.heldout: should be a valid number, got True"),
        ("resources.zero_stage=true", "resources.zero_stage: should be a valid integer, got True"),
        ("methods.dpo.priors=5", "methods.dpo.priors: needs a list of points, got 5; such as [{beta: 0.1, lr: 5e-7}]"),
        ("methods.dpo.priors={beta: 0.1}", "methods.dpo.priors: needs a list of points, got {'beta': 0.1}"),
        ("methods.dpo.priors=[5]", "methods.dpo.priors: needs a list of points, got [5]"),
        (
            "methods.dpo.priors=[{beta: 0.1}, {betta: 0.1}]",
            "methods.dpo.priors.1.betta: no such setting; there are beta, lr",
        ),
        (
            "data.transforms=[{fraction: {choice: [0.5, 1]}}, {fraction: {choice: [0.2, 1]}}]",
            "data.transforms: 2 axes of fraction would all be searched as data.fraction; keep one",
        ),
        ("methods.dpo.beta={1: 2, a: 3}", "methods.dpo.beta: an axis has one form, got [1, 'a']"),
        ("methods.dpo.beta={choice: [0.1, '0.1']}", "methods.dpo.beta: choice names a value twice, got [0.1, 0.1]"),
        ("training.lr={choice: [1, 1.0]}", "training.lr: choice names a value twice, got [1.0, 1.0]"),
        (
            "data.chat_template=trancript",
            "data.chat_template: got 'trancript'; allowed: default, transcript, or a Jinja template, with {{ or {%; "
            "did you mean 'transcript'?",
        ),
        ("data.chat_template='{% if %}'", "data.chat_template: not a Jinja template: Expected an expression"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(study_file: Path, override: str, said: str) -> None:
    lines = problems(study_file, override)
    assert any(said in line for line in lines), lines


@pytest.mark.parametrize(
    "template",
    [
        "transcript",
        "default",
        "{{ messages[0].content }}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}",
    ],
)
def test_a_chat_template_is_a_name_or_whatever_a_tokenizer_compiles(study_file: Path, template: str) -> None:
    assert load(study_file, [f'data.chat_template="{template}"']).data.chat_template == template


def test_all_problems_come_at_once_one_line_each(study_file: Path) -> None:
    lines = problems(study_file, "search.trials=0", "methods.dpo.betta=1", "data.max_length=ten", "modle=1")
    assert len(lines) == 4
    assert all(line.startswith(f"{study_file}: ") for line in lines)


def test_a_required_hyperparameter_has_no_silent_default(study_file: Path) -> None:
    assert "methods.ipo_x.aggregate: missing" in problems(study_file, "methods.ipo_x={method: ipo, tau: 0.1}")[0]


def test_bf16_without_zero_is_refused(study_file: Path) -> None:
    assert "bf16 needs stage 1" in problems(study_file, "model.dtype=bf16", "resources.zero_stage=0")[0]


def test_a_missing_file_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such file; give the path of a study file"):
        load(tmp_path / "none.yaml")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\nname: b\n")
    with pytest.raises(StudyError, match="line 2, column 1: not valid YAML: the key 'name' stands twice"):
        load(path)


def test_published_spaces_can_be_used_and_overridden(study_file: Path) -> None:
    methods = study_file.parent / "methods"
    methods.mkdir()
    (methods / "dpo.yaml").write_text(
        "method: dpo\nspace: {beta: {choice: [0.01, 0.1]}, lr: 5e-7}\npriors: [{beta: 0.1}]\n"
    )
    study = load(study_file, ["methods.dpo={use: methods/dpo, lr: 1e-6}"])
    assert study.space("dpo")["beta"] == Space("choice", (0.01, 0.1))
    assert study.fixed("dpo")["lr"] == 1e-6
    assert study.methods["dpo"].priors == ({"beta": 0.1},)


@pytest.mark.parametrize("content", ["name: other\n", "[dpo]", "{method: dpo, space: 5}", "{method: dpo, prior: []}"])
def test_what_is_no_published_space_is_refused_with_its_keys(study_file: Path, content: str) -> None:
    (study_file.parent / "other.yaml").write_text(content)
    (line,) = problems(study_file, "methods.dpo={use: other}")
    assert "methods.dpo.use: " in line
    assert "other.yaml is no published space, got " in line
    assert line.endswith("; it has method, space and priors")


def test_priors_may_name_every_axis_of_a_trial(study_file: Path) -> None:
    priors = "methods.dpo.priors=[{beta: 0.1, epochs: 2, data.fraction: 0.5}]"
    study = load(study_file, [priors, "data.transforms=[{fraction: {choice: [0.5, 1]}}]"])
    assert build(study.written(), "again").methods["dpo"].priors == study.methods["dpo"].priors
    assert load(study_file, ["methods.dpo.priors=null"]).methods["dpo"].priors == ()


@pytest.mark.parametrize("name", ["lr", "priors"])
def test_a_hyperparameter_named_as_a_key_of_every_method_is_refused(
    study_file: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study_file.parent / "taken.py").write_text(
        "from raypo.methods import Loss, Pairs\n"
        f"def mine(policy: Pairs, *, {name}: float = 1.0) -> Loss:\n    return Loss.of({name} * policy.margin())\n"
    )
    monkeypatch.syspath_prepend(study_file.parent)
    monkeypatch.delitem(sys.modules, "taken", raising=False)
    with pytest.raises(StudyError, match=f"taken:mine calls a hyperparameter '{name}', which is a key of every method"):
        load(study_file, ["methods.mine={method: 'taken:mine'}"], allow_code=True)


@pytest.mark.parametrize("key", ["objective.at.0.x", "objective.at.0.x.y"])
def test_an_override_of_what_has_no_keys_says_so(study_file: Path, key: str) -> None:
    with pytest.raises(StudyError, match=f"--set {key}=1: 0 holds '1/3', which has no keys of its own"):
        load(study_file, [f"{key}=1"])


def test_a_transform_can_be_searched_over(study_file: Path) -> None:
    study = load(study_file, ["data.transforms=[{fraction: {choice: [0.25, 1.0]}}, {flip_labels: 0.1}]"])
    assert study.space("dpo")["data.fraction"] == Space("choice", (0.25, 1.0))
    assert study.data_transforms({"data.fraction": 0.25}) == [{"fraction": 0.25}, {"flip_labels": 0.1}]


def test_a_file_of_overrides_comes_before_the_command_line(study_file: Path) -> None:
    overrides = study_file.parent / "smaller.yaml"
    overrides.write_text(
        "search.trials: 2\nmodel: {path: tiny, sft: {epochs: 2}}\nmethods.ipo: null\nmethods.dpo.beta: 0.5\n"
    )
    study = load(study_file, ["methods.dpo.beta=0.2"], files=[overrides])
    assert study.search.trials == 2
    assert (study.model.path, study.model.sft and study.model.sft.epochs) == ("tiny", 2)
    assert list(study.methods) == ["dpo", "ipo_mean"]
    assert study.fixed("dpo")["beta"] == 0.2


def test_what_is_wrong_in_a_file_of_overrides_names_the_file(study_file: Path) -> None:
    overrides = study_file.parent / "smaller.yaml"
    overrides.write_text("training.lr.low: 1e-6\nname.first: x\n")
    with pytest.raises(StudyError, match=r"smaller\.yaml: name\.first: name holds 'small'"):
        load(study_file, files=[overrides])
    overrides.write_text("- search.trials: 2\n")
    with pytest.raises(StudyError, match=r"smaller\.yaml: overrides are keys with values, got list"):
        load(study_file, files=[overrides])


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host/db",
        "postgresql://me@host/db?password=hunter2",
        "mysql://host/db?charset=utf8&passwd=hunter2",
        "postgresql+psycopg://me@host/db?sslmode=require&ssl%70assword=hunter2",
    ],
)
def test_a_password_in_a_databases_url_is_refused_and_not_repeated(study_file: Path, url: str) -> None:
    (said,) = problems(study_file, f"ledger={url}")
    assert said.startswith(f"{study_file}: ledger: has a password in it")
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "url", ["http://me:hunter2@host/v1", "http://hunter2@host/v1", "http://host/v1?api_key=hunter2"]
)
def test_a_key_in_a_judges_address_is_refused_and_not_repeated(study_file: Path, url: str) -> None:
    (said,) = problems(study_file, f"objective.judge={{kind: llm, model: m, base_url: '{url}'}}")
    assert said.startswith(f"{study_file}: objective.judge.base_url: has a key or password in it")
    assert "hunter2" not in said


def test_what_else_a_databases_url_asks_for_is_kept(study_file: Path) -> None:
    url = "postgresql://me@host/db?sslmode=require&passfile=/etc/pgpass"
    assert load(study_file, [f"ledger={url}"]).ledger == url


@pytest.mark.parametrize(
    ("key", "axis", "instead"),
    [
        ("training.batch_size", "{log_uniform: [16, 128]}", "{log_int: [16, 128]}"),
        ("training.steps", "{uniform: [10, 60]}", "{int: [10, 60]}"),
        ("methods.dpo.batch_size", "{uniform: [8, 16]}", "{int: [8, 16]}"),
        ("methods.tr_dpo.tau", "{uniform: [2, 8]}", "{int: [2, 8]}"),
    ],
)
def test_what_is_whole_is_drawn_from_whole_numbers(study_file: Path, key: str, axis: str, instead: str) -> None:
    """Ends that are whole do not help a trial that draws 37.9."""
    (problem,) = problems(study_file, f"{key}={axis}")
    form, _, ends = axis.strip("{}").partition(": ")
    assert problem.endswith(
        f"{key}: needs whole numbers, got {form}: {ends}, which draws broken ones too; write {instead} or a choice"
    )


def test_whole_numbers_are_integers_however_they_are_written(study_file: Path) -> None:
    for written, read in [("64.0", 64), ("{choice: [32, 64.0]}", Space("choice", (32, 64)))]:
        found = load(study_file, [f"training.batch_size={written}"]).training.batch_size
        assert found == read
        assert {type(value) for value in getattr(found, "values", (found,))} == {int}
