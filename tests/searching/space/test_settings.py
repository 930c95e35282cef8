"""What a search is told about its effort."""

import dataclasses

import pytest

from autotok.errors import ConfigError
from autotok.searching.space.settings import SearchSettings, fidelity_plan


def test_what_is_given_changes_settings_and_a_time_limit_of_0_is_none() -> None:
    limited = SearchSettings(n_trials=4, timeout_s=9.0)
    assert limited.changed({"n_trials": None, "timeout_s": None}) == limited
    assert limited.changed({"n_trials": 5}) == SearchSettings(n_trials=5, timeout_s=9.0)
    assert limited.changed({"timeout_s": 0}) == SearchSettings(n_trials=4)
    with pytest.raises(ConfigError, match="timeout_s is -1; it must be positive"):
        limited.changed({"timeout_s": -1})


def test_where_every_trial_is_fine_tuned_they_share_the_time_that_promotions_get() -> None:
    settings = SearchSettings(n_trials=16, timeout_s=10_000.0)
    promotes = fidelity_plan(settings, 10_000, 0.05, promotes=True, macs_per_s=1e9)
    retrains = fidelity_plan(settings, 10_000, 0.05, retrains=True, macs_per_s=1e9)
    assert promotes.finetune_s is not None
    assert retrains.finetune_s == pytest.approx(promotes.finetunes * promotes.finetune_s / 16)
    assert retrains.finetune_macs == pytest.approx(1e9 * retrains.finetune_s)
    assert (retrains.finetunes, retrains.final) == (0, promotes.final)
    short, unlimited = (dataclasses.replace(settings, timeout_s=s) for s in (100.0, None))
    assert fidelity_plan(short, 10_000, 0.05, retrains=True).finetune_s == 30.0  # for fewer trials
    assert fidelity_plan(unlimited, 10_000, 0.05, retrains=True).finetune_macs is None


def test_settings_refuse_nonsense_and_unknown_keys() -> None:
    assert SearchSettings.from_dict(SearchSettings(seed=3).to_dict()).seed == 3
    with pytest.raises(ConfigError, match="n_trials is 0"):
        SearchSettings(n_trials=0)
    with pytest.raises(ConfigError, match="did you mean 'n_trials'"):
        SearchSettings.from_dict({"n_trial": 3})
    with pytest.raises(ConfigError, match="front_size is 1"):
        SearchSettings(front_size=1)
