"""Where search spaces are: by the names of those that come with autotok, or by path."""

from __future__ import annotations

from pathlib import Path

from autotok.errors import UnknownName


def list_spaces() -> list[str]:
    """Names of the spaces that come with autotok."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})


def find_space(name_or_path: str | Path) -> Path:
    """The YAML file of a name or path; one given by path may turn out not to be there.

    Raises:
        UnknownName: no space of this name.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return path
    paths = [*(folder / f"{name_or_path}.yaml" for folder in _folders()), path]
    found = next((p for p in paths if p.is_file()), None)
    if found is None:
        raise UnknownName("search space", str(name_or_path), list_spaces())
    return found


def _folders() -> list[Path]:
    package = Path(__file__).resolve().parents[2]
    return [package / "search_spaces", package.parent / "search_spaces"]
