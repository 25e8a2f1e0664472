"""Secrets in records: `--redact` replaces what looks like one before a record is read, so that neither the store nor the quarantine holds it.

Known forms of keys are replaced wherever they stand, and the values of fields and assignments whose name says that they are secret.
"""

import re
from collections import Counter
from typing import Any

_KEYS = {
    "private_key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    "anthropic_key": r"\bsk-ant-[\w-]{16,}",
    "openai_key": r"\bsk-(?:proj-|svcacct-|or-v1-)?[\w-]{20,}",
    "github_token": r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,})",
    "gitlab_token": r"\bglpat-[\w-]{16,}",
    "aws_key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "google_key": r"\bAIza[\w-]{30,}|\bya29\.[\w-]{20,}",
    "slack_token": r"\bxox[abeoprs]-[\w-]{10,}",
    "stripe_key": r"\b[rs]k_(?:live|test)_\w{16,}",
    "hub_token": r"\bhf_[A-Za-z0-9]{20,}",
    "package_token": r"\bnpm_[A-Za-z0-9]{30,}|\bpypi-[\w-]{40,}",
    "langfuse_key": r"\b[sp]k-lf-[\w-]{16,}|\blsv2_(?:pt|sk)_\w{16,}",
    "jwt": r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+",
    "bearer": r"(?i)(?<=\bbearer )[\w.~+/=-]{12,}",
    "url_password": r"(?<=://)[^\s/:@\"']+:[^\s/@\"']+(?=@)",
}
_SECRET_NAME = (
    r"(?:[a-z0-9]+[_-])*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credentials?)"
)
# The name, an assignment, and a value that is no reference to another place ($VAR, <placeholder>, os.environ[…], a call).
_ASSIGNED = re.compile(
    rf"(?i)(\b{_SECRET_NAME}\b\\?[\"']?\s*[:=]\s*)(?:(\\?[\"'])([^\"'\\\s$<{{]{{6,}})(?=\\?[\"'])|([^\s\"'\\$<{{(\[,;]{{8,}})(?![\w.]*[(\[]))"
)
_FORMS = {name: re.compile(pattern, re.DOTALL) for name, pattern in _KEYS.items()}
_FIELD = re.compile(rf"(?i){_SECRET_NAME}|authorization|cookie|set-cookie")
_PLACEHOLDER = re.compile(r"(?i)\[redacted:\w+\]|none|null|true|false|x+|\*+|\d+")


class Redactor:
    """Replaces secrets in JSON values.

    Attributes:
        found: How many were replaced, by kind.
    """

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def value(self, value: Any) -> Any:
        """The value with `[REDACTED:kind]` in the place of each secret in its texts."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {name: self._field(name, item) for name, item in value.items()}
        return value

    def text(self, text: str) -> str:
        """The text without its secrets."""
        for kind, form in _FORMS.items():
            text, count = form.subn(f"[REDACTED:{kind}]", text)
            self.found[kind] += count
        return _ASSIGNED.sub(self._assigned, text)

    def _field(self, name: Any, item: Any) -> Any:
        if isinstance(item, str) and item and isinstance(name, str) and _FIELD.fullmatch(name) and not _PLACEHOLDER.fullmatch(item):  # fmt: skip
            self.found["named_secret"] += 1
            return "[REDACTED:named_secret]"
        return self.value(item)

    def _assigned(self, found: re.Match[str]) -> str:
        before, quote, quoted, bare = found.groups()
        if _PLACEHOLDER.fullmatch(quoted or bare):
            return found[0]
        self.found["named_secret"] += 1
        return f"{before}{quote or ''}[REDACTED:named_secret]"
