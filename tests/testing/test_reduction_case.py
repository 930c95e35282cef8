"""The case that a method is tried on."""

from autotok.methods import get_method
from autotok.testing import reduction_case as reduction_case


def test_a_scene_hands_out_exactly_the_declared_taps() -> None:
    assert reduction_case(get_method("tome")).taps.names() == ("keys",)
    assert reduction_case(get_method("topk")).taps.names() == ("cls_attention",)
    assert reduction_case(get_method("topk"), num_prefix=0).taps.names() == ("column_means",)
    assert reduction_case(get_method("random")).taps.names() == ()
