"""Constraints and conditions of a search space."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from raypo.errors import StudyError
from raypo.search.constraints import Expression, parse_rules

SPACE = {
    "beta": FloatDistribution(0.01, 1, log=True),
    "lr": FloatDistribution(1e-7, 1e-3, log=True),
    "aggregate": CategoricalDistribution(["sum", "mean"]),
    "margin": FloatDistribution(0, 2),
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("beta * lr <= 1e-3", True),
        ("beta * lr < 2e-4", False),
        ("0 < beta < 0.5", True),
        ("0 < beta < 0.2 < lr", False),
        ("-log10(lr) == 3 and not beta >= 1", True),
        ("aggregate == mean", True),
        ("aggregate == 'sum' or lr > 1", False),
        ("aggregate in [sum, mean]", True),
        ("aggregate != mean", False),
        ("max(beta, lr) ** 2 - 0.25 <= 0", True),
        ("beta / lr >= 1000 - 750", True),
    ],
)
def test_an_expression_says_what_its_arithmetic_says(text: str, holds: bool) -> None:
    rule = Expression.parse(text, SPACE, words=("sum", "mean"))
    assert rule.holds({"beta": 0.25, "lr": 1e-3, "aggregate": "mean", "margin": 1.0}) is holds


def test_dotted_names_are_hyperparameters_too() -> None:
    assert Expression.parse("training.lr < 1", names=("training.lr",)).holds({"training.lr": 0.5})


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true') == 0",
        "beta.__class__ == 1",
        "(lambda: 1)() < beta",
        "[b for b in (1, 2)] == beta",
        "open('study.yaml') == beta",
        "beta[0] < 1",
        "beta if lr else lr",
        "beta @ lr < 1",
        "f'{beta}' == 1",
        "(beta := 3) < 4",
    ],
)
def test_nothing_but_arithmetic_is_understood(text: str) -> None:
    with pytest.raises(StudyError, match="rule"):
        Expression.parse(text, SPACE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("betta * lr < 1", "no hyperparameter 'betta'; known: .*; did you mean 'beta'"),
        ("beta * lr", "compares nothing"),
        ("beta <", "not an expression"),
        ("1 < 2", "names no hyperparameter"),
        ("beta < 1 " * 100, "at most 500"),
    ],
)
def test_a_rule_nobody_could_mean_is_refused(text: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        Expression.parse(text, SPACE)


@pytest.mark.parametrize("text", ["beta / (lr - lr) < 1", "9 ** 9 ** 9 < beta", "log(0 - beta) < 1", "aggregate < 1"])
def test_what_cannot_be_computed_says_where(text: str) -> None:
    rule = Expression.parse(text, SPACE)
    with pytest.raises(StudyError, match="cannot be computed at"):
        rule.holds({"beta": 0.1, "lr": 1e-4, "aggregate": "sum"})


def test_a_condition_leaves_its_hyperparameter_out_and_all_that_hangs_on_it() -> None:
    rules = parse_rules((), SPACE, conditions={"margin": "aggregate == mean", "lr": "margin > 0"})
    point = {"beta": 0.1, "lr": 1e-4, "margin": 1.0}
    assert rules.active({**point, "aggregate": "mean"}) == {**point, "aggregate": "mean"}
    assert rules.active({**point, "aggregate": "sum"}) == {"beta": 0.1, "aggregate": "sum"}


def test_constraints_over_absent_hyperparameters_say_nothing() -> None:
    rules = parse_rules(
        ["margin < 0.5", "tau < 1"], SPACE, conditions={"margin": "aggregate == mean"}, elsewhere=["tau"]
    )
    assert rules.allows({"margin": 1.0, "aggregate": "sum"})
    assert not rules.allows({"margin": 1.0, "aggregate": "mean"})


def test_fixed_hyperparameters_count_in_rules() -> None:
    rules = parse_rules(["beta * lr <= 1e-4"], {"beta": SPACE["beta"]}, fixed={"lr": 1e-3})
    assert rules.allows({"beta": 0.1})
    assert not rules.allows({"beta": 0.2})
    assert rules.active({"beta": 0.2}) == {"beta": 0.2}


def test_conditions_in_a_circle_are_refused() -> None:
    with pytest.raises(StudyError, match=r"lr -> margin -> lr|margin -> lr -> margin"):
        parse_rules((), SPACE, conditions={"margin": "lr > 0", "lr": "margin > 0"})
