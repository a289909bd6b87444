"""Constraints and conditions of a search space: small expressions over hyperparameters.

A constraint says which points of a space may be tried (`beta * lr <= 1e-3`), a condition says when a hyperparameter
means anything (`aggregate == mean`). Both are read with `ast` and walked by hand: numbers, names, quoted or bare
choices, `+ - * / **`, comparisons, `in`, `and`, `or`, `not`, and `abs exp log log10 max min sqrt`. Nothing is ever
passed to `eval`, and no other call, attribute or subscript is understood.
"""

import ast
import itertools
import math
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from optuna.distributions import BaseDistribution, CategoricalDistribution

from raypo.errors import StudyError, nearest
from raypo.search.results import Value

_LONGEST = 500  # characters: deeper nesting than this fits is no rule a person wrote
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "abs": abs,
    "exp": math.exp,
    "log": math.log,
    "log10": math.log10,
    "max": max,
    "min": min,
    "sqrt": math.sqrt,
}
_ARITHMETIC: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,  # floats only: `9**9**9` overflows at once where Python's integers would fill the memory
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_COMPARISONS: dict[type[ast.AST], Callable[..., bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}


@dataclass(frozen=True)
class Expression:
    """One expression that is true or false of a set of hyperparameter values.

    >>> rule = Expression.parse("beta * lr <= 1e-3", names=("beta", "lr"))
    >>> rule.holds({"beta": 0.1, "lr": 1e-3}), rule.holds({"beta": 10.0, "lr": 1e-3})
    (True, False)
    """

    text: str
    names: frozenset[str]
    _tree: ast.expr = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str, names: Collection[str], words: Collection[str] = ()) -> "Expression":
        """Read an expression over hyperparameter `names`; `words` are choices that may stand without quotes."""
        if len(text) > _LONGEST:
            raise StudyError(
                f"rule {text[:40]!r}...: {len(text)} characters; at most {_LONGEST}; split it into several"
            )
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise StudyError(
                f"rule {text!r}: not an expression ({error.msg}); write one like 'beta * lr <= 1e-3'"
            ) from None
        if not isinstance(tree, ast.Compare | ast.BoolOp) and not _negation(tree):
            raise StudyError(f"rule {text!r}: compares nothing; write one like 'beta * lr <= 1e-3'")
        used = frozenset(_names_of(tree, text, frozenset(names), frozenset(words)))
        if not used:
            raise StudyError(f"rule {text!r}: names no hyperparameter; known are {', '.join(sorted(names))}")
        return cls(text=text, names=used, _tree=tree)

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether the expression is true of `values`, which must have every name it uses."""
        try:
            return bool(_value(self._tree, values))
        except (ArithmeticError, ValueError, TypeError) as error:
            at = ", ".join(f"{name}={values.get(name)!r}" for name in sorted(self.names))
            raise StudyError(f"rule {self.text!r}: cannot be computed at {at} ({error}); rewrite it") from None


@dataclass(frozen=True)
class Rules:
    """What a space forbids (`constraints`), and which of its hyperparameters apply only sometimes (`conditions`).

    `fixed` holds hyperparameters that are not searched, for the rules that name them.
    """

    constraints: tuple[Expression, ...] = ()
    conditions: Mapping[str, Expression] = field(default_factory=dict)
    fixed: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            TopologicalSorter({name: rule.names for name, rule in self.conditions.items()}).prepare()
        except CycleError as error:
            circle = " -> ".join(error.args[1])
            raise StudyError(f"conditions: each waits for the other, got {circle}; remove one of them") from None

    def active(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """`values` without the hyperparameters whose condition is false, or hangs on one that is itself left out."""
        kept = dict(values)
        while idle := [name for name in kept if name in self.conditions and not self._applies(name, kept)]:
            kept = {name: value for name, value in kept.items() if name not in idle}
        return kept

    def idle(self, values: Mapping[str, Value]) -> list[str]:
        """Those of some `values` whose condition the others make false, whatever the rest of the point is."""
        gone: list[str] = []
        while found := [name for name in values if name not in gone and self._is_idle(name, values, gone)]:
            gone += found
        return gone

    def _is_idle(self, name: str, values: Mapping[str, Value], gone: Collection[str]) -> bool:
        known, rule = {**self.fixed, **values}, self.conditions.get(name)
        if rule is None:
            return False
        return not rule.names.isdisjoint(gone) or (rule.names <= known.keys() and not rule.holds(known))

    def allows(self, values: Mapping[str, Value]) -> bool:
        """Whether every constraint holds; one over a hyperparameter that this point does not have says nothing."""
        known = {**self.fixed, **self.active(values)}
        return all(rule.holds(known) for rule in self.constraints if rule.names <= known.keys())

    def _applies(self, name: str, kept: Mapping[str, Value]) -> bool:
        known = {**self.fixed, **kept}
        return self.conditions[name].names <= known.keys() and self.conditions[name].holds(known)


def parse_rules(
    constraints: Collection[str],
    space: Mapping[str, BaseDistribution],
    *,
    conditions: Mapping[str, str] | None = None,
    fixed: Mapping[str, Value] | None = None,
    elsewhere: Collection[str] = (),
) -> Rules:
    """The rules of one method's space; a constraint over a name that only other methods have (`elsewhere`) is idle.

    Raises:
        StudyError: a rule is no expression, names nothing known, or conditions go in a circle.
    """
    fixed = fixed or {}
    own = space.keys() | fixed.keys()
    choices = [axis.choices for axis in space.values() if isinstance(axis, CategoricalDistribution)]
    words = {word for word in (*itertools.chain(*choices), *fixed.values()) if isinstance(word, str)}
    return Rules(
        constraints=tuple(Expression.parse(text, own | set(elsewhere), words) for text in constraints),
        conditions={name: Expression.parse(text, own, words) for name, text in (conditions or {}).items()},
        fixed=fixed,
    )


def _negation(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _dotted(node: ast.expr) -> str | None:
    """`lr` or `training.lr` as text, None where the node is neither."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (start := _dotted(node.value)):
        return f"{start}.{node.attr}"
    return None


