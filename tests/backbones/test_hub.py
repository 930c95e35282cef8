"""The hub is asked once, and not again where it does not answer."""

from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from autotok.backbones import hub


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def answering(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[str]:
    asked: list[str] = []

    def head(url: str, timeout: float) -> None:
        asked.append(url)
        if error is not None:
            raise error

    monkeypatch.setattr(hub, "get_session", lambda: SimpleNamespace(head=head))
    return asked


def test_a_hub_that_answers_is_left_to_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch)
    with hub.hub_or_cache():
        assert constants.HF_HUB_OFFLINE is False
    assert asked == [constants.ENDPOINT]


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, OSError("name or service not known"))
    with hub.hub_or_cache():
        assert constants.HF_HUB_OFFLINE is True
    assert constants.HF_HUB_OFFLINE is False
    assert len(asked) == 1


def test_offline_mode_asks_nobody_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub.hub_or_cache():
        assert constants.HF_HUB_OFFLINE is True
    assert constants.HF_HUB_OFFLINE is True
    assert asked == []
