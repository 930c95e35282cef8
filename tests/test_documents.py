"""YAML within limits: what is no text, too large or stands for too much is refused."""

from pathlib import Path

import pytest

from autotok.documents import parse_yaml, read_yaml
from autotok.errors import ConfigError


def test_a_few_lines_that_stand_for_billions_of_values_are_refused() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="holds more than 50,000 values"):
        parse_yaml("\n".join(lines), "bomb.yaml")


def test_files_that_are_none_or_too_large_or_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(ConfigError, match="does not exist; give a good one"):
        read_yaml(path, like="a good one")
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        read_yaml(path)
    path.write_bytes(b"#" * 2**19)
    with pytest.raises(ConfigError, match="larger than 256 KB"):
        read_yaml(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_yaml(path)[0] == {"a": 1}
    with pytest.raises(ConfigError, match="does not exist"):
        read_yaml(tmp_path)
    with pytest.raises(ConfigError):
        read_yaml(Path("x" * 300))
