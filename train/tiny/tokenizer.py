"""The tokenizer of the tiny policy: a word of the office is one token, a digit is one token, and other text is one token per byte.

It is a byte-level BPE without merges: a piece of text in the vocabulary is one token (`ignore_merges`), any other piece becomes the
tokens of its bytes. Nothing is trained, and every text is encoded and decoded without loss.
"""

import json
from pathlib import Path
from typing import Any

from ...environments.workplace_mini import MiniEnvironment

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# The policy reads and writes these tags as text: they must survive decoding, so they are not special tokens.
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# A word with the space before it, one digit, a run of signs with the space before it, or one white-space character.
PIECES = r" ?[A-Za-z_]+|\d| ?[^\sA-Za-z_\d]+|\s"
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def build_tokenizer() -> Any:
    """The tokenizer with its chat template, as a transformers fast tokenizer."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pieces = sorted({piece for text in _corpus() for piece, _ in splitter.pre_tokenize_str(text)})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [piece for piece in pieces if len(piece) > 1]
    tokens = [*SPECIAL, *TAGS, *alphabet, *words]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE.read_text(),
        model_max_length=2048,
    )


def _corpus() -> list[str]:
    """Texts that together contain every word of the office, in requests, states, calls, tools and results."""
    office = MiniEnvironment(seed=0, n_train=900)
    texts = [
        "system",
        "user",
        "assistant",
        '{"name": "", "arguments": {}}',
        "Done. Error: Nothing found. Unknown not found.",
    ]
    for task in office.tasks("train"):
        calls = [f'{{"name": "{call["name"]}", "arguments": {call["arguments"]}}}' for call in task.ground_truth]
        texts += [task.messages[0].text or "", json.dumps(task.state), *calls]
        texts += [
            f"{tool['function']['name']}({', '.join(tool['function']['parameters']['required'])})"
            for tool in task.tools
        ]
    return texts
