"""Chat settings beside a model's folder: the template, its settings, and the tool parser."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError
from ..base.plugins import parse_plugin, plugin_hash


@dataclass(frozen=True)
class ChatOptions:
    """Choices beside a model's folder; nothing in the folder is edited.

    Attributes:
        template: Path of a Jinja file used in place of the model's own chat template; None keeps the model's.
        enable_thinking: The template's setting of that name; None leaves it to the template.
        template_kwargs: Further settings of the template, by its own names.
        tool_parser: `hermes`, the name of one of vLLM's tool parsers, or a plug-in (`FILE.py:name`, `module:name`), see `parsers`.
    """

    template: str | None = None
    enable_thinking: bool | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tool_parser: str = "hermes"

    def template_settings(self) -> dict[str, Any]:
        """What the template is called with besides messages and tools."""
        thinking = {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}
        return {**self.template_kwargs, **thinking}

    def config(self) -> dict[str, Any]:
        """For a run's configuration: what differs from the defaults, files by the hash of their content. Empty for the defaults.

        Raises ConfigError when a file is not there.
        """
        name, digest = self._parser()
        settings = {
            "chat_template_sha256": None
            if self.template is None
            else hashlib.sha256(read_file(self.template, "--chat-template")).hexdigest(),
            "template_kwargs": self.template_settings() or None,
            "tool_parser": name,
            "tool_parser_plugin_sha256": digest,
        }
        return {name: value for name, value in settings.items() if value is not None}

    def _parser(self) -> tuple[str | None, str | None]:
        """Name of the parser (None for the default one) and hash of its file; a function `parse` of a file is known by the hash alone."""
        plugin = parse_plugin(self.tool_parser)
        if plugin is None:
            return None if self.tool_parser == "hermes" else self.tool_parser, None
        if plugin.file is None:
            return self.tool_parser, plugin_hash(self.tool_parser)
        digest = hashlib.sha256(read_file(str(plugin.file), "--tool-parser")).hexdigest()
        return None if plugin.name == "parse" else plugin.name, digest


def read_file(path: str, option: str) -> bytes:
    """The bytes of a file an option names. Raises ConfigError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be read: {error.strerror}.", "Check the path.") from error