def _names_of(node: ast.AST, text: str, names: frozenset[str], words: frozenset[str]) -> set[str]:
    """Check every part of the tree and collect the hyperparameters it reads."""
    if isinstance(node, ast.expr) and (name := _dotted(node)):
        if name in names:
            return {name}
        if name in words:
            return set()
        known = ", ".join(sorted(names))
        raise StudyError(f"rule {text!r}: no hyperparameter {name!r}; known: {known}{nearest(name, names | words)}")
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return set()
    return set().union(*(_names_of(part, text, names, words) for part in _parts(node, text)))


def _parts(node: ast.AST, text: str) -> list[ast.expr]:
    """The operands of a node this language knows; anything else is refused."""
    match node:
        case ast.BoolOp(values=values):
            return values
        case ast.UnaryOp(op=op, operand=operand) if isinstance(op, ast.Not) or type(op) in _ARITHMETIC:
            return [operand]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return [left, right]
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISONS for op in ops):
            return [left, *others]
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return items
        case ast.Call(func=ast.Name(id=called), args=arguments, keywords=[]) if called in _FUNCTIONS and arguments:
            return arguments
    raise StudyError(
        f"rule {text!r}: {ast.unparse(node)!r} is not understood; allowed are numbers, hyperparameters, choices, "
        f"+ - * / **, comparisons, in, and, or, not, {', '.join(_FUNCTIONS)}"
    )


def _value(node: ast.expr, values: Mapping[str, Value]) -> Value | list[Value]:
    """The value of a checked node; a bare word that is no hyperparameter stands for itself."""
    if name := _dotted(node):
        return values.get(name, name)
    match node:
        case ast.Constant(value=bool() | str() as constant):
            return constant
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.BoolOp(op=op, values=parts):
            truths = (bool(_value(part, values)) for part in parts)
            return all(truths) if isinstance(op, ast.And) else any(truths)
        case ast.UnaryOp(op=op, operand=operand):
            inner = _value(operand, values)
            return not inner if isinstance(op, ast.Not) else _ARITHMETIC[type(op)](inner)
        case ast.BinOp(left=left, op=op, right=right):
            return _ARITHMETIC[type(op)](_value(left, values), _value(right, values))
        case ast.Compare(left=left, ops=ops, comparators=others):
            chain = [_value(part, values) for part in (left, *others)]
            return all(_COMPARISONS[type(op)](a, b) for op, a, b in zip(ops, chain, chain[1:], strict=False))
        case ast.Call(func=ast.Name(id=called), args=arguments):
            return _FUNCTIONS[called](*(_value(argument, values) for argument in arguments))
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return [_value(item, values) for item in items]  # type: ignore[misc]
    raise AssertionError(f"unchecked node {ast.dump(node)}")
