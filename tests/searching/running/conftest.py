"""Searches of these tests choose among few candidates: what they ask is not who is proposed."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def _few(few_candidates: None) -> None:
    pass
