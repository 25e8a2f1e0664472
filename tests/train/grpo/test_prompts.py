"""Which prompts a step uses."""

from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.train.grpo.prompts import prompts_of_step
from rollhouse.transform.materialize import PromptSet


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 5))
def test_an_epoch_gives_every_prompt_at_most_once_and_misses_less_than_a_batch(n, size, seed):
    items = list(range(n))
    batches = n // min(size, n)
    epoch = [item for step in range(1, batches + 1) for item in prompts_of_step(items, step, size, seed)]
    assert len(epoch) == len(set(epoch)) > n - min(size, n)
    assert all(len(prompts_of_step(items, step, size, seed)) == min(size, n) for step in range(1, 3 * batches))


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 5))
def test_a_curriculum_reaches_its_end_before_a_prompt_comes_again(n, size, seed):
    items = PromptSet(range(n))  # type: ignore[arg-type]
    items.in_order = True
    steps = -(-n // min(size, n))
    taken = [item for step in range(1, steps + 1) for item in prompts_of_step(items, step, size, seed)]
    assert taken[:n] == list(range(n)) and taken[n:] == list(range(len(taken) - n))
    assert all(len(set(prompts_of_step(items, step, size, seed))) == min(size, n) for step in range(1, 4 * steps))


def test_order_depends_on_seed_and_epoch_alone():
    items = [f"task {i}" for i in range(20)]
    steps = [prompts_of_step(items, step, 8, seed=1) for step in (1, 2, 3, 4)]
    assert steps == [prompts_of_step(items, step, 8, seed=1) for step in (1, 2, 3, 4)]
    assert steps[0] != prompts_of_step(items, 1, 8, seed=2)
    assert steps[0] + steps[1] != steps[2] + steps[3]
