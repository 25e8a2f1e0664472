"""A policy over a token engine: prompts are built from the tokens sampled before, never from text again."""

from dataclasses import replace

from ..store.messages import Message, VersionSpan
from ..store.pairing import unique_ids
from .chat import ChatFormat
from .engines.base import TokenEngine
from .types import Conversation, Sampling, Turn


class TokenPolicy:
    """A model behind a token engine. Sampled tokens are kept as they were sampled; see `chat`.

    Attributes:
        policy_id: Weights hash of the model, or run_id of the online run whose weights the engine follows.
    """

    def __init__(self, engine: TokenEngine, chat: ChatFormat, policy_id: str) -> None:
        self.engine = engine.kind
        self.token_engine = engine
        self.chat = chat
        chat.open_parser()
        self.policy_id = policy_id
        self.token_identity = (chat.tokenizer_hash, chat.template_hash)

    @property
    def version(self) -> int:
        """Optimizer steps behind the engine's weights now."""
        return self.token_engine.version

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        """Samples the next turn. A conversation that fills the context returns an empty turn with stop_reason `length`.

        A `sampling.seed` is the rollout's: the turn's number is added to it.
        """
        self._render_what_is_new(conversation)
        assert conversation.prompt_ids is not None
        seen = conversation.prompt_ids + conversation.token_ids
        room = self.token_engine.max_model_len - len(seen)
        if room < 1:
            version = self.token_engine.version
            return Turn(Message("assistant", ""), [], [], (VersionSpan(0, version),), "length")
        turns = [message for message in conversation.messages if message.role == "assistant"]
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + len(turns))
        # A shared engine may have a longer context than this handle's max_model_len.
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        generation = await self.token_engine.generate(seen, sampling)
        start = len(conversation.token_ids)
        conversation.token_ids += generation.token_ids
        conversation.loss_mask += [1] * len(generation.token_ids)
        conversation.logprobs += generation.logprobs
        conversation.routes = generation.routes
        for span in generation.version_spans:
            if not conversation.version_spans or conversation.version_spans[-1].version != span.version:
                conversation.version_spans.append(VersionSpan(start + span.start, span.version))
        first_call = sum(len(message.tool_calls) for message in turns)
        message, failures = self.chat.parse(generation.token_ids, first_call, conversation.task.tools, seen)
        return Turn(
            unique_ids(message, [*conversation.task.messages, *conversation.messages]),
            generation.token_ids,
            generation.logprobs,
            generation.version_spans,
            generation.stop_reason,
            failures,
        )

    def _render_what_is_new(self, conversation: Conversation) -> None:
        if conversation.prompt_ids is None:
            conversation.prompt_ids = self.chat.prompt_ids(conversation.task)
        elif conversation.messages:
            last = conversation.token_ids[-1] if conversation.token_ids else None
            suffix = self.chat.suffix_ids(conversation.task, conversation.messages, last)
            conversation.token_ids += suffix
            conversation.loss_mask += [0] * len(suffix)
