"""What each architecture is checked for; a check raises where it fails. The other side is always plain transformers, from the folder."""

import asyncio
import random
from contextlib import closing
from functools import lru_cache
from math import isnan
from pathlib import Path
from typing import Any

from rollhouse.policies.engines.base import TokenEngine
from rollhouse.train.config import LoraConfig
from rollhouse.train.grpo.config_loss import LossConfig
from rollhouse.train.grpo.config_policy import PolicyConfig
from rollhouse.train.grpo.learner.batch import TrainSample
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.learner.settings import LearnerSettings

VOCABULARY = 263
CLOSE = 1e-4
"""Largest difference of a float32 logprob, with weights that are spread wider than trained ones."""
ROUNDED = 0.1
"""Largest mean difference of a logprob between an engine in bfloat16 and a learner in float32."""


def open_learner(folder: Path, **policy: Any) -> Learner:
    """A learner whose loss is the policy gradient: no clip, no correction for an engine."""
    settings = PolicyConfig.model_validate({"model_name": str(folder), "max_grad_norm": 1e9, **policy})
    return Learner(str(folder), LearnerSettings(settings, loss_fn=LossConfig(use_importance_sampling_correction=False)))


@lru_cache(maxsize=1)
def fresh_learner(folder: Path) -> Learner:
    """One that no check trains."""
    return open_learner(folder)


def make_samples() -> list[TrainSample]:
    """A group of three answers of unequal lengths behind one prompt of more than a window, and one of another prompt."""
    rng = random.Random(0)

    def tokens(n: int) -> list[int]:
        return [rng.randrange(3, VOCABULARY) for _ in range(n)]

    prompt, samples = tokens(24), []
    for number, (before, length) in enumerate(((prompt, 9), (prompt, 17), (prompt, 12), (tokens(7), 11))):
        mask = [1] * length
        mask[3:5] = [0, 0]
        samples.append(
            TrainSample(f"r{number}", before, tokens(length), mask, [-3.0] * (length - 2), rng.uniform(-2, 2))
        )
    return samples


@lru_cache(maxsize=1)
def plain_model(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def plain_logprobs(model: Any, prompt: Any, tokens: Any) -> Any:
    """[T] with a gradient: the logprob of each of `tokens`."""
    import torch

    ids = torch.tensor([[*prompt, *tokens]])
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    return logits.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :, 0]


def largest_gap(folder: Path, found: list[list[float]]) -> float:
    """Between logprobs of all tokens of make_samples and the folder's own."""
    return gap(own_logprobs(folder), found)


def own_logprobs(folder: Path) -> list[list[float]]:
    """Of all tokens of make_samples, by plain transformers in float32."""
    import torch

    model = plain_model(folder)
    with torch.no_grad():
        return [plain_logprobs(model, sample.prompt_ids, sample.token_ids).tolist() for sample in make_samples()]


