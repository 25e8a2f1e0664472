"""The experts that an engine chose, as text for a column: a NumPy array, compressed, in base64."""

import base64
import binascii
import io
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def pack_routes(routes: "np.ndarray") -> str:
    """[positions, layers, chosen] expert numbers as text."""
    import numpy as np

    file = io.BytesIO()
    np.save(file, routes, allow_pickle=False)
    return base64.b64encode(zlib.compress(file.getvalue(), 6)).decode()


def unpack_routes(text: str) -> "np.ndarray":
    """The array of pack_routes. Raises ValueError for another text."""
    import numpy as np

    try:
        return np.load(io.BytesIO(zlib.decompress(base64.b64decode(text, validate=True))), allow_pickle=False)
    except (binascii.Error, zlib.error, EOFError) as error:
        raise ValueError(f"no routes of experts: {error}") from error
