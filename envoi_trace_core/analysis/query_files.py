"""Which files a query reads: of a local storage the traces themselves; what is no trace is left out and told."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import attrs

from envoi_trace_core.errors import EnvoiTraceError
from envoi_trace_core.trace.keys import TRAJECTORIES
from envoi_trace_core.trace.reader import read_file_header
from envoi_trace_core.trace.schema import SCHEMA_VERSION, VERSION_KEY

TRACE_FILE = "trace.parquet"
_MAGIC = b"PAR1"
_TAIL_BYTES = 32 * 1024
# Thrift's compact protocol: a string of the first field (the key), one of the second (the value).
_VERSION = re.compile(re.escape(VERSION_KEY) + rb"\x18[\x03-\x10](\d{1,4}\.\d{1,8})(?!\d)")


@attrs.define(kw_only=True)
class QueryFiles:
    """The traces that a query reads."""

    files: tuple[Path, ...] = ()
    left_out: dict[str, EnvoiTraceError] = attrs.field(factory=dict)
    """By the name of a trajectory."""
    by_name: bool = False
    """Whether some were written by another minor version, and may lack columns."""

    def leave_out(self, errors: dict[Path, EnvoiTraceError]) -> None:
        """Go on without some of them."""
        self.files = tuple(file for file in self.files if file not in errors)
        self.left_out |= {file.parent.name: error for file, error in errors.items()}


def local_files(root: Path) -> QueryFiles:
    """Every trace below a local storage's root."""
    folder = root / TRAJECTORIES
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    paths = (os.path.join(folder, name, TRACE_FILE) for name in names)  # noqa: PTH118 - a thousand of them
    return checked(Path(path) for path in paths if os.path.isfile(path))  # noqa: PTH113


def checked(paths: Iterable[Path]) -> QueryFiles:
    """Those of some files that are traces, by their footers."""
    found: list[Path] = []
    left_out: dict[str, EnvoiTraceError] = {}
    versions: set[str] = set()
    for path in paths:
        version = _quick_version(path)
        if version is None or version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
            try:
                version = read_file_header(path).schema_version
            except EnvoiTraceError as error:
                left_out[path.parent.name] = error
                continue
        found.append(path)
        versions.add(version)
    return QueryFiles(files=tuple(found), left_out=left_out, by_name=len(versions) > 1)


def _quick_version(path: Path) -> str | None:
    """The schema version as it stands in the footer, without parsing all of it; None when that is not so easy.

    A thousand footers in a few hundredths of a second: parsed whole they take longer than most queries.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size_bytes = os.fstat(descriptor).st_size
            head = os.pread(descriptor, 4, 0)
            tail = os.pread(descriptor, _TAIL_BYTES, max(0, size_bytes - _TAIL_BYTES))
        finally:
            os.close(descriptor)
    except OSError:
        return None
    footer_bytes = int.from_bytes(tail[-8:-4], "little")
    if head != _MAGIC or not tail.endswith(_MAGIC) or not 0 < footer_bytes <= size_bytes - 12:
        return None
    found = _VERSION.findall(tail[-footer_bytes - 8 :])
    return found[0].decode() if len(found) == 1 else None