def gap(one: list[list[float]], other: list[list[float]], mean: bool = False) -> float:
    """The largest difference of two logprobs, or the mean one; NaN where one is."""
    gaps = [abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(gaps) / len(gaps) if mean or any(map(isnan, gaps)) else max(gaps)


def sequences() -> list[tuple[Any, Any]]:
    return [(sample.prompt_ids, sample.token_ids) for sample in make_samples()]


def assert_close(gap: float, limit: float = CLOSE) -> None:
    assert gap <= limit, f"differs by {gap:.3g}"  # also for NaN


def logprobs(folder: Path, scratch: Path) -> None:
    """The learner's logprobs equal the model's own, padded together and one by one."""
    assert_close(largest_gap(folder, fresh_learner(folder).logprobs(sequences())))


def gradient(folder: Path, scratch: Path) -> None:
    """The gradient of the policy gradient loss equals autograd's through the model's own forward."""
    assert_close(gradient_gap(folder, open_learner(folder, shared_prefix=False)), 1e-3)


def gradient_gap(folder: Path, learner: Learner) -> float:
    """Norm of the gradient's difference over its own norm."""
    import torch

    samples = make_samples()
    learner.step(samples, [[0, 1, 2], [3]], before_update=_Keep(learner))
    ours: dict[str, Any] = learner.kept  # type: ignore[attr-defined]
    model = plain_model(folder)
    model.zero_grad()
    n_tokens = sum(sample.n_sampled for sample in samples)
    for sample in samples:
        mask = torch.tensor(sample.loss_mask, dtype=torch.bool)
        picked = plain_logprobs(model, sample.prompt_ids, sample.token_ids)[mask]
        (-sample.advantage * picked.sum() / n_tokens).backward()
    own = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert set(own) <= set(ours)
    apart = sum(float((ours[name].double() - own[name]).square().sum()) for name in own)
    return (apart / sum(float(grad.double().square().sum()) for grad in own.values())) ** 0.5


class _Keep:
    """Keeps a learner's gradient before the weights change."""

    def __init__(self, learner: Any) -> None:
        self.learner = learner

    def __call__(self) -> None:
        named = self.learner.model.named_parameters()
        self.learner.kept = {name: p.grad.clone() for name, p in named if p.grad is not None}


def shared_prompts(folder: Path, scratch: Path) -> str | None:
    """Answers behind one prompt score as they do alone; "-" where each has a row of its own."""
    import torch
    from rollhouse.train.grpo.learner.layout import shared_layout
    from rollhouse.train.grpo.learner.logprobs import TokenScorer

    learner = fresh_learner(folder)
    if learner._cost is None:
        return "-"
    samples = make_samples()[:3]
    with torch.no_grad():
        found, _ = TokenScorer(learner.model)(shared_layout(samples, [[0, 1, 2]]))
        own = [plain_logprobs(plain_model(folder), s.prompt_ids, s.token_ids)[torch.tensor(s.loss_mask) > 0] for s in samples]  # fmt: skip
    assert_close(float((found - torch.cat(own)).abs().max()))
    return None


def adapters(folder: Path, scratch: Path) -> None:
    """Adapters of the default targets are trained, and merged into the checkpoint."""
    checkpoint_of(open_learner(folder, shared_prefix=False, lora=LoraConfig(rank=4)), folder, scratch / "adapters")


def checkpoint(folder: Path, scratch: Path) -> None:
    """What is saved is the trained model, with the names, shapes and dtypes of the folder that it was opened from."""
    checkpoint_of(open_learner(folder, shared_prefix=False), folder, scratch / "checkpoint")


def checkpoint_of(learner: Learner, folder: Path, place: Path) -> None:
    from rollhouse.policies.models import tensor_dtypes

    nudge(learner)
    learner.save_pretrained(str(place))
    assert tensor_dtypes(place) == tensor_dtypes(folder)
    assert_close(largest_gap(place, learner.logprobs(sequences())))
    assert largest_gap(folder, learner.logprobs(sequences())) > 1e-3, "nothing was trained"


def nudge(learner: Learner) -> None:
    """Changes everything that is trained, as steps would."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in learner._trained().values():
            size = parameter.std().clamp(min=0.1) if parameter.numel() > 1 else 1.0
            parameter.add_(torch.randn_like(parameter) * 0.05 * size)


def torch_engine(folder: Path, scratch: Path) -> None:
    """The torch engine scores as the learner, before and after a push."""
    from rollhouse.policies.engines.torch_engine import TorchEngine

    with closing(TorchEngine(folder, 512)) as engine:
        pushed(folder, engine, scratch)


def pushed(folder: Path, engine: TokenEngine, scratch: Path, rounded: bool = False) -> None:
    """An engine scores as the learner: as it was opened, after two pushes into one file, and with the folder's weights again.

    `rounded`: it computes in low precision, where the mean difference is judged.
    """
    learner, file = open_learner(folder, shared_prefix=False), str(scratch / "weights.safetensors")
    limit = ROUNDED if rounded else 1e-3

    def apart(expected: list[list[float]]) -> float:
        return gap(asyncio.run(scores(engine)), expected, rounded)

    before = learner.logprobs(sequences())
    assert_close(apart(before), limit)
    for version in (1, 2):
        nudge(learner)
        learner.save_weights(file)
        asyncio.run(engine.load_weights(file, version))
        assert_close(apart(learner.logprobs(sequences())), limit)
    assert apart(before) > limit, "nothing was pushed"
    asyncio.run(engine.load_weights(str(folder), 3))
    assert_close(apart(before), limit)


async def scores(engine: TokenEngine) -> list[list[float]]:
    """The engine's logprobs of the tokens of make_samples."""
    return [(await engine.score([*prompt, *tokens]))[len(prompt) :] for prompt, tokens in sequences()]


QUICK = {
    "logprobs": logprobs,
    "gradient": gradient,
    "shared prompts": shared_prompts,
    "adapters": adapters,
    "checkpoint": checkpoint,
    "torch engine": torch_engine,
}
"""Checks of a part of a second each, by their column in the table."""
