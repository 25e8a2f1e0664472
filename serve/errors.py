"""Errors of requests, in the form that OpenAI clients read."""

import errno
from typing import Any

from ..base.errors import ConfigError, EngineError, RollhouseError, one_line
from ..policies.chat import TemplateError
from ..policies.engines.base import EngineGone, EngineRefused, PromptTooLong


class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        status: The HTTP status.
        code: A machine-readable name, such as `context_length_exceeded`.
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
    """An invalid request (400)."""
    return ApiError(400, message, code)


def conflict(message: str, code: str) -> ApiError:
    """A request that comes too late or too early for its rollout (409)."""
    return ApiError(409, message, code)


def as_api_error(error: Exception) -> ApiError:
    """Any exception as an answer: 400 for a fault of the request, 5xx for one of the engine."""
    if isinstance(error, ApiError):
        return error
    text = one_line(error)
    if isinstance(error, PromptTooLong):
        return refused(text, "context_length_exceeded")
    if isinstance(error, TemplateError):
        return refused(text, "chat_template")
    if isinstance(error, (EngineRefused, ConfigError)):
        return refused(text)
    if isinstance(error, EngineGone):
        return ApiError(503, text, "engine_gone")
    if isinstance(error, EngineError):
        return ApiError(502, text, "engine_error")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ApiError(
            507, "The server's disk is full: the call was not recorded. Free some space and send it again.", "disk_full"
        )
    if isinstance(error, RollhouseError):
        return ApiError(500, text, "server_error")
    return ApiError(500, f"The server failed: {type(error).__name__}: {text}", "server_error")
