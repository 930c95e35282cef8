import pytest

from autotok.backbones.tiny import tiny_backbone
from autotok.compression.schedule import realise
from autotok.config import CompressionConfig, Reduction
from autotok.errors import ConfigError


def test_none_has_no_reduction_layers() -> None:
    facts = tiny_backbone().facts
    assert realise(CompressionConfig(), facts).attention == (16,) * 4
    with pytest.raises(ConfigError, match="method 'none' cannot keep 8 of the 16"):
        realise(CompressionConfig("none", (Reduction(1, num_keep=8),)), facts)
