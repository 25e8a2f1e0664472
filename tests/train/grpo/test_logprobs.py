"""Logprobs at sampled positions against the model's full logits."""

import pytest
import torch
from rollhouse.train.grpo.learner.batch import collate
from rollhouse.train.grpo.learner.logprobs import Picked, token_logprobs


def load(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_equal_to_log_softmax_of_the_full_logits(random_model, make_samples):
    model, samples = load(random_model), make_samples(5)
    batch = collate(samples)
    logprobs, entropies = token_logprobs(model, batch.input_ids, batch.mask, temperature=0.7)
    assert logprobs[~batch.mask].count_nonzero() == entropies[~batch.mask].count_nonzero() == 0
    for row, sample in enumerate(samples):
        # One by one and unpadded, so that this also shows that padding changes nothing.
        ids = torch.tensor([[*sample.prompt_ids, *sample.token_ids]])
        expected = (model(ids).logits[0, :-1] / 0.7).log_softmax(-1)
        picked = expected.gather(-1, ids[0, 1:, None])[:, 0]
        mask = batch.mask[row, : sample.length - 1]
        torch.testing.assert_close(logprobs[row, : sample.length - 1][mask], picked[mask], atol=2e-6, rtol=0)
        entropy = -(expected.exp() * expected).sum(-1)
        torch.testing.assert_close(entropies[row, : sample.length - 1][mask], entropy[mask], atol=5e-6, rtol=0)


def test_chunks_change_neither_value_nor_gradient(random_model, make_samples):
    batch = collate(make_samples(5))
    results = []
    for chunk_tokens in (None, 3):
        model = load(random_model)
        logprobs, entropies = token_logprobs(model, batch.input_ids, batch.mask, chunk_tokens=chunk_tokens)
        logprobs.sum().backward()
        results.append((logprobs, entropies, *[parameter.grad for parameter in model.parameters()]))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked, atol=2e-5, rtol=1e-5)


def test_nothing_sampled(random_model, make_samples):
    batch = collate(make_samples(2))
    logprobs, _ = token_logprobs(load(random_model), batch.input_ids, torch.zeros_like(batch.mask))
    assert logprobs.count_nonzero() == 0


@pytest.mark.parametrize("entropy_grad", [False, True])
def test_the_gradient_that_is_written_out_is_the_one_of_finite_differences(entropy_grad):
    torch.manual_seed(0)
    logits = (4 * torch.randn(5, 11, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(0, 11, (5,))
    wanted = slice(None) if entropy_grad else slice(1)
    assert torch.autograd.gradcheck(lambda logits: Picked.apply(logits, targets, entropy_grad)[wanted], (logits,))
    assert Picked.apply(logits, targets, entropy_grad)[1].requires_grad == entropy_grad


def test_entropies_are_not_rounded_where_the_model_computes_in_bfloat16():
    logits = 3 * torch.randn(4, 600)
    targets = torch.zeros(4, dtype=torch.int64)
    expected = torch.distributions.Categorical(logits=logits).entropy()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(Picked.apply(logits, targets, False)[1], expected)
