"""The small form of `make fuzz`: 3,000 cases, and the inputs that failed once."""

import pytest
from rollhouse.tests.fuzz import run


@pytest.mark.system
def test_mutated_input_ends_in_sentences() -> None:
    assert run(3_000, seed=2) == []
