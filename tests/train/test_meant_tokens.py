"""What is trained is what was meant, token by token: random conversations in every template that TRL ships and in ours."""

import json
from pathlib import Path

import pytest
import trl
from rollhouse.base.errors import ConfigError
from rollhouse.policies.chat import ChatFormat
from rollhouse.tests.policies.templates import HABITS
from rollhouse.tests.policies.test_published_templates import chat_of
from rollhouse.tests.random_model import TEMPLATE, byte_tokenizer
from rollhouse.train.tiny.tokenizer import build_tokenizer
from rollhouse.train.tokens import Side, Tokenizing
from rollhouse.transform.materialize import Pair, Trajectory

from .slow_renderer import TOOL, conversation, meant

PUBLISHED = sorted(file.stem for file in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
OURS = {name: habit.template() for name, habit in HABITS.items()} | {"test": TEMPLATE}
HEADERS = {"diffusion_gemma": "<|turn>model\n", "diffusion_gemma_training": "<|turn>model\n"}
SEEDS = 4


def trajectory(chat: ChatFormat, prompt, completion) -> Trajectory:
    tools = json.dumps([TOOL]) if chat.template.renders_tools else "[]"
    return Trajectory("r", "t", prompt, tools, completion, None, None, None, None, None, None)


def turns(chat: ChatFormat, side: Side) -> list[tuple[str, str]]:
    """(everything before, what is learned) of each sequence of learned tokens."""
    found = []
    for row in side:
        ids, mask = row.prompt_ids + row.response_ids, [0] * len(row.prompt_ids) + row.mask
        edges = [at for at in range(1, len(mask) + 1) if (mask[at] if at < len(mask) else 0) != mask[at - 1]]
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            found.append((chat.tokenizer.decode(ids[:start]), chat.tokenizer.decode(ids[start:end])))
    return found


def check(chat: ChatFormat, header: str = "") -> int:
    """Compares with what was meant. Returns how many conversations can be shown."""
    shown = 0
    for seed in range(SEEDS):
        prompt, completion = conversation(seed, chat)
        wanted = meant(chat, prompt, completion, header)
        tokens = Tokenizing(chat, 1_000_000)
        side = tokens.rows(trajectory(chat, prompt, completion))
        if wanted is None:
            assert side == [] and sum(tokens.left_out.values()) == 1
            continue
        assert turns(chat, side) == wanted, seed
        shown += 1
        # A pair whose sides part after the first message: what they share belongs to the prompt and is not learned.
        longer = trajectory(chat, (*prompt, completion[0]), completion[1:] or completion)
        sides = Tokenizing(chat, 1_000_000).pair(Pair(longer, longer))
        if sides is not None:
            expected = meant(chat, longer.prompt, longer.messages, header)
            assert turns(chat, sides[0]) == turns(chat, sides[1]) == expected
    return shown


@pytest.mark.parametrize("name", PUBLISHED)
def test_in_a_published_template(name: str) -> None:
    try:
        chat = chat_of(name)
    except ConfigError:
        pytest.skip("rollhouse refuses this template")
    assert check(chat, HEADERS.get(name, "")) >= 1


@pytest.mark.parametrize("name", OURS)
def test_in_a_template_of_ours(name: str) -> None:
    assert check(ChatFormat(byte_tokenizer(OURS[name]))) >= 1


def test_in_the_tiny_policy_s_template() -> None:
    chat = ChatFormat(build_tokenizer())
    assert check(chat) >= 1


def test_a_turn_begins_where_its_context_ends_though_a_tokenizer_joins_the_two() -> None:
    from rollhouse.store.messages import Message
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ"]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[("Ċ", "Ċ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    chat = ChatFormat(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", chat_template=TEMPLATE))
    prompt = (Message("user", "hm"),)
    (row,) = Tokenizing(chat, 100).rows(trajectory(chat, prompt, (Message("assistant", "\nso"),)))
    given = chat.render(prompt, [TOOL], generation_prompt=True)
    assert row.prompt_ids == given and chat.tokenizer.decode(row.response_ids) == "\nso<|im_end|>"
    assert chat.tokenizer.convert_tokens_to_ids("ĊĊ") not in given + row.response_ids
