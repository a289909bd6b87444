from collections.abc import Iterator

import pytest
from chat_server import KEY, ChatService


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatService]:
    """A running server that the environment names, with a key."""
    service = ChatService()
    monkeypatch.setenv("OPENAI_BASE_URL", service.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield service
    service.close()
