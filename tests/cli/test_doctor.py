"""`autotok doctor`."""

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]


def test_doctor_finds_this_installation_healthy(run: Run) -> None:
    code, out, _ = run("doctor")
    assert code == 0, out
    assert "torchvision" in out
    assert "FAIL" not in out
