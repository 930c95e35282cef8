"""Classes of operators."""

import autotok.methods  # noqa: F401
from autotok.counting.operators import OperatorClass, classify, kernels


def test_an_operator_nobody_classified_is_called_other() -> None:
    assert classify("fft_r2c") is OperatorClass.OTHER
    assert kernels("fft_r2c") == 1
    assert (kernels("view"), kernels("sort")) == (0, 2)
