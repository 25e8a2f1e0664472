import asyncio
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.environments.types import Done
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.policies.types import Conversation, Sampling
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.task import Task
from rollhouse.train.tiny.base import SHIPPED, base_policy, shipped_hash
from rollhouse.train.tiny.logs import DONE, compact, script_rollout, whole
from rollhouse.train.tiny.model import build_model
from rollhouse.train.tiny.recipe import RECIPE, Recipe, Stage, recipe_hash
from rollhouse.train.tiny.tokenizer import SPECIAL, build_tokenizer
from rollhouse.train.tiny.training import train
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TOKENIZER = build_tokenizer()
TASKS = list(MiniEnvironment(n_validation=36).tasks("validation"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return base_policy(tmp_path_factory.mktemp("cache"))


def render(messages, tools=None, **options):
    return TOKENIZER.apply_chat_template([m.to_openai() for m in messages], tools=tools, tokenize=False, **options)


# The shipped weights


def test_the_shipped_weights_belong_to_the_recipe_and_are_small():
    assert shipped_hash() == recipe_hash(RECIPE, tokenizer=TOKENIZER)
    assert SHIPPED.stat().st_size <= 4_000_000


def test_the_folder_loads_and_holds_the_shipped_weights_in_full_precision(folder):
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    model, info = loaded
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32
    shipped = load_file(SHIPPED)
    assert all(torch.equal(model.state_dict()[name], tensor.float()) for name, tensor in shipped.items())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
    assert tokenizer.chat_template == TOKENIZER.chat_template
    assert model.config.eos_token_id == tokenizer.eos_token_id and model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.vocab_size == len(tokenizer)


def test_the_folder_is_made_once(folder):
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert base_policy(folder.parent) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_another_recipe_is_followed_instead_of_loading_the_shipped_weights(tmp_path, folder):
    stages = (Stage("compact", 2, 2, 2e-3), Stage("whole", 1, 2, 2e-3), Stage("logs", 2, 2, 1e-3))
    recipe = Recipe(stages, tasks=18, task_seed=5, mistake_rate=0.5, seed=1)
    seen = []
    made = base_policy(tmp_path, lambda done, total, note: seen.append((done, total, note.split(",")[0])), recipe)
    assert [(done, name) for done, _, name in seen] == [
        (1, "compact"),
        (2, "compact"),
        (3, "whole"),
        (4, "logs"),
        (5, "logs"),
    ]
    assert {total for _, total, _ in seen} == {5}
    assert made.name != folder.name
    weights, shipped = load_file(made / "model.safetensors"), load_file(folder / "model.safetensors")
    assert weights.keys() == shipped.keys() and not torch.equal(
        weights["model.norm.weight"], shipped["model.norm.weight"]
    )


def test_the_base_knows_the_calls_and_stops_early_about_as_often_as_the_script(folder):
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    call_tag, done = TOKENIZER.convert_tokens_to_ids("<tool_call>"), TOKENIZER.encode(DONE)[0]
    losses, stops = [], []
    for task in TASKS:
        example = whole(TOKENIZER, task, script_rollout(task))
        ids, learned = torch.tensor([example.token_ids]), torch.tensor(example.mask, dtype=torch.bool)
        with torch.no_grad():
            logprobs = model(ids).logits[0, :-1].log_softmax(-1)
        starts = [i for i, token in enumerate(example.token_ids) if token == call_tag and example.mask[i]]
        stops.append(logprobs[starts[-1] - 1, done].exp().item())
        assert all(logprobs[start - 1, done].exp() < 0.3 for start in starts[:-1])
        picked = logprobs.gather(-1, ids[0, 1:, None])[:, 0]
        losses.append(-picked[learned[1:]].mean().item())
    assert sum(losses) / len(losses) < 0.1
    assert sum(stops) / len(stops) == pytest.approx(RECIPE.mistake_rate, abs=0.15)


# Training


def test_a_few_steps_lower_the_loss():
    examples = [whole(TOKENIZER, task, script_rollout(task)) for task in TASKS[:9]]
    losses = train(build_model(len(TOKENIZER), seed=0), examples, steps=15, batch=4, lr=2e-3, seed=0)
    assert len(losses) == 15
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


def test_training_repeats_exactly():
    examples = compact(TOKENIZER, TASKS[0], script_rollout(TASKS[0]))
    runs = [train(build_model(len(TOKENIZER), seed=0), examples, steps=2, batch=2, lr=1e-3, seed=0) for _ in range(2)]
    assert runs[0] == runs[1]


# Tokenizer


@settings(max_examples=300)
@given(st.text())
def test_any_text_comes_back(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


def test_tags_survive_decoding_without_special_tokens():
    text = '<tool_call>\n{"name": "email_send"}\n</tool_call>'
    ids = TOKENIZER.encode(text + "<|im_end|>", add_special_tokens=False)
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text
    assert len(TOKENIZER) < 1000 and all(TOKENIZER.convert_tokens_to_ids(token) < 3 for token in SPECIAL)


def test_every_word_of_the_office_is_one_token_and_every_digit_too():
    tasks = MiniEnvironment(seed=8, n_train=90).tasks("train")
    for task in tasks:
        texts = [task.messages[0].text, json.dumps(task.state), *[call["arguments"] for call in task.ground_truth]]
        for text in texts:
            tokens = [TOKENIZER.decode([token]) for token in TOKENIZER.encode(text)]
            assert all(not token.strip().isdigit() or len(token.strip()) == 1 for token in tokens)
            assert not any(len(token) == 1 and token.isalpha() for token in tokens)


def test_a_quoted_value_is_the_same_tokens_in_request_and_call():
    def value(text: str) -> list[int]:
        return TOKENIZER.encode(text[text.index('"budget') + 1 :])[:2]

    assert value('with subject "budget review" and') == value('{"subject": "budget review"}')


# Template

words = st.text(max_size=20).filter(lambda text: not any(token in text for token in SPECIAL))
calls = st.lists(
    st.builds(lambda name, value: ToolCall("c", name, json.dumps({"x": value})), st.sampled_from(["a", "b_c"]), words),
    max_size=2,
)
assistants = st.builds(
    lambda text, made, thought: Message("assistant", text, tuple(made), reasoning=thought),
    st.one_of(st.none(), words),
    calls,
    st.one_of(st.none(), words),
)
others = st.builds(Message, st.sampled_from(["user", "tool"]), words)


@settings(max_examples=150)
@given(st.lists(st.tuples(assistants, st.lists(others, min_size=1, max_size=2)), max_size=4), st.booleans())
def test_a_longer_conversation_begins_with_a_shorter_one(rounds, with_tools):
    tools = list(TASKS[0].tools) if with_tools else None
    messages = [Message("user", "go")]
    before = render(messages, tools, add_generation_prompt=True)
    for answer, following in rounds:
        messages.append(answer)
        answered = render(messages, tools)
        assert answered.startswith(before)
        messages += following
        before = render(messages, tools, add_generation_prompt=True)
        assert before.startswith(answered)


@settings(max_examples=150)
@given(st.lists(st.one_of(assistants, others), min_size=1, max_size=6))
def test_generation_marks_cover_exactly_the_assistant_turns(messages):
    rendered = TOKENIZER.apply_chat_template(
        [message.to_openai() for message in messages], return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = list(zip(rendered["input_ids"], rendered["assistant_masks"], strict=True))
    marked = TOKENIZER.decode([token for token, mark in pairs if mark])
    turns = [render([message]) for message in messages if message.role == "assistant"]
    expected = "".join(turn.removeprefix("<|im_start|>assistant\n").removesuffix("\n") for turn in turns)
    assert marked == expected
    assert marked.count("<|im_end|>") == len(turns)


def test_arguments_are_printed_as_they_are_and_objects_as_json():
    text = '{"b":1,  "a": "é"}'
    assert text in render([Message("assistant", None, (ToolCall("c", "t", text),))])
    call = {"type": "function", "function": {"name": "t", "arguments": {"b": 1, "a": "é"}}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert '{"b": 1, "a": "é"}' in TOKENIZER.apply_chat_template([message], tokenize=False)


def test_tools_are_short_signatures():
    text = render([Message("system", "Be brief."), Message("user", "hi")], list(TASKS[0].tools)[:2])
    assert text == (
        "<|im_start|>system\nBe brief.\nemail_search(query)\nemail_send(recipient, subject, body)<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n"
    )


@pytest.mark.parametrize("mistake_rate", [0.0, 1.0])
def test_the_logs_are_what_the_scripted_policy_collects(mistake_rate):
    async def collected(task: Task) -> list[Message]:
        policy, session = ScriptedPolicy(mistake_rate), MiniEnvironment().start(task)
        conversation = Conversation(task)
        while True:
            turn = await policy.respond(conversation, Sampling())
            conversation.messages.append(turn.message)
            answer = await session.step(turn)
            if isinstance(answer, Done):
                return conversation.messages
            conversation.messages += answer

    for task in TASKS:
        assert asyncio.run(collected(task)) == script_rollout(task, omit_last=mistake_rate == 1.0)


def test_the_script_omits_its_last_call_and_says_it_is_done():
    for task in TASKS:
        good, bad = script_rollout(task), script_rollout(task, omit_last=True)
        made = [call.name for message in good for call in message.tool_calls]
        assert made == [call["name"] for call in task.ground_truth]
        assert [call.name for message in bad for call in message.tool_calls] == made[:-1]
        assert good[-1] == bad[-1] == Message("assistant", DONE)
        assert not any("Error" in (message.text or "") for message in good)
