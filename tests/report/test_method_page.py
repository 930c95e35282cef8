"""A method's page says what its declarations, docstrings and tables say."""

import pytest

from autotok.errors import UnknownName
from autotok.methods import get_method, list_methods
from autotok.methods.evidence import NotBuilt
from autotok.report.method_page import SIGNALS, describe_method, method_text, signals
from autotok.tokens import Needs

OWN = [n for n in list_methods() if get_method(n).__module__.startswith("autotok.")]


@pytest.mark.parametrize("name", OWN)
def test_every_method_has_a_complete_page(name: str) -> None:
    page = describe_method(name, "tiny")
    text = method_text(page)
    assert text.startswith(f"{name}: {get_method(name).title}\n")
    for key in ("summary", "idea", "held_to"):
        assert page[key]
    if name not in ("none", "random"):
        assert page["paper"]
        assert page["departures"]
        assert "departures" in text
    for option in get_method(name).options:
        assert f"  {option.name} = " in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_declarations_become_words() -> None:
    page = describe_method("ltp")
    assert page["requires"] == ["an absolute position table"]
    assert page["once_only"]
    assert page["on_backbone"]["signal"] == ["patch embeddings and position table"]
    assert page["on_backbone"]["patches"] == 196
    alpha = page["options"][0]
    assert (alpha["allowed"], alpha["searched"]) == ("0 to 1", True)
    listening = describe_method("kmedoids")["on_backbone"]
    assert listening["signal"] == []
    assert listening["signal_of_other_blocks"] == ["attention each token receives (whole map)"]


def test_schedules_and_ranges_are_given_for_the_backbone_asked_for() -> None:
    small = describe_method("evit")["on_backbone"]["schedules"][0]
    assert small["keeps"] == {3: 139, 6: 99, 9: 71}
    tiny = describe_method("tome", "tiny")["on_backbone"]
    assert (tiny["blocks"], tiny["keeps_of_all_patches"]) == (4, [8, 16])


def test_published_numbers_stand_under_their_source() -> None:
    text = method_text(describe_method("tome", "tiny"))
    source = text.index("published in LTP-ViT")
    assert "77 % top-1 (81.39 % uncompressed), 2.29 GFLOPs, 9.86 ms" in " ".join(
        text[source:].split()
    )


def test_a_backbone_that_does_not_fit_is_told_apart_from_one_that_does() -> None:
    page = describe_method("dynamicvit", "vit_medium_patch16_gap_256")
    lacks = page["on_backbone"]["lacks"]
    assert (f"needs {lacks}" in method_text(page)) == (lacks is not None)


def test_every_need_has_words() -> None:
    assert set(SIGNALS) == {need for need in Needs if need}
    assert signals(Needs.KEYS | Needs.GRID) == ["attention keys", "grid positions"]


def test_a_method_that_is_not_built_gives_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = NotBuilt("ghost", "Ghost (2030)", "it needs a crystal ball")
    monkeypatch.setattr("autotok.report.method_page.not_built", lambda: (entry,))
    page = describe_method("ghost")
    assert not page["built"]
    assert "not built   it needs a crystal ball" in method_text(page)
    with pytest.raises(UnknownName, match="did you mean 'ghost'"):
        describe_method("ghosts")
