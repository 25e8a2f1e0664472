"""Who answers a conversation: a token engine, or a script that plays the ground truth. For endpoints see `endpoint`."""

import json
from dataclasses import replace
from typing import Any

from ..base.errors import EngineError
from ..store.ids import hash_id
from ..store.messages import Message, ToolCall
from .chat import ChatFormat
from .engines.base import TokenEngine
from .types import Conversation, Sampling, Turn, VersionSpan

DONE = "Done."


class TokenPolicy:
    """A model behind a token engine. What it samples is kept as it was sampled; see `chat`.

    Attributes:
        policy_id: Weights hash of the model, or run_id of the online run whose weights the engine follows.
    """

    def __init__(self, engine: TokenEngine, chat: ChatFormat, policy_id: str) -> None:
        self.engine = engine.kind
        self.token_engine = engine
        self.chat = chat
        self.policy_id = policy_id
        self.token_identity = (chat.tokenizer_hash, chat.template_hash)

    @property
    def version(self) -> int:
        """Of the engine's weights."""
        return self.token_engine.version

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        """Samples the next turn. A conversation that fills the context gives an empty turn with stop_reason `length`.

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
        # An engine that others use too may have more room than its handle was asked for.
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        generation = await self.token_engine.generate(seen, sampling)
        start = len(conversation.token_ids)
        conversation.token_ids += generation.token_ids
        conversation.loss_mask += [1] * len(generation.token_ids)
        conversation.logprobs += generation.logprobs
        for span in generation.version_spans:
            if not conversation.version_spans or conversation.version_spans[-1].version != span.version:
                conversation.version_spans.append(VersionSpan(start + span.start, span.version))
        first_call = sum(len(message.tool_calls) for message in turns)
        message, failures = self.chat.parse(generation.token_ids, first_call, conversation.task.tools, seen)
        return Turn(
            message,
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


class ScriptedPolicy:
    """Plays each task's ground truth, one call a turn, and says it is done; a truth that is an answer it gives as `\\boxed{answer}`.

    With probability `mistake_rate` it stops before the last call and says it is done all the same, or gives an answer that is wrong; which
    rollouts that happens to is decided by a hash of seed, task and sample index. Truths too long for one call a turn are played several calls a turn.
    """

    engine = "scripted"
    token_identity = None
    version = 0

    def __init__(self, mistake_rate: float = 0.0, seed: int = 0, max_turns: int = 6) -> None:
        self.mistake_rate = mistake_rate
        self.seed = seed
        self.max_turns = max_turns
        self.policy_id = f"scripted-{mistake_rate:g}"

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        """The next calls of the ground truth, or the closing message. `sampling` is not used."""
        answer = conversation.task.ground_truth
        if isinstance(answer, str) and not conversation.task.tools:
            wrong = " + 1" if self._errs(conversation) else ""
            return Turn(Message("assistant", rf"The answer is \boxed{{{answer}{wrong}}}."))
        truth = self._calls(conversation)
        played = sum(len(message.tool_calls) for message in conversation.messages)
        a_turn = max(1, -(-len(truth) // max(1, self.max_turns - 1)))
        calls = truth[played : played + a_turn]
        return Turn(Message("assistant", None, calls) if calls else Message("assistant", DONE))

    def _calls(self, conversation: Conversation) -> tuple[ToolCall, ...]:
        truth = conversation.task.ground_truth
        if not isinstance(truth, list):
            raise EngineError("The scripted policy has no ground truth to play.", "Use tasks whose truth is a list of calls.")  # fmt: skip
        calls = tuple(ToolCall(f"call_{i}", call["name"], _text(call["arguments"])) for i, call in enumerate(truth))
        return calls[:-1] if calls and self._errs(conversation) else calls

    def _errs(self, conversation: Conversation) -> bool:
        if self.mistake_rate <= 0:
            return False
        draw = int(hash_id(self.seed, conversation.task.task_id, conversation.sample_index)[:8], 16)
        return draw / 2**32 < self.mistake_rate


def _text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
