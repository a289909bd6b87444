import json
import math

import pytest

from raypo.json import dumps


def test_what_is_no_number_is_null_however_deep_it_lies() -> None:
    value = {"a": [1, (math.nan, 0.5)], "b": {"c": -math.inf, "d": "NaN"}, "e": None, "f": True}
    read = json.loads(dumps(value), parse_constant=pytest.fail)
    assert read == {"a": [1, [None, 0.5]], "b": {"c": None, "d": "NaN"}, "e": None, "f": True}
