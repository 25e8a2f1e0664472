"""Which tokens are trained on, and which of them are learned from."""

from dataclasses import replace

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.config import ChatOptions
from rollhouse.store.messages import Message, ToolCall
from rollhouse.train.tokens import Tokenizing
from rollhouse.transform.build import build_sft
from rollhouse.transform.materialize import Pair, sft_rows
from rollhouse.transform.options import SftOptions

from .conftest import N_TASKS


def tokenize(given, *settings, **named):
    tokens = Tokenizing(*settings, **named)
    return [row for each in given for row in tokens.rows(each)], tokens.check()


def numbers(counts):
    return {name: value for name, value in counts.items() if value}


def trajectories(office, run: str):
    return sft_rows(office.store, build_sft(office.store, run, "s1", SftOptions(runs=[run])))


def test_sampled_tokens_are_kept_as_they_are(office) -> None:
    given = trajectories(office, "sampled")
    rows, counts = tokenize(given, office.chat, 512)
    assert numbers(counts) == {
        "sampled": N_TASKS,
        "compared": N_TASKS,
        "retokenised_differently": N_TASKS,
        "rows": N_TASKS,
    }
    for row, trajectory in zip(rows, given, strict=True):
        assert (row.prompt_ids, row.response_ids, row.mask) == (
            trajectory.prompt_ids,
            trajectory.token_ids,
            trajectory.loss_mask,
        )


@pytest.mark.parametrize("run", ["sampled", "scripted"])
def test_what_is_learned_from_is_the_assistant_and_nothing_else(office, run) -> None:
    given = trajectories(office, run)
    rows, _ = tokenize(given, office.chat, 512)
    for row, trajectory in zip(rows, given, strict=True):
        learned = [token for token, bit in zip(row.response_ids, row.mask, strict=True) if bit]
        said = ""
        for message in trajectory.messages:
            if message.role == "assistant":
                calls = "\n".join(
                    f'<tool_call>\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n</tool_call>'
                    for call in message.tool_calls
                )
                said += (message.text or "") + calls + "<|im_end|>"
        assert office.chat.tokenizer.decode(learned) == said


def test_another_tokenizer_template_or_a_broken_prefix_means_rendering(office) -> None:
    given = trajectories(office, "sampled")[0]
    for other in (
        replace(given, tokenizer_hash="other"),
        replace(given, template_hash="other"),
        replace(given, prefix_ok=False),
        replace(given, prompt_ids=None),
    ):
        rows, counts = tokenize([other], office.chat, 512)
        assert counts["rendered"] == counts["other_model"] == 1 and office.chat.tokenizer.decode(
            rows[0].response_ids
        ).endswith("Done.<|im_end|>")


def stored(trajectory, chat):
    """The trajectory with the tokens that rendering it gives, as if they had been sampled."""
    (row,) = tokenize([trajectory], chat, 512)[0]
    return replace(
        trajectory,
        prompt_ids=row.prompt_ids,
        token_ids=row.response_ids,
        loss_mask=row.mask,
        tokenizer_hash=chat.tokenizer_hash,
        template_hash=chat.template_hash,
    )


def with_template(chat, tmp_path, change):
    """A chat format whose template is the changed text of another's."""
    file = tmp_path / "changed.jinja"
    file.write_text(change(chat.tokenizer.chat_template))
    return ChatFormat.of(chat.tokenizer.name_or_path, ChatOptions(template=str(file)))


def test_generation_marks_that_contradict_a_stored_mask_are_found(office, tmp_path) -> None:
    plain = trajectories(office, "scripted")[0]
    _, counts = tokenize([stored(plain, office.chat)], office.chat, 512)
    assert numbers(counts) == {"sampled": 1, "compared": 1, "rows": 1}, "only differences are counted"

    def without_end(template: str) -> str:
        end = "{{- '<|im_end|>' -}}\n        {%- endgeneration -%}"
        assert end in template
        return template.replace(end, "{%- endgeneration -%}{{- '<|im_end|>' -}}")

    wrong = with_template(office.chat, tmp_path, without_end)
    rows, _ = tokenize([plain], wrong, 512)
    assert wrong.stop_token_ids[0] not in learned(rows[0]), "a template's own marks are kept to"
    with pytest.raises(ConfigError, match="1 of 1 rows"):
        tokenize([stored(plain, office.chat) and replace(stored(plain, office.chat), template_hash=wrong.template_hash)], wrong, 512)  # fmt: skip


