"""A viewer for the time of another command: it takes a free port, prints its address, and ends when its stdin does.

`python -m rollhouse.view.child STORE`
"""

import os
import signal
import sys
import threading

from .run import serve


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()  # the command that started this process has ended, however it ended
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    serve(
        [sys.argv[1]], "127.0.0.1", 0, None, opens=False, read_only=False, announce=lambda url: print(url, flush=True)
    )
