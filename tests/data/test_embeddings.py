"""The built-in encoder: near prompts share words, rows have length 1, and nothing depends on the process."""

import numpy as np
import pytest

from raypo.data.embeddings import embed
from raypo.errors import ModelError


def test_rows_have_length_one_even_without_words() -> None:
    found = embed(["list 3 animals", "", "?!"])
    assert found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1)


def test_shared_words_bring_prompts_near() -> None:
    near, far = (
        embed(["list three animals", "list three colours", "what is the time"])[1:] @ embed(["list three animals"])[0]
    )
    assert near > far


def test_equal_prompts_are_equal_and_conversations_count_by_their_words() -> None:
    one, two = embed(["say blue", ({"role": "user", "content": "say blue"},)])
    assert np.array_equal(one, two)


def test_a_missing_encoder_is_named() -> None:
    with pytest.raises(ModelError, match=r"data\.encoder"):
        embed(["x"], "/no/such/encoder")