def test_a_template_without_marks_learns_the_same(office, tmp_path) -> None:
    def bare(template: str) -> str:
        return template.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")

    given = trajectories(office, "scripted")
    marked, _ = tokenize(given, office.chat, 512)
    unmarked, _ = tokenize(given, with_template(office.chat, tmp_path, bare), 512)
    assert marked == unmarked


def learned(row) -> list[int]:
    return [token for token, bit in zip(row.response_ids, row.mask, strict=True) if bit]


def test_rows_too_long_are_refused_or_left_out(office) -> None:
    given = trajectories(office, "scripted")
    with pytest.raises(ConfigError, match=rf"{N_TASKS} of {N_TASKS} rows are longer .*=10") as refused:
        tokenize(given, office.chat, 10)
    assert "policy.leave_out_too_long=true" in refused.value.fix
    with pytest.raises(ConfigError, match="longer than the model's context of 20 tokens"):
        tokenize(given, office.chat, 512, context=20)
    lengths = sorted(len(row) for row in tokenize(given, office.chat, 512)[0])
    rows, counts = tokenize(given, office.chat, lengths[0], leave_out_too_long=True)
    assert {len(row) for row in rows} == {lengths[0]} and counts["left_out"] == N_TASKS - len(rows)
    assert counts["left_out_because"] == {f"it is longer than {lengths[0]} tokens": N_TASKS - len(rows)}


def test_what_can_be_neither_used_nor_rendered_is_left_out(office, tmp_path) -> None:
    """A template that takes arguments as objects cannot show a malformed call, but what was sampled needs no template."""
    objects = with_template(
        office.chat, tmp_path, lambda text: text.replace("function.arguments if function.arguments is string else function.arguments | tojson", "function.arguments | items | list")
    )  # fmt: skip
    plain = trajectories(office, "scripted")[0]
    calls = (ToolCall("call_0", "find", '{"q": '),)
    broken = replace(plain, messages=(replace(plain.messages[0], tool_calls=calls), *plain.messages[1:]))
    rows, counts = tokenize([plain, broken], objects, 512)
    assert len(rows) == 1 and counts["left_out"] == 1 and "malformed" in next(iter(counts["left_out_because"]))
    sampled = replace(stored(plain, office.chat), messages=broken.messages, template_hash=objects.template_hash)
    rows, counts = tokenize([sampled], objects, 512)
    assert (counts["sampled"], counts["left_out"], counts["compared"]) == (1, 0, 0)
    assert rows[0].response_ids == sampled.token_ids
    with pytest.raises(ConfigError, match=r"None of 1 rows .*malformed"):
        tokenize([broken], objects, 512)


def test_a_pair_is_left_out_as_a_whole_and_reasoning_may_be_on_one_side(office) -> None:
    plain = trajectories(office, "scripted")[0]
    thought = replace(plain, messages=(replace(plain.messages[0], reasoning="hm"), *plain.messages[1:]))
    tokens = Tokenizing(office.chat, 512)
    sides = tokens.pair(Pair(plain, thought))
    assert sides is not None and sides[0][0].prompt_ids == sides[1][0].prompt_ids
    nothing = replace(plain, messages=(Message("user", "hm"),))
    assert tokens.pair(Pair(plain, nothing)) is None
    counts = tokens.check()
    assert (counts["rendered"], counts["left_out"]) == (2, 2)


def test_a_reply_that_is_not_to_be_learned_from_is_context(office) -> None:
    [plain, *_] = (each for each in trajectories(office, "scripted") if sum(one.role == "assistant" for one in each.messages) > 1)  # fmt: skip
    replies = [at for at, message in enumerate(plain.messages) if message.role == "assistant"]
    told = replace(plain, token_ids=None, loss_mask=None, prompt_ids=None)
    first = replace(told, untrained=frozenset({len(plain.prompt) + replies[0]}))
    [whole], [masked] = (Tokenizing(office.chat, 512).rows(each) for each in (told, first))
    assert masked.prompt_ids + masked.response_ids == whole.prompt_ids + whole.response_ids
    n_learned = whole.mask.index(0)
    assert masked.mask == [0] * n_learned + whole.mask[n_learned:] and any(masked.mask)
    none = replace(told, untrained=frozenset(len(plain.prompt) + at for at in replies))
    tokens = Tokenizing(office.chat, 512)
    assert tokens.rows(none) == [] and tokens.left_out == {"it has no token to learn from": 1}
