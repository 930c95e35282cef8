"""What a dashboard is shown of a trial."""

from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from autotok.searching.proposing.shown_study import shown_trial


def test_parameters_have_words_and_those_of_single_layers_are_left_out() -> None:
    kinds = {
        "budget_fraction": FloatDistribution(0.0, 1.0),
        "subnet.heads.3": CategoricalDistribution([3, 4]),
        "tome.proportional": CategoricalDistribution([False, True]),
    }
    trial = create_trial(
        params={"budget_fraction": 0.5, "subnet.heads.3": 4, "tome.proportional": True},
        distributions=kinds,
        values=[1.0],
        user_attrs={"record": "{}", "method": "tome", "cost": {"macs_g": 2.0}, "predicted": None},
    )
    shown = shown_trial(trial)
    words = "cost asked for, as a share of the budget"
    assert shown.params == {words: 0.5, "tome.proportional": True}
    assert shown.distributions == {
        words: kinds["budget_fraction"],
        "tome.proportional": kinds["tome.proportional"],
    }
    assert shown.user_attrs == {"method": "tome", "macs_g": 2.0}
    assert trial.params["subnet.heads.3"] == 4  # the trial itself is as it was
    assert "record" in trial.user_attrs
