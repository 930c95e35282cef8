"""What a space says about fine-tuning, and how long 'auto' is."""

import pickle

import pytest

from autotok.errors import ConfigError, UnknownName
from autotok.searching.space.finetuning import (
    AUTO_STEPS,
    FineTuneChoices,
    auto_steps,
    image_macs,
    parse_losses,
)
from autotok.searching.space.space_file import load_space, space_from_dict


def test_losses_are_sums_in_words() -> None:
    assert parse_losses("soft") == {"soft": 1.0}
    assert parse_losses("0.5*ce + soft") == {"ce": 0.5, "soft": 1.0}


@pytest.mark.parametrize("text", ["", "2*", "x*ce", "ce+", "ce soft"])
def test_a_sum_that_is_none_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match=r"not understood; give a sum such as"):
        parse_losses(text)


def test_auto_gives_cheap_configurations_more_steps() -> None:
    cheap, dear = (auto_steps(1e12, 8 * image_macs(macs, 4e9)) for macs in (10**8, 2 * 10**9))
    assert cheap > dear >= 4
    assert auto_steps(None, 8e9) == AUTO_STEPS


def test_a_fraction_of_auto_is_that_share_of_the_steps() -> None:
    choices = FineTuneChoices({"length": ("auto", "auto/4")})
    assert choices.spec({"finetune.length": "auto/4", "finetune.losses": "soft"}, 80).length == (
        "20 steps"
    )
    spec = choices.spec({**choices.first(), "finetune.lr": 3e-4}, 80)
    assert (spec.length, spec.lr, dict(spec.losses)) == ("80 steps", 3e-4, {"soft": 1.0})


@pytest.mark.parametrize("name", ["default", "all"])
def test_the_shipped_spaces_leave_the_rate_to_a_probe(name: str) -> None:
    choices = load_space(name).finetune
    assert choices.spec(choices.first(), 80).lr is None


def test_choices_survive_pickling_and_know_their_questions() -> None:
    choices = FineTuneChoices({"lr": (1e-4, 3e-4)})
    assert pickle.loads(pickle.dumps(choices)) == choices
    assert dict(choices.questions())["finetune.lr"] == (1e-4, 3e-4)
    assert choices.batch_size({"finetune.batch_size": 4, "finetune.accumulate": 2}) == 8


def test_a_teacher_answers_anew_on_images_that_vary() -> None:
    choices = FineTuneChoices({"mixup": (0.0, 0.8), "teacher": ("tiny",)})
    asked = {"finetune.losses": "soft", "finetune.mixup": 0.0}
    assert choices.teacher_share(asked, 4) == 0.25
    assert choices.teacher_share({**asked, "finetune.mixup": 0.8}, 4) == 1.0


def test_losses_that_cannot_be_used_are_left_out() -> None:
    choices = FineTuneChoices({"losses": ("ce+soft", "soft")})
    assert choices.restricted(("soft",), "soft").choices["losses"] == ("soft",)
    assert choices.restricted(("cosine",), "cosine").choices["losses"] == ("cosine",)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"lengths": "5 steps"}, "did you mean 'length'"),
        ({"length": "5 parsecs"}, "give '200 steps'"),
        ({"lr": 7}, "lr is 7"),
        ({"lr": []}, "at least one value"),
    ],
)
def test_a_space_with_a_bad_fine_tune_is_refused(data: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        space_from_dict({"finetune": data})


def test_a_loss_that_does_not_exist_is_named() -> None:
    with pytest.raises(UnknownName, match="did you mean 'soft'"):
        space_from_dict({"finetune": {"losses": "sofd"}})
