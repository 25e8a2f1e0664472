"""What answers a request with another OpenAI-compatible endpoint: requests go on as they came."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..policies.chat import ChatFormat
from ..policies.endpoint import OpenAIPolicy
from ..policies.engines.base import EngineRefused, PromptTooLong
from ..policies.types import Conversation, Policy
from ..store.task import Task
from .answers import Begin, Give, KnownHistory, ModelAnswer, SampledSoFar
from .errors import refused
from .request import ModelRequest
from .settled import distribution_gaps

_NOT_PASSED_ON = {"audio", "modalities", "functions", "function_call", "background", "conversation", "prompt", "prompt_logprobs", "best_of", "use_beam_search", "echo", "suffix"}  # fmt: skip
# Fields that the server itself uses, and those that the endpoint's policy fills in.
_OURS = {"model", "messages", "tools", "stream", "stream_options", "n", "metadata", "rollout_id", "return_token_ids", "return_tokens_as_token_ids", "required_prefix_token_ids"}  # fmt: skip
_UNSET = {"temperature": None, "top_p": None, "top_k": None, "min_p": None, "max_tokens": None, "seed": None}


class EndpointBackend:
    """Another OpenAI-compatible endpoint. Tokens that it returns are passed on and recorded."""

    max_model_len: int | None = None

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def accepted(self, parsed: ModelRequest, lenient: bool) -> ModelRequest:
        """The request as it is answered: every field is for the endpoint, but those whose answers could not be passed on.

        Raises ApiError for those, unless `lenient`.
        """
        lacking = [name for name in parsed.refused if name in _NOT_PASSED_ON]
        if lacking and not lenient:
            raise refused(f"`{lacking[0]}` is not supported with an endpoint behind the server: leave it out, or start the server with --lenient, which ignores it and names it in the row.", "unsupported")  # fmt: skip
        other = [f"distribution:{name}" for name in parsed.refused if name not in lacking]
        gaps = (*parsed.gaps, *(f"ignored:{name}" for name in lacking), *distribution_gaps(parsed), *other)
        return replace(parsed, gaps=gaps)

    async def chat_answer(
        self,
        known: KnownHistory,
        parsed: ModelRequest,
        so_far: SampledSoFar,
        begin: Begin | None = None,
        give: Give | None = None,
    ) -> ModelAnswer:
        """The next message, which comes as a whole. Raises EngineRefused, PromptTooLong, EngineError."""
        if begin is not None:
            await begin()
        talk = Conversation(Task("served", tuple(known.messages), parsed.tools))
        if isinstance(self.policy, OpenAIPolicy):
            turn, reply = await self.policy.answer(talk, parsed.sampling, _passed_on(parsed))
            usage, shown = reply.usage, reply.logprobs
        else:
            limit = parsed.sampling.max_tokens if parsed.max_tokens is None else parsed.max_tokens
            turn = await self.policy.respond(talk, replace(parsed.sampling, max_tokens=limit))
            usage = shown = None
        if turn.token_ids == []:
            raise PromptTooLong("The endpoint's context is full.", "Send a shorter conversation.")
        known_tokens = talk.prompt_ids is not None and turn.token_ids is not None
        return ModelAnswer(
            turn.message,
            talk.prompt_ids if known_tokens else None,
            turn.token_ids if known_tokens else None,
            turn.logprobs if known_tokens else None,
            turn.version_spans,
            turn.stop_reason,
            turn.parse_failures,
            turn.retries,
            talk.token_identity,
            talk.logprobs_mode,
            usage=usage,
            shown_logprobs=shown,
        )

    def cancelled_answer(self, known: KnownHistory, parsed: ModelRequest, so_far: SampledSoFar) -> ModelAnswer | None:
        """None: the tokens of an endpoint come with the whole answer."""
        return None

    async def completion_answer(
        self,
        prompt_ids: list[int],
        parsed: ModelRequest,
        so_far: SampledSoFar,
        begin: Begin | None = None,
        give: Give | None = None,
    ) -> ModelAnswer:
        """Not available; raises EngineRefused."""
        raise _not_here("/v1/completions")

    def cancelled_completion(self, parsed: ModelRequest, so_far: SampledSoFar) -> ModelAnswer | None:
        """None, as `cancelled_answer`."""
        return None

    def prompt_ids(
        self,
        known: KnownHistory,
        tools: Sequence[Mapping[str, Any]],
        generation_prompt: bool = True,
        chat: ChatFormat | None = None,
    ) -> list[int]:
        """Not available; raises EngineRefused."""
        raise _not_here("/tokenize")

    def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Not available; raises EngineRefused."""
        raise _not_here("tokenising")

    def detokenize(self, token_ids: list[int]) -> str:
        """Not available; raises EngineRefused."""
        raise _not_here("/detokenize")


def _passed_on(parsed: ModelRequest) -> dict[str, Any]:
    """Fields of the endpoint's request, exactly as the client gave them; None leaves out what the policy would send."""
    left_out = _OURS | _NOT_PASSED_ON | (set() if parsed.logprobs else {"logprobs", "top_logprobs"})
    fields = {name: value for name, value in parsed.given.items() if name not in left_out and value is not None}
    seed = {} if parsed.sampling.seed is None else {"seed": parsed.sampling.seed}  # of each of several answers
    return {**_UNSET, **fields, **seed}


def _not_here(what: str) -> Exception:
    return EngineRefused(f"{what} is not available with an endpoint behind the server.", "Use the endpoint itself.")
