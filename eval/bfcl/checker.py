"""A handle on the process that checks answers: time limits, restarts, and never more than one case lost."""

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...store.errors import EvaluationError, MissingExtra

INSTALL = (
    "pip install --no-deps bfcl-eval==2026.3.23 tree_sitter==0.21.3 tree-sitter-java==0.21.0 "
    "tree-sitter-javascript==0.21.4 tenacity"
)
ANSWER_BYTES = 1 << 20  # the longest gold answer has 2 KB
START_S = 60.0


@dataclass(frozen=True)
class Verdict:
    """What the benchmark says of one answer.

    Attributes:
        error_type: The benchmark's own name for the failure, or `checker_timeout`, `checker_died`, `checker_error:…`,
            `answer_too_long`; None when the answer is right.
        error: A sentence or list about it, at most 500 characters; "" when the answer is right.
    """

    passed: bool
    error_type: str | None = None
    error: str = ""


class Checker:
    """Serves cases and verdicts from a guarded process: `with Checker() as checker: checker.check(category, id, calls)`.

    The process is isolated (no environment, own folder, bounded memory and CPU time), gets JSON and evaluates none of it.
    One that hangs or dies is replaced and the case it was given fails. Not safe to use from two threads at once.

    Args:
        case_s: Seconds one request may take.
        total_s: Seconds all requests together may take; then EvaluationError, and what was judged before stays valid.

    Raises MissingExtra when bfcl-eval or a package it needs is not installed.
    """

    def __init__(self, case_s: float = 10.0, total_s: float = 3600.0) -> None:
        require_bfcl()
        self.case_s = case_s
        self.total_s = total_s
        self.spent_s = 0.0
        self.restarts = -1
        self._folder = tempfile.TemporaryDirectory(prefix="rollhouse-bfcl-")
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def __enter__(self) -> "Checker":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._folder.cleanup()

    def cases(self, category: str, limit: int | None = None) -> list[dict[str, Any]]:
        """The cases of a category (`id`, `question`: list of turns of messages, `function`), all or a fixed slice."""
        reply = self._ask({"op": "cases", "category": category, "limit": limit}, START_S)
        if isinstance(reply, str):
            raise EvaluationError(f"The BFCL process gave no cases of {category} ({reply}).", "Run it again.")
        return reply["cases"]

    def check(self, category: str, case_id: str, calls: list[tuple[str, str]]) -> Verdict:
        """Judges one answer. `calls` are (function name, JSON text of the arguments), in order; empty for none."""
        request = {"op": "check", "category": category, "id": case_id, "calls": calls}
        if sum(len(name) + len(arguments) for name, arguments in calls) > ANSWER_BYTES:
            return Verdict(False, "answer_too_long", f"more than {ANSWER_BYTES} characters of calls")
        if self.spent_s > self.total_s:
            raise EvaluationError(
                f"Checking BFCL answers took more than {self.total_s:.0f} s in all.",
                "Run the same command again: it goes on after the last judged case.",
            )
        reply = self._ask(request, self.case_s)
        if isinstance(reply, str):
            return Verdict(False, reply, f"the checker gave no verdict within {self.case_s:g} s")
        return Verdict(reply["valid"], reply["error_type"], reply["error"])

    def _ask(self, request: dict[str, Any], seconds: float) -> Any:
        """The reply, or `checker_timeout` / `checker_died` after replacing the process."""
        started = time.monotonic()
        try:
            process = self._process or self._start()
            assert process.stdin is not None
            # JSON text escapes every line break, so a request is one line whatever a policy wrote.
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            return self._read(process, seconds)
        except TimeoutError:
            self._stop()
            return "checker_timeout"
        except (EOFError, BrokenPipeError):
            self._stop()
            return "checker_died"
        finally:
            self.spent_s += time.monotonic() - started

    def _start(self) -> subprocess.Popen[bytes]:
        folder = self._folder.name
        # -I: neither PYTHON* variables nor the working directory decide what is imported.
        command = [sys.executable, "-I", str(Path(__file__).with_name("worker.py")), str(self.case_s)]
        environment = {"BFCL_PROJECT_ROOT": folder, "HOME": folder, "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches us, and we stop it
        )
        self._unread = b""
        self.restarts += 1
        try:
            greeting = self._read(self._process, START_S)
        except (TimeoutError, EOFError) as error:
            self._stop()
            raise EvaluationError("The process that checks BFCL answers did not start.", "Run it again.") from error
        if "import_error" in greeting:
            self._stop()
            raise missing(f"bfcl-eval does not import: {greeting['import_error']}.")
        return self._process

    def _read(self, process: subprocess.Popen[bytes], seconds: float) -> Any:
        """One line of JSON. Raises TimeoutError or EOFError."""
        assert process.stdout is not None
        deadline = time.monotonic() + seconds
        poller = select.poll()  # select.select fails on descriptors past 1023
        poller.register(process.stdout, select.POLLIN)
        while b"\n" not in self._unread:
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            chunk = os.read(process.stdout.fileno(), 1 << 20)
            if not chunk:
                raise EOFError
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # It holds nothing worth a goodbye. The group is its own (start_new_session) and it is not reaped yet.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def require_bfcl() -> None:
    """Raises MissingExtra when bfcl-eval is not installed."""
    if importlib.util.find_spec("bfcl_eval") is None:
        raise missing("bfcl-eval is not installed, so there is nothing to judge BFCL answers with.")


def missing(message: str) -> MissingExtra:
    """What to install."""
    return MissingExtra(message, f"Install it without its vendor packages: {INSTALL}")
