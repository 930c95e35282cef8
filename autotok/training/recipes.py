"""Fine-tune settings by one word: `recipes.yaml`, or a file of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autotok.documents import read_yaml
from autotok.errors import UnknownName
from autotok.finetune_spec import FineTuneSpec

_FILE = Path(__file__).with_name("recipes.yaml")


def list_recipes() -> list[str]:
    """Names that `--recipe` knows."""
    return sorted(read_yaml(_FILE)[0])


def recipe_settings(recipe: str, *, labelled: bool) -> dict[str, Any]:
    """Fields of `FineTuneSpec` that a recipe sets: one by name, or a YAML file of them.

    A recipe by name leaves labels alone where there are none; a file is taken at its word.

    Raises:
        UnknownName: neither a recipe's name nor a file.
        ConfigError: a key or a value of the file cannot be.
    """
    known, _ = read_yaml(_FILE)
    if recipe in known:
        unlabelled = {} if labelled else {"label_smoothing": 0.0}
        return {**known[recipe], **unlabelled}
    if Path(recipe).suffix not in (".yaml", ".yml"):
        raise UnknownName("recipe", recipe, [*sorted(known), "FILE.yaml"])
    data, place = read_yaml(Path(recipe), like="a YAML file of fine-tune settings")
    spec = FineTuneSpec.from_dict(data, where=place)
    return {name: getattr(spec, name) for name in data}
