"""Whatever the timing, no rollout is begun that would be too old, none too early, and every step is begun once."""

from hypothesis import given
from hypothesis import strategies as st
from rollhouse.train.grpo.generation import admitted
from rollhouse.train.grpo.metrics import age, tokens_by_version
from rollhouse.train.grpo.prompts import spare_prompts


@given(last=st.integers(1, 30), max_age=st.integers(0, 6), looks=st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_a_run_with_any_timing_begins_each_step_once_in_order_and_within_the_bound(last, max_age, looks):
    """`looks`: how often admission is checked between two optimizer steps."""
    begun, version, order = 0, 0, []
    pending = list(looks)
    while version < last:
        for _ in range(max(1, pending.pop() if pending else 1)):
            for step in admitted(version, max_age, begun, last):
                assert 0 <= age(step, version) <= max_age
                order.append(step)
                begun = step
        assert begun == min(version + 1 + max_age, last), "nothing that may begin is held back"
        assert version + 1 in order, "the step to be trained has begun: no deadlock"
        assert len([step for step in order if step > version]) <= max_age + 1, "what is in flight is bounded"
        version += 1
    assert order == list(range(1, last + 1))


@given(version=st.integers(0, 60), max_age=st.integers(0, 6))
def test_newer_weights_admit_whatever_older_ones_did_and_one_step_more(version, max_age):
    assert [*admitted(version, max_age, 0, 99), version + 2 + max_age] == [*admitted(version + 1, max_age, 0, 99)]


@given(n=st.integers(1, 20), step=st.integers(1, 9), first=st.integers(0, 5), size=st.integers(0, 20))
def test_spare_prompts_are_new_ones_in_one_order_a_step(n, step, first, size):
    items = [f"prompt {number}" for number in range(n)]
    used = items[: min(first, n)]
    one = spare_prompts(items, step, used, size, seed=3)
    assert len(one) == min(size, n - len(used)) and len(set(one)) == len(one) and not set(one) & set(used)
    further = spare_prompts(items, step, [*used, *one], 2, seed=3)
    assert [*one, *further] == spare_prompts(items, step, used, size + 2, seed=3)


def test_tokens_are_counted_by_the_version_that_sampled_them():
    spans = [{"start": 0, "version": 3}, {"start": 4, "version": 5}, {"start": 5, "version": 6}]
    assert tokens_by_version(spans, [1, 1, 1, 0, 1, 0, 0, 1]) == {3: 3, 5: 1, 6: 1}
