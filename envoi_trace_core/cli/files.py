"""Files that a command makes for the user: into a folder, each whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from envoi_trace_core.errors import UsageError
from envoi_trace_core.suggest import did_you_mean

if TYPE_CHECKING:
    from envoi_trace_core.analysis.figures import ImageFormat

_IMAGE_FORMATS = ("png", "svg")


def image_format_of(word: str) -> ImageFormat:
    """The format that `--format` names.

    Raises:
        UsageError: There is no such format.
    """
    if word not in _IMAGE_FORMATS:
        raise UsageError(
            f"--format {word!r} is no format of charts.{did_you_mean(word, _IMAGE_FORMATS)}",
            mend="--format png, or --format svg",
        )
    return cast("ImageFormat", word)


def output_folder(folder: Path) -> Path:
    """The folder, checked but not made.

    Raises:
        UsageError: A file stands in its place.
    """
    for path in (folder, *folder.parents):
        if path.exists():
            if not path.is_dir():
                raise UsageError(f"--output {folder}: {path} is no folder", mend="name a new folder")
            break
    return folder


def file_word(text: str) -> str:
    """Any text as a part of a file's name: a trace's id may come from anywhere."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[:100]


def write_files(folder: Path, files: Mapping[str, bytes]) -> Sequence[Path]:
    """Write files into a folder, which is made; those of the same names are replaced.

    Raises:
        UsageError: They can't be written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            path = folder / name
            partial = folder / f".{name}.{os.getpid()}"
            try:
                partial.write_bytes(content)
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            paths.append(path)
    except OSError as error:
        raise UsageError(f"{folder} can't be written: {error.strerror or error}", mend="--output DIR") from error
    return paths
