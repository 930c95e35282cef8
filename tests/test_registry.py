"""What a registry knows: the package's own by name alone, scripts' and plug-ins' once they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autotok.errors import ConfigError, UnknownName
from autotok.registry import Registry


class Bell:
    sound = "ding"


class Horn:
    sound = "toot"


def bells() -> Registry[type]:
    return Registry("bell", group="autotok.no_such_group", own={"big": "colorsys"})


def test_names_list_the_own_first_and_the_others_sorted() -> None:
    registry = bells()
    registry.add("small", Bell)
    registry.add("brass", Horn)
    assert registry.names() == ["big", "brass", "small"]
    assert registry.get("small") is Bell


def test_the_same_thing_twice_is_one_and_another_of_its_name_is_refused() -> None:
    registry = bells()
    registry.add("small", Bell)
    registry.add("small", Bell)
    for name in ("small", "big"):
        with pytest.raises(ConfigError, match=f"bell '{name}' is registered twice"):
            registry.add(name, Horn)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    registry = bells()
    registry.add("small", Bell)
    with pytest.raises(UnknownName, match="bell 'smal' is unknown; did you mean 'small'"):
        registry.get("smal")


PLUG_IN = """
from autotok.backbones.family import Family, register_family
from autotok.export.formats import ExportFormat, register_format

@register_format("paper")
class Paper(ExportFormat):
    suffix = ".txt"

@register_family("slates")
class Slates(Family):
    def names(self):
        return ("slate",)
    def matches(self, asked):
        return asked == "slate"
"""


@pytest.mark.slow
def test_installed_packages_add_backbones_and_formats_and_broken_ones_break_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "slates_room.py").write_text(PLUG_IN)
    (tmp_path / "slates-1.0.dist-info").mkdir()
    (tmp_path / "slates-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: slates\nVersion: 1.0\n"
    )
    (tmp_path / "slates-1.0.dist-info" / "entry_points.txt").write_text(
        "[autotok.backbones]\nslates = slates_room\nlost = no_such_room\n"
        "[autotok.formats]\npaper = slates_room\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from autotok.backbones.family import FAMILIES, family_of\n"
        "from autotok.backbones.loading import known_backbones\n"
        "from autotok.export.formats import FORMATS\n"
        "print(FORMATS.names()[-1], FORMATS.get('paper').suffix)\n"
        "print(family_of('slate').name, known_backbones('sl*'))\n"
        "try: FAMILIES.get('lost')\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["paper .txt", "slates ['slate']"]
    assert lines[2].startswith("backbone family 'lost' cannot be used: no_such_room cannot be load")
