"""Names to methods, entry points included."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotok.errors import ConfigError, IncompatibleMethod, UnknownName
from autotok.methods import (
    Kind,
    TokenReducer,
    Training,
    get_method,
    list_methods,
    register,
    registry,
    unmet_need,
)
from autotok.testing import REDUCTION_CHECKS, synthetic_facts

SOURCE = '''
import torch
from autotok.methods import Kind, TokenReducer, register
from autotok.methods.primitives import select

@register("firsts")
class Firsts(TokenReducer):
    """Keeps the first tokens."""
    title = "Firsts"
    kind = Kind.PRUNE

    def reduce(self, tokens, taps, num_keep):
        index = torch.arange(num_keep, device=tokens.x.device)
        return select(tokens, index.expand(tokens.x.shape[0], -1))
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package `firsts` as pip would install it."""
    (tmp_path / "firsts_method.py").write_text(SOURCE)
    info = tmp_path / "firsts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: firsts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[autotok.methods]\nfirsts = firsts_method\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.METHODS.look_again()
    yield
    registry.METHODS.discard("firsts")
    sys.modules.pop("firsts_method", None)
    registry.METHODS.look_again()


@pytest.mark.usefixtures("installed")
def test_another_packages_method_is_found_and_keeps_the_contract() -> None:
    assert "firsts" in list_methods()
    method = get_method("firsts")
    assert method.title == "Firsts"
    for check in REDUCTION_CHECKS:
        check(method)


@pytest.fixture(params=["import nothing_of_this_name", "raise SystemExit(3)", "x = 1 / 0", "def"])
def broken(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A package `lasts` that cannot be imported."""
    (tmp_path / "lasts_method.py").write_text(request.param)
    info = tmp_path / "lasts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lasts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[autotok.methods]\nlasts = lasts_method\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.METHODS.look_again()
    yield
    registry.METHODS.look_again()


@pytest.mark.usefixtures("broken")
def test_a_package_that_cannot_be_imported_breaks_nothing_but_its_own_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert "tome" in list_methods()
    assert "lasts" not in list_methods()
    assert [r.getMessage().partition(" (")[0] for r in caplog.records] == [
        "method plug-in 'lasts' is missing: lasts_method cannot be loaded"
    ]
    assert get_method("tome").name == "tome"
    with pytest.raises(ConfigError, match="method 'lasts' cannot be used: lasts_method"):
        get_method("lasts")
    with pytest.raises(UnknownName, match="did you mean 'tome'"):
        get_method("tomee")


def test_the_eight_methods_are_known() -> None:
    expected = {"none", "random", "topk", "evit", "tome", "tofu", "pitome", "ltp"}
    assert expected <= set(list_methods())
    assert "firsts" not in list_methods()


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownName, match="method 'pitom' is unknown; did you mean 'pitome'"):
        get_method("pitom")


def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(ConfigError, match="method 'tome' is registered twice"):

        @register("tome")
        class Another(TokenReducer):
            kind = Kind.PRUNE

    assert get_method("tome").__name__ == "ToMe"


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"training": Training.REQUIRED}, "'training' declares nothing; name it 'training_need'"),
        ({"exports": False}, "'exports' declares nothing; name it 'exportable'"),
        ({"requires": frozenset({"clss"})}, "requires 'clss'; did you mean 'cls'? give a set of"),
        ({"rounding": "up"}, "rounding is 'up'; give one of: ceil, floor, round"),
        ({"kind": "prune"}, "kind is 'prune'; give one of: Kind.NONE, Kind.PRUNE"),
    ],
)
def test_what_declares_nothing_is_refused_when_registered(
    declared: dict[str, object], told: str
) -> None:
    made = type("Mine", (TokenReducer,), {"kind": Kind.PRUNE, **declared})
    with pytest.raises(
        ConfigError, match=f"method 'mine' cannot be registered: .*{re.escape(told)}"
    ):
        register("mine")(made)
    assert "mine" not in list_methods()
    good = type("Mine", (TokenReducer,), {"kind": Kind.PRUNE, "training": True})
    assert registry.misdeclared(good) is None


def test_the_page_on_own_methods_names_what_the_base_class_has() -> None:
    page = Path(__file__).parents[2] / "docs" / "own-method.md"
    names = re.findall(r"^\| `(\w+)` \|", page.read_text(encoding="utf-8"), re.M)
    assert "training_need" in names
    assert all(hasattr(TokenReducer, name) for name in names)


def test_an_unmet_need_is_said_in_words() -> None:
    class Picky(TokenReducer):
        name = "picky"
        requires = frozenset({"cls"})

    assert unmet_need(Picky, synthetic_facts(1)) is None
    assert unmet_need(Picky, synthetic_facts(0)) == "a class token"
    with pytest.raises(IncompatibleMethod, match="method 'picky' needs a class token"):
        registry.check_compatible(Picky, synthetic_facts(0))
