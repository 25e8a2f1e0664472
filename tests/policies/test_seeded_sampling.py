"""Sampling with a seed a request: the right distribution, no token that was filtered out, and nothing that depends on the neighbours."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.policies.engines.seeded_sampling import sample_seeded


def generators(rows: int, seed: int) -> dict[int, torch.Generator]:
    return {row: torch.Generator().manual_seed(seed + row) for row in range(rows)}


def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.15, 0.05, 0.0])
    n = 20_000
    drawn = sample_seeded(probabilities.expand(n, -1), generators(n, 0))
    found = drawn.bincount(minlength=7) / n
    assert (found - probabilities).abs().max() < 4 * (0.25 / n) ** 0.5
    assert not found[probabilities == 0].any()


@settings(deadline=None)
@given(
    rows=st.lists(
        st.lists(st.sampled_from([0.0, 1e-30, 1e-7, 0.1, 1.0, 3.0]), min_size=9, max_size=9).filter(any), min_size=1
    ),
    seed=st.integers(0, 2**31),
)
def test_only_tokens_of_some_probability_whatever_the_total(rows: list[list[float]], seed: int) -> None:
    probabilities = torch.tensor(rows)
    drawn = sample_seeded(probabilities, generators(len(rows), seed))
    assert (probabilities.gather(1, drawn[:, None]) > 0).all()


def test_a_row_does_not_depend_on_the_others_and_rows_without_a_seed_are_drawn_too() -> None:
    probabilities = torch.rand(6, 50)
    together = sample_seeded(probabilities, generators(6, 3))
    for row in range(6):
        alone = sample_seeded(probabilities[row : row + 1], {0: torch.Generator().manual_seed(3 + row)})
        assert alone == together[row]
    some = sample_seeded(probabilities, {row: torch.Generator().manual_seed(3 + row) for row in (1, 4)})
    assert some[1] == together[1] and some[4] == together[4]
    unseeded = {tuple(sample_seeded(probabilities, {}).tolist()) for _ in range(5)}
    assert len(unseeded) > 1
