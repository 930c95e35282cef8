"""The rows say what transformers has."""

from hf_models import CONFIGS, hf_model, transformers

from autotok.backbones.hf_layouts import DEFAULTS, LAYOUTS, MODELS, REASONS


def test_every_class_named_exists_and_is_tried_in_these_tests() -> None:
    assert set(CONFIGS) == set(MODELS)
    assert set(DEFAULTS.values()) <= set(MODELS)
    for kind in (*MODELS, *REASONS):
        assert hasattr(transformers, kind), kind
    assert not set(MODELS) & set(REASONS)


def test_every_part_named_is_in_the_model() -> None:
    seen = set()
    for kind, own in MODELS.items():
        tower = hf_model(kind).get_submodule(own.tower)
        seen.add(tower.config.model_type)
        layout = LAYOUTS[tower.config.model_type]
        block = tower.get_submodule(layout.blocks)[0]
        for name in (*layout.norms, f"{layout.attention}.{layout.out}", "mlp"):
            block.get_submodule(name)
        for name in (layout.final, layout.pre_norm, layout.stem):
            tower.get_submodule(name)
        assert all(hasattr(block, name) for name in layout.scales if name)
    assert seen == set(LAYOUTS)
