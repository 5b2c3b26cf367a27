"""Runs in a "container" of the fake: what the SDK pickled is unpickled by the SDK, called, and its result pickled."""

from __future__ import annotations

import pickle
import sys
import traceback
from pathlib import Path

from modal._serialization import deserialize, serialize

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    try:
        function = deserialize((folder / "function").read_bytes(), None)
        args, kwargs = deserialize((folder / "arguments").read_bytes(), None)
        found = ("value", serialize(function(*args, **kwargs)), "")
    except Exception as error:  # noqa: BLE001 - as Modal's own entry point does
        traceback.print_exc()
        found = ("error", serialize(error), repr(error))
    partial = folder / "result.partial"
    partial.write_bytes(pickle.dumps(found))
    partial.replace(folder / "result")
