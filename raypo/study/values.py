"""What a key of a study file may hold. Strict: an unknown key, or a value out of its bounds, is refused.

Numbers are numbers: true is not 1 here, nor is a text of digits, and nothing is infinite.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from raypo.spaces import Space, parse

WHOLE = {"uniform": "int", "log_uniform": "log_int"}
"""Forms that draw broken numbers, with those that draw whole ones."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, validate_default=False)


def fraction(value: Any) -> Any:
    """`1/3` as a person writes it."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"not a fraction, got {value!r}; write 1/3 or 0.33") from None
    return value


def check_whole(space: Space) -> None:
    """Whole ends are not enough: what lies between them is drawn too.

    Raises:
        ValueError: the axis draws numbers that are not whole.
    """
    if space.form in WHOLE:
        low, high = (int(end) for end in space.values)
        raise ValueError(
            f"needs whole numbers, got {space.form}: [{low}, {high}], which draws broken ones too; "
            f"write {{{WHOLE[space.form]}: [{low}, {high}]}} or a choice"
        )


def _made_whole(parsed: Any) -> Any:
    """64.0 as 64, alone or in a choice."""
    if not isinstance(parsed, Space):
        return int(parsed)
    check_whole(parsed)
    return Space(parsed.form, tuple(int(value) for value in parsed.values))


def axis(lower: float, upper: float = math.inf, *, whole: bool = False, open_low: bool = True) -> Any:
    """A number, or an axis whose values all lie in the bounds, the upper one not included."""

    def check(value: Any) -> Any:
        parsed = parse(value)
        for number in parsed.values if isinstance(parsed, Space) else (parsed,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError(f"needs a number or an axis such as {{log_uniform: [1e-6, 1e-4]}}, got {number!r}")
            low_ok = number > lower if open_low else number >= lower
            if not (low_ok and number < upper):
                raise ValueError(f"needs {lower} {'<' if open_low else '<='} value < {upper}, got {number}")
            if whole and number != int(number):
                raise ValueError(f"needs whole numbers, got {number}")
        return _made_whole(parsed) if whole else parsed

    return Annotated[Any, BeforeValidator(check)]


def named(*names: str) -> Any:
    """One of the names, or a choice among them."""

    def check(value: Any) -> Any:
        parsed = parse(value)
        for name in parsed.values if isinstance(parsed, Space) else (parsed,):
            if name not in names:
                raise ValueError(f"got {name!r}; allowed: {', '.join(names)}")
        return parsed

    return Annotated[Any, BeforeValidator(check)]


Whole = Annotated[int, Field(strict=True)]
Count = Annotated[Whole, Field(gt=0)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
"""What every generator of random numbers takes."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[Number, BeforeValidator(fraction), Field(gt=0, le=1)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
