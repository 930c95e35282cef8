"""Text to values: the small notations that the command line and scripts share."""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from autotok.config import Primitive
from autotok.documents import parse_yaml, read_yaml
from autotok.errors import ConfigError, UnknownName
from autotok.plain_data import EXPONENT


def parse_keep(text: str) -> dict[int, float]:
    """{layer: keep ratio} of '0.7@3,0.5@6'."""
    found: dict[int, float] = {}
    for part in text.replace(" ", "").split(","):
        ratio, _, layer = part.partition("@")
        try:
            place, value = int(layer), float(ratio)
        except ValueError as error:
            raise ConfigError(
                f"keep '{text}' cannot be read at '{part}': write RATIO@LAYER pairs such as"
                " 0.7@3,0.5@6"
            ) from error
        _check_new(f"keep ratio of layer {place}", place, found)
        found[place] = value
    return found


def parse_loss_weights(texts: Sequence[str]) -> dict[str, float]:
    """{loss: weight} of 'NAME=WEIGHT' texts; the weight is 1 where none is given."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, weight = text.partition("=")
        try:
            value = float(weight or 1.0)
        except ValueError:
            raise ConfigError(
                f"loss '{text}' is not understood; write NAME=WEIGHT, such as soft=1.0"
            ) from None
        _check_new(f"loss '{name.strip()}'", name.strip(), found)
        found[name.strip()] = value
    return found


def _check_new(what: str, key: object, found: Container[object]) -> None:
    """Raise where something is given again, as one of the two would be lost."""
    if key in found:
        raise ConfigError(f"{what} is given twice; give it once")


def parse_options(texts: Sequence[str]) -> dict[str, Primitive]:
    """{name: value} of 'name=value' texts; values are numbers, true, false or words."""
    found: dict[str, Primitive] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        parsed = parse_yaml(value, f"option '{text}'")[0] if equals else None
        if EXPONENT.fullmatch(value.strip()):
            parsed = float(value)
        if not name or not isinstance(parsed, (bool, int, float, str)):
            raise ConfigError(
                f"option '{text}' cannot be read: write NAME=VALUE, such as alpha=0.5"
            )
        _check_new(f"option '{name}'", name, found)
        found[name] = parsed
    return found


def option_text(name: str, value: Primitive) -> str:
    """What `parse_options` reads as this one option."""
    plain = f"{name}={value}"
    try:
        same = parse_options([plain]) == {name: value}
    except ConfigError:
        same = False
    return plain if same else f"{name}={json.dumps(value)}"


def parse_resources(texts: Sequence[str]) -> dict[str, float]:
    """`['GPU=0.5', 'jetson=1']` as a mapping."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, amount = text.partition("=")
        try:
            value = float(amount)
        except ValueError:
            value = -1.0
        if not (name := name.strip()) or not value >= 0.0:
            raise ConfigError(f"resource '{text}' is not understood; give NAME=AMOUNT, as GPU=0.5")
        _check_new(f"resource '{name}'", name, found)
        found[name] = value
    return found


def parse_files(texts: Sequence[str]) -> dict[str, Path]:
    """{name: file} of 'NAME=FILE' texts."""
    found: dict[str, Path] = {}
    for text in texts:
        name, _, file = text.partition("=")
        if not name or not file:
            raise ConfigError(f"'{text}' is not understood; give NAME=FILE")
        _check_new(f"'{name}'", name, found)
        found[name] = Path(file)
    return found


def read_options(
    path: str | Path,
    names: Iterable[str],
    *,
    listed: Collection[str] = (),
    many: Collection[str] = (),
    flags: Collection[str] = (),
) -> dict[str, Any]:
    """{option: value} of a YAML file; one without a value is as if it were not there.

    Values are texts as on a command line, which alone knows their types; those of `flags` are true
    or false. A list is a text with commas for options of `listed`, and stays one for those of
    `many`, for which a single text becomes one.

    Raises:
        ConfigError, UnknownName: it is no such file, names an option that is none, or gives a list,
            or true or false, where one value is wanted.
    """
    data, place = read_yaml(Path(path), like="a file of options, which `autotok init` writes")
    if not isinstance(data or {}, dict):
        raise ConfigError(f"{place}: give OPTION: VALUE lines; `autotok init` writes them")
    found, names = {}, list(names)
    for key, value in (data or {}).items():
        if (name := str(key).replace("-", "_")) not in names:
            raise UnknownName(f"option in {path}", name, names, see="autotok search --help")
        if value is None:
            continue
        several = isinstance(value, list) and name in (*listed, *many)
        if isinstance(value, (dict, list)) and not several:
            raise ConfigError(f"{place / str(key)}: give one value, not {value}")
        if name in flags:
            found[name] = value
            continue
        items = value if several else [value]
        if any(isinstance(item, bool) for item in items):
            raise ConfigError(
                f"{place / str(key)}: must be a number or text, got true or false; put words such"
                " as yes and no in quotes"
            )
        texts = list(map(str, items))
        found[name] = texts if name in many else ",".join(texts)
    return found


def parse_macs(text: str) -> float:
    """A cost such as '2.3GFLOPs' or '900MFLOPs' in multiply-accumulates.

    Raises:
        ConfigError: it cannot be read so.
    """
    from autotok.searching.space.budget import parse_budget

    found = parse_budget(text)
    if found.metric != "macs" or found.relative:
        raise ConfigError(
            f"cost '{text}' is no number of operations; write one such as 2.3GFLOPs or 900MFLOPs"
        )
    return found.amount
