"""A harness in a container, where a runtime is: it reaches the run's engine and the rollout's folder, and ends with its rollout."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.containers import container_engine
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.tests.containers import container_image
from rollhouse.tests.harness.test_playing import play

# Posts one chat request with the shell alone.
AGENT = r"""
place=${OPENAI_BASE_URL#http://}; host=${place%%/*}; path=/${place#*/}
body='{"messages": [{"role": "user", "content": "hello"}]}'
exec 3<>/dev/tcp/${host%:*}/${host#*:}
printf 'POST %s/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\nContent-Length: %s\r\n\r\n%s' "$path" "$OPENAI_API_KEY" "${#body}" "$body" >&3
cat <&3 > "$ROLLHOUSE_FOLDER/answer"
"""
VERDICT = 'echo \'{"reward": 0.25}\' > "$ROLLHOUSE_RESULT"; ls / "$ROLLHOUSE_FOLDER"; head -c 20 "$ROLLHOUSE_TASK"'


@pytest.mark.system
def test_a_command_in_a_container(tmp_path: Path, torch_policy: TokenPolicy) -> None:
    harness: dict[str, Any] = {"runs_in": "container", "image": container_image()}
    command = ["/bin/bash", "-c", AGENT + VERDICT]
    (row,) = play(tmp_path / "one", torch_policy, {**harness, "command": command}, repeats=1)
    assert (row["error_type"], row["reward"], row["n_turns"]) == (None, 0.25, 1), row["harness"]
    assert "answer" in row["harness"]["stdout"] and "home" not in row["harness"]["stdout"]
    (row,) = play(tmp_path / "two", torch_policy, {**harness, "command": ["/bin/bash", "-c", AGENT + "sleep 600"]}, repeats=1, limit_s=20)  # fmt: skip
    assert (row["status"], row["error_type"], row["n_turns"]) == ("timeout", "timeout", 1)
    left = subprocess.run([container_engine(), "ps", "--all", "--format", "{{.Names}}"], capture_output=True, text=True)
    assert "rollhouse-" not in left.stdout
