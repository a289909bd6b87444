"""What a method says about itself, what it refuses, and that it stands alone."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from table import labelled, pairs

from raypo.errors import MethodError
from raypo.methods import METHODS, REQUIRED, Bounds, Loss, Method, Pairs, load_method

OUTSIDE = '''
from raypo.methods import Loss, Pairs

def hinge(policy: Pairs, reference: Pairs, *, margin: float = 1.0) -> Loss:
    """A hinge."""
    return Loss.of((margin - policy.margin() + reference.margin()).clamp(min=0))
'''


def test_the_signature_is_the_description() -> None:
    simpo = METHODS["simpo"]
    assert (simpo.name, simpo.data, simpo.needs) == ("simpo", "pairs", ())
    beta = simpo.hyperparameters["beta"]
    assert (beta.type, beta.low, beta.high, beta.low_open, beta.default, beta.unit) == (
        float, 0, float("inf"), True, 2.0, "1/nat",
    )  # fmt: skip
    ipo = METHODS["ipo"].hyperparameters["aggregate"]
    assert (ipo.type, ipo.choices, ipo.default) == (str, ("sum", "mean"), REQUIRED)
    assert METHODS["tr_dpo"].hyperparameters["tau"].type is int
    assert METHODS["offline_ppo"].hyperparameters["whiten"].type is bool
    assert METHODS["epsilon_dpo"].hyperparameters["epsilon_check"].optional


def test_data_and_needs_of_every_kind() -> None:
    assert {m.data for m in METHODS.values()} == {"pairs", "unpaired", "ranked", "completions"}
    assert METHODS["kto"].needs == ("reference", "mismatched")
    assert METHODS["epsilon_dpo"].needs == ("reference", "log_partition", "state")
    assert METHODS["rpo"].needs == ("reference", "embeddings", "batch")
    assert METHODS["tr_dpo"].needs == ("reference", "moving_reference", "state")
    assert METHODS["odpo"].carries == ("score",)
    assert METHODS["dmpo"].carries == ("unit",)


def test_a_loss_runs_on_plain_tensors_by_position_or_by_name() -> None:
    policy = Pairs.of(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-4.0]]), torch.tensor([[1, 1]]), torch.tensor([[1]]))
    by_position = METHODS["dpo"].loss(policy, policy, beta=0.1)
    by_name = METHODS["dpo"].loss(policy, reference=policy, beta=0.1)
    assert by_position.mean() == by_name.mean() == by_position.per_example.mean()


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("dpo", {"beta": 0}, r"dpo.beta: not allowed, got 0; needs a number in (0, inf)"),
        ("dpo", {"beta": -1.0}, r"dpo.beta: not allowed, got -1.0; needs a number in (0, inf)"),
        ("dpo", {"beta": float("nan")}, r"dpo.beta: not allowed, got nan; needs a number in (0, inf)"),
        ("dpo", {"beta": float("inf")}, r"dpo.beta: not allowed, got inf; needs a number in (0, inf)"),
        ("dpo", {"beta": "much"}, r"dpo.beta: not allowed, got 'much'; needs a number in (0, inf)"),
        ("dpo", {"beta": True}, r"dpo.beta: not allowed, got True; needs a number in (0, inf)"),
        ("dpo", {"betta": 1}, r"dpo.betta: no such hyperparameter; did you mean 'beta'? Allowed: beta"),
        ("ipo", {}, r"ipo.aggregate: must be chosen, has no default; 'sum' or 'mean'"),
        ("ipo", {"aggregate": "median"}, r"ipo.aggregate: not allowed, got 'median'; needs 'sum' or 'mean'"),
        ("tr_dpo", {"tau": 1.5}, r"tr_dpo.tau: not allowed, got 1.5; needs an integer in [1, inf)"),
        ("offline_ppo", {"whiten": 1}, r"offline_ppo.whiten: not allowed, got 1; needs true or false"),
        ("beta_dpo", {"drop": 1}, r"beta_dpo.drop: not allowed, got 1; needs a number in [0, 1)"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_value_and_range(
    method: str, given: dict[str, object], message: str
) -> None:
    with pytest.raises(MethodError) as refused:
        METHODS[method].resolve(given)
    assert str(refused.value) == message


def test_number_text_and_whole_floats_are_taken_as_meant() -> None:
    assert METHODS["dpo"].resolve({"beta": "1e-7"}) == {"beta": 1e-7}
    assert METHODS["tr_dpo"].resolve({"tau": 128.0})["tau"] == 128
    assert METHODS["epsilon_dpo"].resolve({"epsilon_check": None})["epsilon_check"] is None


def test_wrong_data_and_missing_or_surplus_inputs_are_refused() -> None:
    policy = pairs([1.0], [0.0])
    with pytest.raises(MethodError, match=r"dpo.policy: needs Pairs, got Unpaired"):
        METHODS["dpo"].loss(labelled([1.0], [True]), policy)
    with pytest.raises(MethodError, match=r"dpo: needs reference; got 0 unnamed .* missing reference"):
        METHODS["dpo"].loss(policy)
    with pytest.raises(MethodError, match="simpo: needs the policy alone; got 1 unnamed"):
        METHODS["simpo"].loss(policy, policy)


def test_unknown_methods_name_the_nearest() -> None:
    with pytest.raises(MethodError, match=r"method 'epsilon-dpo': no such method; did you mean 'epsilon_dpo'?"):
        load_method("epsilon-dpo")


def test_outside_methods_need_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_losses.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MethodError, match="allow it with --allow-code"):
        load_method("my_losses:hinge")
    hinge = load_method("my_losses:hinge", allow_code=True)
    assert hinge.loss(pairs([1.0], [0.5]), pairs([0.0], [0.0])).mean().item() == 0.5
    with pytest.raises(MethodError, match="cannot be imported"):
        load_method("my_losses:absent", allow_code=True)
    assert load_method("dpo") is METHODS["dpo"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("odd_losses:NUMBER", "is no function, got 5"),
        ("odd_losses:Pairs", "is no function, got <class"),
        ("odd_losses:unresolved", "unresolved: its annotations cannot be read, got NameError: name 'Foo'"),
        ("broken_losses:f", "cannot be imported, got SyntaxError: .*broken_losses.py, line 1"),
        (":f", "cannot be imported, got ValueError: Empty module name; needs package.module:function"),
        (".odd_losses:f", "cannot be imported, got TypeError"),
    ],
)
def test_what_is_no_method_outside_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    (tmp_path / "odd_losses.py").write_text(
        "from raypo.methods import Loss, Pairs\nNUMBER = 5\n"
        "def unresolved(policy: Pairs, *, beta: 'Foo' = 1.0) -> Loss: ...\n"
    )
    (tmp_path / "broken_losses.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MethodError, match=said):
        load_method(name, allow_code=True)


def test_signatures_that_are_no_method_are_refused() -> None:
    def no_policy(reference: Pairs) -> Loss: ...
    def odd_data(policy: int) -> Loss: ...
    def odd_need(policy: Pairs, refrence: Pairs) -> Loss: ...
    def odd_type(policy: Pairs, *, values: list[int]) -> Loss: ...

    for function, message in (
        (no_policy, "first parameter must be `policy`"),
        (odd_data, "unknown data"),
        (odd_need, "odd_need.refrence: no such input; did you mean 'reference'"),
        (odd_type, "cannot be searched"),
    ):
        with pytest.raises(MethodError, match=message):
            Method.of(function)


def test_hyperparameters_of_every_kind_are_read() -> None:
    def odd(
        policy: Pairs,
        *,
        share: Annotated[float | None, Bounds(0, 1)] = None,
        count: Annotated[int, Bounds(1, 9)] = 2,
        flag: bool = False,
        order: Literal[1, 2] = 1,
    ) -> Loss: ...

    method = Method.of(odd)
    assert {n: h.type for n, h in method.hyperparameters.items()} == {
        "share": float,
        "count": int,
        "flag": bool,
        "order": int,
    }
    assert method.hyperparameters["share"].allowed == "a number in [0, 1], or null"
    assert method.resolve({"order": 2, "count": 9, "share": 0.5}) == {
        "share": 0.5,
        "count": 9,
        "flag": False,
        "order": 2,
    }
    with pytest.raises(MethodError, match=r"odd.order: not allowed, got 3; needs 1 or 2"):
        method.resolve({"order": 3})


def test_a_method_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(METHODS["ipo"]))
    assert again == METHODS["ipo"]
    assert again.hyperparameters["aggregate"].default is REQUIRED


def test_methods_import_nothing_heavy() -> None:
    code = (
        "import sys, raypo.methods\n"
        "heavy = {'ray', 'deepspeed', 'transformers', 'optuna', 'wandb', 'datasets', 'pandas'} & set(sys.modules)\n"
        "allowed = ('raypo.methods', 'raypo.errors')\n"
        "own = {m for m in sys.modules if m.startswith('raypo.') and not m.startswith(allowed)}\n"
        "assert not heavy | own, heavy | own"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_example_is_right() -> None:
    import doctest

    import raypo.methods

    assert doctest.testmod(raypo.methods).failed == 0
