"""The container runtime of this machine: Docker or Podman, whichever answers."""

import shutil
import subprocess
from functools import cache

from .errors import ConfigError, one_line

_ENGINES = ("docker", "podman")


@cache
def container_engine() -> str:
    """The name of the first runtime that answers. Raises ConfigError, with the reason, when none does."""
    reasons = []
    for name in _ENGINES:
        if shutil.which(name) is None:
            continue
        try:
            tried = subprocess.run([name, "ps", "--quiet"], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            reasons.append(f"{name}: {one_line(error, 200)}")
            continue
        if tried.returncode == 0:
            return name
        reasons.append(f"{name}: {one_line(tried.stderr or f'exit status {tried.returncode}', 200)}")
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise ConfigError(f"Neither docker nor podman runs containers on this machine{why}.", "Install one of them, or start its service.")  # fmt: skip
