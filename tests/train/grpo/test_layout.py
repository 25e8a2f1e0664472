"""Prompts that are computed once for their group: the same logprobs, gradient and step as one sequence a row."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.train.grpo.learner.batch import TrainSample, collate, split_micro_batches
from rollhouse.train.grpo.learner.layout import Cost, choose_rows, full_attention, plain_layout, shared_layout
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.learner.logprobs import TokenScorer, can_share_prefix

from .settings import learner_config

FREE_ATTENTION = Cost(token=1, pair=0)

token = st.integers(0, 47)
answer = st.lists(st.tuples(token, st.booleans()), min_size=1, max_size=7)
prompts = st.lists(token, min_size=1, max_size=9)
groups = st.lists(st.tuples(prompts, st.lists(answer, min_size=1, max_size=4)), min_size=1, max_size=3)


def samples_of(drawn):
    return [
        TrainSample(
            f"{number}-{index}",
            prompt,
            [token for token, _ in answer],
            [int(kept) for _, kept in answer],
            [-1.0] * sum(kept for _, kept in answer),
            advantage=1.0 - index,
        )
        for number, (prompt, answers) in enumerate(drawn)
        for index, answer in enumerate(answers)
    ]


@pytest.fixture(scope="module")
def model(random_model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32).eval()


def scored(model, layout):
    """Logprobs, entropies, and the gradient of a sum in which each token counts differently."""
    model.zero_grad()
    logprobs, entropies = TokenScorer(model)(layout, 0.7)
    (logprobs * torch.linspace(1, 2, len(logprobs))).sum().backward()
    return logprobs.detach(), entropies, [weight.grad for weight in model.parameters()]


@settings(deadline=None, derandomize=True, max_examples=25)
@given(groups, st.integers(1, 4))
def test_a_shared_prompt_changes_neither_logprobs_nor_gradient(model, drawn, answers):
    samples = samples_of(drawn)
    batch = collate(samples)
    plain = scored(model, plain_layout(batch.input_ids, batch.mask))
    rows, start = [], 0
    for _, members in drawn:
        for first in range(0, len(members), answers):
            rows.append(list(range(start + first, start + min(first + answers, len(members)))))
        start += len(members)
    shared = scored(model, shared_layout(samples, rows))
    for one, other in zip(plain[:2], shared[:2], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    for one, other in zip(plain[2], shared[2], strict=True):
        torch.testing.assert_close(one, other, atol=5e-5, rtol=1e-4)


@settings(deadline=None, derandomize=True)
@given(groups, st.floats(0, 0.2))
def test_rows_hold_every_sample_once_and_one_prompt_each(drawn, pair):
    samples = samples_of(drawn)
    cost = Cost(1.0, pair)
    rows = choose_rows(samples, cost)
    if rows is None:
        return
    assert sorted(position for row in rows for position in row) == list(range(len(samples)))
    assert all(len({tuple(samples[position].prompt_ids) for position in row}) == 1 for row in rows)
    assert len(rows) < len(samples)


def group(size, prompt, tokens):
    return [TrainSample(str(n), [1] * prompt, [2] * tokens, [1] * tokens, [-1.0] * tokens) for n in range(size)]


@pytest.mark.parametrize(
    ("samples", "pair", "rows"),
    [
        (group(8, 100, 20), 0.0, 1),  # attention costs nothing: all behind one prompt
        (group(8, 100, 100), 0.001, 1),  # it costs as much in any row
        (group(8, 1, 100), 0.01, None),  # nothing to share
        (group(1, 100, 20), 0.0, None),  # nothing to share with
    ],
)
def test_the_number_of_answers_a_row_is_the_cheapest(samples, pair, rows):
    found = choose_rows(samples, Cost(1.0, pair))
    assert (len(found) if found else None) == rows


def test_a_step_is_the_same_with_and_without(random_model):
    samples = [
        replace(sample, rollout_id=f"{n}-{sample.rollout_id}", prompt_ids=[n + 1] * 30, advantage=(-1.0) ** position)
        for n in range(2)
        for position, sample in enumerate(group(4, 30, 5))
    ]
    split = [list(range(8))]
    results, after = [], []
    for shared in (False, True):
        learner = Learner(str(random_model), learner_config(lr=1e-2, shared_prefix=shared))
        learner.optimizer = torch.optim.SGD(learner.model.parameters(), 1e-2)
        learner._cost = FREE_ATTENTION if shared else learner._cost
        assert learner._layout(samples, collate(samples)).input_ids.shape == ((2, 46) if shared else (8, 34))
        results.append(learner.step(samples, split))
        after.append(list(learner.model.parameters()))
    assert results[1].metrics == pytest.approx(results[0].metrics, rel=1e-4, abs=1e-5)
    for one, other in zip(results[0].outcomes, results[1].outcomes, strict=True):
        assert one.rollout_id == other.rollout_id and one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    for one, other in zip(*after, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def tiny(name, **options):
    """A random model of that architecture."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        name, vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, **options
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("name", "options", "shares"),
    [
        ("qwen3", {"num_key_value_heads": 1, "head_dim": 16}, True),
        ("llama", {"num_key_value_heads": 1}, True),
        (
            "qwen3",
            {"num_key_value_heads": 1, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            False,
        ),
        ("mistral", {"num_key_value_heads": 1, "sliding_window": 4096}, False),
        ("bloom", {}, False),
        ("mamba", {"state_size": 8}, False),
    ],
)
def test_only_full_attention_with_positions_of_its_own_shares(name, options, shares):
    assert can_share_prefix(tiny(name, **options)) is shares


def test_a_model_is_asked_where_its_configuration_says_nothing(model, monkeypatch):
    assert full_attention(model.config) and can_share_prefix(model)
    backbone = model.model
    forward = backbone.forward
    # A model whose attention never hears of the answers, as one of another kind does.
    monkeypatch.setattr(backbone, "forward", lambda *a, answers=None, **k: forward(*a, **k))
    assert not can_share_prefix(model)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 4)), max_size=30), st.integers(1, 400))
def test_groups_stay_together_where_they_fit(drawn, budget):
    lengths, names = [length for length, _ in drawn], [name for _, name in drawn]
    batches = split_micro_batches(lengths, budget, names)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[position] for position in batch) <= budget
    for name in set(names):
        members = [position for position in range(len(names)) if names[position] == name]
        if len(members) * max(lengths[position] for position in members) <= budget:
            assert sum(any(position in batch for position in members) for batch in batches) == 1
