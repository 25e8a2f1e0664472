"""Options on how conversations become tokens, where the model's own folder does not settle it."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..policies.chat_options import ChatOptions

TemplateOption = Annotated[str | None, typer.Option("--chat-template", help="Jinja file used in place of the model's chat template.")]  # fmt: skip
ThinkingOption = Annotated[bool | None, typer.Option("--enable-thinking/--no-enable-thinking", help="The template's setting of that name.")]  # fmt: skip
ParserOption = Annotated[
    str, typer.Option("--tool-parser", help="hermes, one of vLLM's tool parsers, or FILE.py:name.")
]
TensorOption = Annotated[int, typer.Option("--tensor-parallel-size", min=1, help="GPUs a copy of the model is split over (vllm).")]  # fmt: skip
DataOption = Annotated[int, typer.Option("--data-parallel-size", min=1, help="Copies of the model (vllm).")]


def chat_options(template: str | None, thinking: bool | None, parser: str) -> "ChatOptions":
    """The options as given."""
    from ..policies.chat_options import ChatOptions

    return ChatOptions(template, thinking, tool_parser=parser)
