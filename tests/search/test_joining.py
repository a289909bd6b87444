"""Joining a cluster: an address at which nobody answers is said at once and in words."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import ray

from raypo.errors import ClusterError
from raypo.search.joining import joined
from raypo.study import load

STUDY = load(Path(__file__).parents[2] / "search_spaces" / "quickstart.yaml")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "[::1]:9", "127.0.0.1:99999"])
def test_an_address_without_a_cluster_is_refused_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    begun = time.monotonic()
    with pytest.raises(ClusterError, match=r"nobody answers there .*ray start"), joined(STUDY, address):
        pass
    assert time.monotonic() - begun < 10


def test_a_cluster_that_cannot_start_is_a_sentence_with_the_place_of_its_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nmore")  # what Ray raises, word for word

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    words = r"on this machine: The current node timed out during startup\.; .*logs"
    with pytest.raises(ClusterError, match=words), joined(STUDY, None):
        pass
