"""What a search is told about its effort."""

import pytest

from autotok.errors import ConfigError
from autotok.searching.space.settings import SearchSettings


def test_settings_refuse_nonsense_and_unknown_keys() -> None:
    assert SearchSettings.from_dict(SearchSettings(seed=3).to_dict()).seed == 3
    with pytest.raises(ConfigError, match="n_trials is 0"):
        SearchSettings(n_trials=0)
    with pytest.raises(ConfigError, match="did you mean 'n_trials'"):
        SearchSettings.from_dict({"n_trial": 3})
    with pytest.raises(ConfigError, match="front_size is 1"):
        SearchSettings(front_size=1)
