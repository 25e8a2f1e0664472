"""How conversations become tokens and sampled text becomes calls, where the model's own folder does not settle it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError


@dataclass(frozen=True)
class ChatOptions:
    """Choices beside a model's folder; nothing in the folder is edited.

    Attributes:
        template: Path of a Jinja file used in place of the model's own chat template; None keeps the model's.
        enable_thinking: The template's setting of that name; None leaves it to the template.
        template_kwargs: Further settings of the template, by its own names.
        tool_parser: `hermes`, or the name of one of vLLM's tool parsers.
        parser_plugin: A Python file that reads tool calls, see `parsers`; None has none.
    """

    template: str | None = None
    enable_thinking: bool | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tool_parser: str = "hermes"
    parser_plugin: str | None = None

    def template_settings(self) -> dict[str, Any]:
        """What the template is called with besides messages and tools."""
        thinking = {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}
        return {**self.template_kwargs, **thinking}

    def config(self) -> dict[str, Any]:
        """For a run's configuration: what differs from the defaults, files by the hash of their content. Empty for the defaults.

        Raises ConfigError when a file is not there.
        """
        settings = {
            "chat_template_sha256": _file_hash(self.template, "--chat-template"),
            "template_kwargs": self.template_settings() or None,
            "tool_parser": None if self.tool_parser == "hermes" else self.tool_parser,
            "tool_parser_plugin_sha256": _file_hash(self.parser_plugin, "--tool-parser-plugin"),
        }
        return {name: value for name, value in settings.items() if value is not None}


def _file_hash(path: str | None, option: str) -> str | None:
    return None if path is None else hashlib.sha256(read_file(path, option)).hexdigest()


def read_file(path: str, option: str) -> bytes:
    """The bytes of a file an option names. Raises ConfigError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be read: {error.strerror}.", "Name a file that is there.") from error
