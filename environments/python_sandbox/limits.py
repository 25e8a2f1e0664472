"""The limits of a sandbox."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class SandboxLimits:
    """What the programs of one sandbox may use.

    Attributes:
        seconds: Wall clock of one call; a process may use as much CPU time, and two seconds more.
        memory_mb: Memory of all programs together, and address space of one.
        processes: Processes and threads at once.
        files_mb: Size of the working folder, of /tmp and of /dev/shm each; they are in memory.
        files: Files and folders in each of them.
        output_bytes: Output of one call, or of a file, that the policy sees.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    seconds: float = 10.0
    memory_mb: int = 512
    processes: int = 64
    files_mb: int = 16
    files: int = 2000
    output_bytes: int = 8192
