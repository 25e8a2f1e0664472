"""Which tokens are trained on, and which of them are learned from."""

from dataclasses import replace

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.train.tokens import Tokenizing, marked_template
from rollhouse.transform.build import build_sft
from rollhouse.transform.materialize import sft_rows
from rollhouse.transform.options import SftOptions

from .conftest import N_TASKS


def tokenize(given, *settings, **named):
    tokens = Tokenizing(*settings, **named)
    return [tokens.row(each) for each in given], tokens.check()


def trajectories(office, run: str):
    return sft_rows(office.store, build_sft(office.store, run, "s1", SftOptions(runs=[run])))


def test_sampled_tokens_are_kept_as_they_are(office) -> None:
    given = trajectories(office, "sampled")
    rows, counts = tokenize(given, office.chat, 512)
    assert counts == {"sampled": N_TASKS, "rendered": 0, "other_model": 0, "retokenised_differently": N_TASKS}
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


def test_a_stored_mask_that_the_template_contradicts_is_found(office) -> None:
    plain = trajectories(office, "scripted")[0]
    rendered = tokenize([plain], office.chat, 512)[0][0]
    stored = replace(
        plain,
        prompt_ids=rendered.prompt_ids,
        token_ids=rendered.response_ids,
        loss_mask=rendered.mask,
        tokenizer_hash=office.chat.tokenizer_hash,
        template_hash=office.chat.template_hash,
    )
    assert tokenize([stored], office.chat, 512)[1] == {
        "sampled": 1,
        "rendered": 0,
        "other_model": 0,
        "retokenised_differently": 0,
    }
    wrong = replace(stored, loss_mask=[1 - rendered.mask[0], *rendered.mask[1:]])
    with pytest.raises(ConfigError, match="1 of 1 rows"):
        tokenize([wrong], office.chat, 512)


def test_rows_too_long_or_without_marks_are_counted_before_training(office) -> None:
    given = trajectories(office, "scripted")
    with pytest.raises(ConfigError, match=rf"{N_TASKS} of {N_TASKS} rows are longer .*=10"):
        tokenize(given, office.chat, 10)
    with pytest.raises(ConfigError, match="longer than the model's context of 20 tokens"):
        tokenize(given, office.chat, 512, context=20)
    template = office.chat.tokenizer.chat_template
    assert marked_template(office.chat) is None
    office.chat.tokenizer.chat_template = template.replace("{%- generation -%}", "").replace(
        "{%- endgeneration -%}", ""
    )
    with pytest.raises(ConfigError, match=f"{N_TASKS} of {N_TASKS} rows have no token"):
        tokenize(given, office.chat, 512)
