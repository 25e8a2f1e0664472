"""What a request is refused with, in the words an OpenAI client reads."""

import errno
from typing import Any

from ..base.errors import ConfigError, EngineError, RollhouseError, one_line
from ..policies.chat import TemplateError
from ..policies.engines.base import EngineGone, EngineRefused, PromptTooLong


class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        status: Of HTTP.
        code: A word a program can tell it by, such as `context_length_exceeded`.
    """

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's JSON."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}


def refused(message: str, code: str = "invalid_request") -> ApiError:
    """A request that is wrong (400)."""
    return ApiError(400, message, code)


def conflict(message: str, code: str) -> ApiError:
    """A request that comes too late or too early for its rollout (409)."""
    return ApiError(409, message, code)


def as_api_error(error: Exception) -> ApiError:
    """Whatever went wrong as an answer: the request's fault is 400, the engine's 5xx."""
    if isinstance(error, ApiError):
        return error
    said = one_line(error)
    if isinstance(error, PromptTooLong):
        return refused(said, "context_length_exceeded")
    if isinstance(error, TemplateError):
        return refused(said, "chat_template")
    if isinstance(error, (EngineRefused, ConfigError)):
        return refused(said)
    if isinstance(error, EngineGone):
        return ApiError(503, said, "engine_gone")
    if isinstance(error, EngineError):
        return ApiError(502, said, "engine_error")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ApiError(
            507, "The server's disk is full: the call was not recorded. Free some space and ask again.", "disk_full"
        )
    if isinstance(error, RollhouseError):
        return ApiError(500, said, "server_error")
    return ApiError(500, f"The server failed: {type(error).__name__}: {said}", "server_error")
