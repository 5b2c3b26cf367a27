"""`envoi-trace export`: a trace in an interchange format."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from envoi_trace_core.cli.output import note
from envoi_trace_core.cli.reading import StorageName, StorageOpts, StorageWords, TrajectoryWord, find_trace, run_async
from envoi_trace_core.errors import UsageError

if TYPE_CHECKING:
    from envoi_trace_core.trace.reader import Trace


class Format(StrEnum):
    """What a trace can be exported to."""

    ATIF = "atif"
    JSONL = "jsonl"


def export(
    trajectory: TrajectoryWord,
    export_format: Annotated[
        Format, typer.Option("--format", help="atif: Harbor's format, version 1.8. jsonl: all of the trace, by lines.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A file that does not exist; stdout by default.", metavar="FILE"),
    ] = None,
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
) -> None:
    """Write a trace in an interchange format. `envoi-trace import` reads jsonl back."""
    if output is not None and output.exists():
        raise UsageError(f"{output} exists already", mend="name a new file")
    words = StorageWords.of(storage, storage_opt)
    trace = run_async(lambda: find_trace(trajectory, words))
    lines = _lines(trace, export_format)
    if output is None:
        for line in lines:
            sys.stdout.write(line + "\n")
    else:
        _write(output, lines)
        note(f"{trace.summary.parts} parts in {output}")


def _lines(trace: Trace, export_format: Format) -> Iterator[str]:
    if export_format is Format.ATIF:
        from envoi_trace_core.analysis.atif import to_atif

        yield json.dumps(to_atif(trace), indent=2, ensure_ascii=False)
    else:
        from envoi_trace_core.analysis.jsonl import to_jsonl

        yield from to_jsonl(trace)


def _write(output: Path, lines: Iterable[str]) -> None:
    """The whole file, or none."""
    partial = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with partial.open("x", encoding="utf-8", newline="") as file:
            file.writelines(f"{line}\n" for line in lines)
        partial.rename(output)
    except OSError as error:
        raise UsageError(f"{output} can't be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
