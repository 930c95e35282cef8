"""What is sent to worker processes must pickle."""

import factories
import pytest

from autotok.errors import ConfigError
from autotok.searching.engines.workers import ProcessEngine


def test_a_factory_that_does_not_pickle_is_refused_before_any_process_starts() -> None:
    with pytest.raises(ConfigError, match=r"cannot be pickled .*lambda in it"):
        ProcessEngine(factories.NoPickle(), 2)
    with pytest.raises(ConfigError, match="workers is 0"):
        ProcessEngine(factories.fake_worker, 0)
