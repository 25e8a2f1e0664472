"""Options on the policy that an evaluation asks, and the policy as they choose it."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..eval.job import PolicyChoice
    from ..policies.chat_options import ChatOptions
    from ..store.lance_store import LanceStore

ModelOption = Annotated[str | None, typer.Option("--model", help="Checkpoint, run, model folder or hub name; for an endpoint, the name it serves.")]  # fmt: skip
LengthOption = Annotated[int | None, typer.Option("--max-model-len", help="Context of the engine [default: the model's, at most 4096].")]  # fmt: skip
TokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Limit on sampled tokens a model call.")]


def policy_choice(
    store: "LanceStore",
    engine: str,
    model: str | None,
    max_model_len: int | None,
    chat: "ChatOptions",
    sizes: tuple[int, int],
    mistake_rate: float = 0.0,
    seed: int = 0,
) -> "PolicyChoice":
    """The policy; a model may be named as a checkpoint or a run of the store. `sizes`: tensor and data parallel."""
    from ..eval.job import PolicyChoice
    from ..policies.opening import loads_model

    if model is not None and loads_model(engine):
        from ..train.checkpoints import resolve_model

        model = str(resolve_model(store, model))
    return PolicyChoice(engine, model, max_model_len, mistake_rate, seed, chat, *sizes)
