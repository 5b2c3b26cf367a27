"""A test case, and the files of our own cases.

A file `basics/TOPIC.cases` holds many. Each begins with a line of its name, then lines of what is expected, then C:

    === adds
    > exit 7
    int main(void) { return 3 + 4; }

    === greets
    > out "hello\\n"
    int puts(const char *);
    int main(void) { puts("hello"); return 0; }

    === two_files
    > exit 5
    --- helper.c
    int five(void) { return 5; }
    --- main.c
    int five(void);
    int main(void) { return five(); }

    === undeclared
    > error 1
    int main(void) { return x; }

| line | meaning |
|---|---|
| `> exit N` | the program's exit status; 0 when there is no such line |
| `> out "..."` | its whole standard output, as a JSON string; several lines are joined. No such line: nothing |
| `> in "..."` | its standard input |
| `> args "..." "..."` | its arguments |
| `> cc "..." "..."` | more arguments for the compiler |
| `> error N` | the compiler must refuse it, and say `FILE:N:` on standard error |
| `--- NAME` | what follows is that file; without such a line all of it is `main.c` |

All files that end in `.c` are given to the compiler, in their order. Line numbers count from a file's first line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """A program, and what must come of it."""

    name: str
    files: dict[str, bytes]
    """Relative path to content."""
    sources: tuple[str, ...]
    """Those of them that are given to the compiler."""
    refused: bool = False
    """The compiler must refuse it."""
    error_at: str = ""
    """What it must say then: `main.c:3:`."""
    exit_status: int | None = 0
    """None: any."""
    stdout: bytes | None = None
    """None: any."""
    stdin: bytes = b""
    args: tuple[str, ...] = ()
    cc_args: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """Its source as an agent sees it."""
        texts = {name: content.decode(errors="replace") for name, content in self.files.items()}
        if len(texts) == 1:
            return next(iter(texts.values()))
        return "".join(f"--- {name}\n{text}" for name, text in texts.items())


@dataclass
class _Draft:
    name: str
    line: int
    exit_status: int = 0
    error_line: int | None = None
    stdout: str = ""
    stdin: str = ""
    args: list[str] = field(default_factory=list)
    cc_args: list[str] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)


def load_cases(path: Path) -> list[Case]:
    """The cases of one file.

    Raises:
        ValueError: It is wrong; names file and line.
    """
    drafts: list[_Draft] = []
    file = ""
    for number, line in enumerate(path.read_text().split("\n"), 1):
        try:
            if line.startswith("=== "):
                file = ""
                drafts.append(_Draft(line[4:].strip(), number))
            elif not drafts:
                _expect_comment(line)
            elif line.startswith("--- "):
                file = line[4:].strip()
                drafts[-1].files[file] = []
            elif line.startswith("> ") and not drafts[-1].files:
                _expect(drafts[-1], line[2:])
            else:
                file = file or "main.c"
                drafts[-1].files.setdefault(file, []).append(line)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path.name}:{number}: {error}") from error
    names = [draft.name for draft in drafts]
    if len(set(names)) != len(names):
        raise ValueError(f"{path.name}: a name stands twice: {next(n for n in names if names.count(n) > 1)}")
    return [_case(path, draft) for draft in drafts]


def _expect_comment(line: str) -> None:
    if line.strip() and not line.startswith("#"):
        raise ValueError("a case begins with `=== NAME`")


def _expect(draft: _Draft, words: str) -> None:
    name, _, rest = words.partition(" ")
    if name == "exit":
        draft.exit_status = int(rest)
    elif name == "error":
        draft.error_line = int(rest)
    elif name in ("out", "in"):
        values = _strings(rest)
        if name == "out":
            draft.stdout += "".join(values)
        else:
            draft.stdin += "".join(values)
    elif name == "args":
        draft.args += _strings(rest)
    elif name == "cc":
        draft.cc_args += _strings(rest)
    else:
        raise ValueError(f"unknown line `> {name}`")


def _strings(text: str) -> list[str]:
    decoder = json.JSONDecoder()
    found: list[str] = []
    text = text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        if not isinstance(value, str):
            raise ValueError(f"a string in quotes was expected: {text[:40]}")  # noqa: TRY004 - the file is wrong
        found.append(value)
        text = text[end:].strip()
    return found


def _case(path: Path, draft: _Draft) -> Case:
    texts = {name: "\n".join(lines).rstrip("\n") + "\n" for name, lines in draft.files.items() if any(lines)}
    sources = tuple(name for name in texts if name.endswith(".c"))
    if not sources:
        raise ValueError(f"{path.name}:{draft.line}: {draft.name} has no C file")
    refused = draft.error_line is not None
    return Case(
        name=draft.name,
        files={name: text.encode() for name, text in texts.items()},
        sources=sources,
        refused=refused,
        error_at=f"{sources[-1]}:{draft.error_line}:" if refused else "",
        exit_status=None if refused else draft.exit_status,
        stdout=None if refused else draft.stdout.encode(),
        stdin=draft.stdin.encode(),
        args=tuple(draft.args),
        cc_args=tuple(draft.cc_args),
    )
