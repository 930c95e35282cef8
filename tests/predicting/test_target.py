"""Target files: the shipped ones, and what a wrong one is told."""

import dataclasses
from pathlib import Path

import pytest

from autotok.errors import ConfigError, UnknownName
from autotok.predicting.target import list_targets, load_target

PROMISED = """jetson-nano jetson-tx2 jetson-nx jetson-agx-xavier jetson-orin-nano jetson-orin-nx
    jetson-agx-orin raspberry-pi-4 raspberry-pi-5 rtx3090 rtx4090 a6000 a100 h100 h200 x86-desktop
    local""".split()
CHECKED = {"rtx3090", "jetson-nx", "a6000"}


def shipped(name: str) -> str:
    import autotok.predicting

    folder = Path(autotok.predicting.__file__).parent / "targets"
    return (folder / f"{name}.yaml").read_text("utf-8")


def test_every_promised_target_ships() -> None:
    assert set(PROMISED) <= set(list_targets())


@pytest.mark.parametrize("name", PROMISED)
def test_every_number_says_where_it_comes_from(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    rows = target.numbers()
    assert len(rows) >= 12
    for what, number in rows:
        origin = number.source.split(":")[0]
        assert origin in ("datasheet", "fitted", "estimate"), (what, number.source)


@pytest.mark.parametrize("name", PROMISED)
def test_only_targets_with_points_claim_to_be_checked_or_fitted(name: str) -> None:
    target = load_target(name)
    fitted = [what for what, number in target.numbers() if number.source.startswith("fitted")]
    assert target.is_checked == (name in CHECKED)
    assert bool(fitted) == any(point.role == "fitted" for point in target.checked_against)
    assert target.is_checked or any("Never checked" in note for note in target.notes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "bandwidth_gb_s:",
            "bandwith_gb_s:",
            "'bandwith_gb_s' is unknown; did you mean 'band",
        ),
        (
            "dispatch_us:",
            "dispatch_ms:",
            "mine.yaml:18: settings.eager: key 'dispatch_ms' is unknown",
        ),
        ("role: fitted", "role: fited", "checked_against.0.: role 'fited' is unknown"),
        ("metric: latency_ms", "metric: latency", "metric 'latency' is unknown; choose one of"),
        (
            "fused_attention: false\n",
            "fused_attention: false\n      relative_positions: wrong\n",
            "relative_positions 'wrong' is unknown; choose one of: carried, dense",
        ),
        ("kind: gpu", "kind: tpu", "kind 'tpu' is unknown; choose one of: gpu, cpu"),
        ("title: NVIDIA GeForce RTX 3090\n", "", "lacks the key 'title'"),
        ("{value: 936, source:", "{value: -936, source:", "bandwidth_gb_s: value must not be neg"),
        (
            "{value: 936, source:",
            "{value: fast, source:",
            "mine.yaml:10: bandwidth_gb_s.value: must be a number, got 'fast'",
        ),
        (
            "matmul: {value: 0.416",
            "matmul: {value: 1.416",
            r"efficiency matmul must be in",
        ),
        ("default_dtype: float32", "default_dtype: int8", "'int8' has no entry in peak_gmacs"),
        (
            "  float32: {value",
            "  fp32: {value",
            "dtype of peak_gmacs 'fp32' is unknown",
        ),
        ("default_batch: 1", "default_batch: 0", "default_batch is 0; give at least 1"),
        ("role: fitted", "batch: -3\n    role: fitted", "batch is -3; give at least 1"),
        ("settings:", "settings: [", "is not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = shipped("rtx3090")
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        load_target(path)


def test_ones_own_file_loads_by_path(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(shipped("local").replace("name: local", "name: board"))
    assert load_target(path).name == "board"


def test_a_file_that_was_edited_is_read_again_and_else_is_one_object(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(shipped("local"))
    first = load_target(path)
    assert load_target(path) is load_target(str(path)) is first
    path.write_text(shipped("local").replace("default_batch: 1", "default_batch: 32"))
    assert load_target(path).default_batch == 32
    assert load_target("local") is load_target("local")


def test_int8_may_have_a_peak_but_is_no_format_of_predictions() -> None:
    target = load_target("jetson-nx")
    peaks = {**target.peak_gmacs, "int8": target.peak_gmacs["float32"]}
    mine = dataclasses.replace(target, peak_gmacs=peaks)
    with pytest.raises(ConfigError, match=r"int8 cannot be predicted .*, only measured; choose"):
        mine.check_dtype("int8")
    with pytest.raises(ConfigError, match="default_dtype 'int8' is unknown; choose one of: float3"):
        dataclasses.replace(mine, default_dtype="int8")


def test_unknown_targets_files_settings_and_dtypes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'jetson-nx'"):
        load_target("jetson-nxx")
    with pytest.raises(ConfigError, match="does not exist"):
        load_target(tmp_path / "none.yaml")
    with pytest.raises(UnknownName, match="known: eager"):
        load_target("local").setting("engine")
    with pytest.raises(UnknownName, match="float32"):
        load_target("local").peak("int8")
