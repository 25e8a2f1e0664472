"""Micro-batches and their tensors."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.train.grpo.learner.batch import collate, split_micro_batches


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 1000))
def test_a_split_covers_all_once_within_the_budget(lengths, budget):
    batches = split_micro_batches(lengths, budget)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[position] for position in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
    flat = [lengths[position] for batch in batches for position in batch]
    assert flat == sorted(flat, reverse=True)


def test_collate_puts_each_value_at_the_position_that_predicts_its_token(make_samples):
    samples = make_samples(4)
    batch = collate(samples)
    assert batch.mask.shape == (4, max(sample.length for sample in samples) - 1)
    for row, sample in enumerate(samples):
        sampled = [token for token, kept in zip(sample.token_ids, sample.loss_mask, strict=True) if kept]
        assert batch.input_ids[row, 1:][batch.mask[row]].tolist() == sampled
        assert batch.engine_logprobs[row][batch.mask[row]].tolist() == pytest.approx(sample.engine_logprobs)
        assert batch.engine_logprobs[row][~batch.mask[row]].count_nonzero() == 0
        assert batch.input_ids[row, : sample.length].tolist() == [*sample.prompt_ids, *sample.token_ids]


def test_lists_that_do_not_fit_are_named(make_samples):
    (sample,) = make_samples(1)
    with pytest.raises(ValueError, match=r"rollout-0.*logprobs"):
        collate([replace(sample, engine_logprobs=list(sample.engine_logprobs)[:-1])])
    with pytest.raises(ValueError, match="no prompt tokens"):
        collate([replace(sample, prompt_ids=[])])
