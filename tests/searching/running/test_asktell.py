"""Ask and tell from one's own loop."""

import pytest

import autotok
from autotok.backbones.tiny import tiny_backbone
from autotok.errors import ConfigError, InfeasibleBudget


@pytest.mark.parametrize(("budget", "idle"), [("60%", 0), ("9GMACs", 1)])
def test_ask_and_tell_names_a_budget_that_limits_nothing(
    caplog: pytest.LogCaptureFixture, budget: str, idle: int
) -> None:
    autotok.AskTell(tiny_backbone(), budget=budget)
    found = [text for text in caplog.messages if "limits nothing: the uncompressed model" in text]
    assert len(found) == idle


def test_ask_and_tell_never_repeats_and_stays_inside_the_budget() -> None:
    model = tiny_backbone()
    limit = 0.6 * autotok.macs(model).macs_g
    study = autotok.AskTell(model, budget="60%", metric="agreement")
    seen = set()
    for number in range(8):
        candidate = study.ask()
        assert candidate is not None
        assert candidate.macs_g <= limit
        seen.add(candidate.config.config_id)
        if number == 3:
            study.fail(candidate, "the board caught fire")
        else:
            study.tell(candidate, 50.0 + number)
    assert len(seen) == 8
    front = study.front()
    assert front
    assert all(record.score is not None for record in front)


@pytest.mark.parametrize("budget", ["0.0001ms", "1KB", "100000img/s", ["50%", "1ms"]])
def test_ask_and_tell_refuses_a_budget_that_it_cannot_know(budget: str | list[str]) -> None:
    with pytest.raises(
        ConfigError, match=r"needs to know the device.*autotok\.search with a target"
    ):
        autotok.AskTell(tiny_backbone(), budget=budget)


def test_ask_and_tell_names_what_would_be_feasible() -> None:
    with pytest.raises(InfeasibleBudget, match="cannot be met"):
        autotok.AskTell(tiny_backbone(), budget="1kFLOPs")


def test_a_candidate_is_answered_once_and_in_percent() -> None:
    study = autotok.AskTell(tiny_backbone(), budget="60%")
    first, second = study.ask(), study.ask()
    assert first is not None
    assert second is not None
    with pytest.raises(ConfigError, match="in percent, 0 to 100"):
        study.tell(first, 870.0)
    study.tell(first, 87.0)
    study.fail(second, "no answer")
    for candidate in (first, second):
        with pytest.raises(ConfigError, match="waits for no answer"):
            study.tell(candidate, 87.0)
