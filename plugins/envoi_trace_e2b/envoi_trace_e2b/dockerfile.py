"""An environment's Dockerfile as an E2B template. What E2B can't build is refused here, with its line."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from e2b import AsyncTemplate  # noqa: TID253
from e2b_dockerfile_utils import DockerfileInstruction, DockerfileSyntaxError, parse_dockerfile_ast

from envoi_trace_core.errors import UsageError

# The SDK prints a line for these and goes on without them, so the image would silently be another one.
UNSUPPORTED = {
    "ONBUILD": "it acts on images that are built from this one",
    "SHELL": "every command runs in /bin/bash",
    "HEALTHCHECK": "nothing looks after a sandbox's health",
    "STOPSIGNAL": "a sandbox ends at once",
}
IGNORED_FLAGS = {
    "RUN": ("mount", "network", "security", "device"),
    "COPY": ("link", "exclude", "parents"),
    "ADD": ("link", "exclude", "parents", "keep-git-dir", "checksum", "unpack"),
}
START_COMMANDS = ("CMD", "ENTRYPOINT")
"""What they start has no place in a sandbox whose commands come from outside; they are left out."""


def start_template(dockerfile: Path) -> Any:
    """A template builder that holds all steps of the Dockerfile; its folder is the build's context.

    Raises:
        UsageError: It can't be read, or holds what E2B can't build.
    """
    try:
        text = dockerfile.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{dockerfile} can't be read: {error}") from error
    try:
        instructions = parse_dockerfile_ast(text).instructions
        for instruction in instructions:
            _check(dockerfile, instruction)
        _check_stages(dockerfile, instructions)
        said = io.StringIO()
        with contextlib.redirect_stdout(said):  # results go to stdout, and the SDK prints what it ignores
            return AsyncTemplate(file_context_path=dockerfile.parent).from_dockerfile(
                _without_start_commands(text, instructions)
            )
    except DockerfileSyntaxError as error:
        words = str(error).partition(": ")[2] or str(error)
        raise _refusal(dockerfile, error.line or 1, words) from error
    except ValueError as error:
        raise _refusal(dockerfile, 1, str(error)) from error


def line_of(dockerfile: Path, words: str) -> int:
    """The line of the COPY or ADD whose source an error names; the first line when none does."""
    for instruction in parse_dockerfile_ast(dockerfile.read_text()).instructions:
        if instruction.name in ("COPY", "ADD") and any(source.strip("./") in words for source in instruction.args[:-1]):
            return instruction.start_line
    return 1


def refuse_source(dockerfile: Path, error: ValueError) -> UsageError:
    """For a COPY that finds nothing."""
    return _refusal(dockerfile, line_of(dockerfile, str(error)), str(error))


def _check(dockerfile: Path, instruction: DockerfileInstruction) -> None:
    line = instruction.start_line
    if instruction.name in UNSUPPORTED:
        raise _refusal(dockerfile, line, f"E2B has no {instruction.name} ({UNSUPPORTED[instruction.name]})")
    for flag in instruction.flags:
        name = flag.removeprefix("--").partition("=")[0]
        if name == "from":
            raise _refusal(dockerfile, line, "E2B builds no multi-stage Dockerfile, so COPY --from copies from nothing")
        if name in IGNORED_FLAGS.get(instruction.name, ()):
            raise _refusal(dockerfile, line, f"E2B has no {instruction.name} --{name}")


def _check_stages(dockerfile: Path, instructions: list[DockerfileInstruction]) -> None:
    stages = [instruction.start_line for instruction in instructions if instruction.name == "FROM"]
    if len(stages) > 1:
        raise _refusal(dockerfile, stages[1], "E2B builds no multi-stage Dockerfile, and this is a second FROM")


def _without_start_commands(text: str, instructions: list[DockerfileInstruction]) -> str:
    """The same text with the same line numbers."""
    lines = text.split("\n")
    for instruction in instructions:
        if instruction.name in START_COMMANDS:
            for number in range(instruction.start_line, instruction.end_line + 1):
                lines[number - 1] = "#"
    return "\n".join(lines) + "\n"


def _refusal(dockerfile: Path, line: int, why: str) -> UsageError:
    mend = "change the line, or build a template yourself and name it: --sandbox-opt template=NAME"
    return UsageError(f"{dockerfile}:{line}: {why.rstrip('.')}", mend=mend)
