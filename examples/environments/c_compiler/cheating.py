"""Whether a submission has an existing compiler do its work.

Four things, each with a limit:

- Every call of the compiler, and of what it made, finds tripwires in the place of the compilers: first on PATH, and,
  where namespaces can be had, bound over the compilers' files (gcc's `cc1` too). A tripwire compiles nothing and says
  that it was called. Limit: without namespaces an absolute path gets by; and who hides the traces has still no program.
- Where strace works, a few programs are compiled and run under it, and whatever was started, or was tried to be
  started, must be the submission's own or a tool of the system's that is no compiler. Limit: a submission that
  behaves while it is traced.
- Executables in the built tree are searched for the texts that gcc, clang and tcc hold. Limit: packed ones.
- There is no network, where namespaces can be had.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMPILER = re.compile(
    r"([\w.]+-)*(gcc|g\+\+|cc|c\+\+|cpp|c89|c99|clang|clang\+\+|clang-cpp|tcc|pcc|lcc|icc|icx|zig|nvcc|gfortran|gdc|"
    r"cc1|cc1plus|cc1obj|lto1|collect2|lto-wrapper|rustc|cargo|go|ghc|ldc2|dmd|opt|llc)(-[\d.]+)?"
)
LIBRARY = re.compile(r"lib(tcc|clang|gccjit|LLVM)[\w.+-]*\.so[\d.]*")
FOLDERS = (
    "/usr/local/bin", "/usr/bin", "/bin", "/usr/lib/gcc/*/*", "/usr/libexec/gcc/*/*", "/usr/local/libexec/gcc/*/*",
    "/usr/lib/llvm-*/bin", "/usr/lib/llvm-*/lib", "/usr/lib/*-linux-gnu", "/usr/local/lib", "/opt/*/bin",
    "/usr/local/go/bin", "/usr/local/cargo/bin", "/usr/local/rustup/toolchains/*/bin",
)  # fmt: skip
SYSTEM = ("/usr/bin/", "/bin/", "/usr/lib/", "/lib/", "/usr/sbin/", "/sbin/", "/usr/libexec/", "/nix/store/")
MARKERS = (b"GNU C17", b"GNU C11", b"-fdump-tree-", b"clang version ", b"tcc version ", b"clang LLVM compiler")
MAX_SCANNED_BYTES = 512 * 1024 * 1024
TRACED = re.compile(r'\bexecve(?:at)?\([^"]*"((?:[^"\\]|\\.)*)"')

PROBES = {
    "returns": "int main(void) { return 7; }\n",
    "calls": (
        "int printf(const char *, ...);\nstruct pair { int a; long b; };\n"
        "static long add(struct pair *p, int n) { long s = 0; for (int i = 0; i < n; i++) s += p[i].a * p[i].b;"
        " return s; }\n"
        "int main(void) { struct pair p[3] = {{1, 2}, {3, 4}, {5, 6}};"
        ' printf("%ld %s\\n", add(p, 3), "ok"); return 0; }\n'
    ),
    "includes": (
        "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#define TWICE(x) ((x) * 2)\n"
        "typedef double (*op)(double);\nstatic double half(double x) { return x / TWICE(1.0); }\n"
        'int main(void) { op f = half; char *s = malloc(8); strcpy(s, "abc"); printf("%.2f %zu\\n", f(3.0),'
        " strlen(s)); free(s); switch (s != 0) { case 1: return 0; default: return 1; } }\n"
    ),
}
"""Programs that are compiled to see what the compiler starts: from easy to hard, as some help themselves only then."""


@dataclass(frozen=True)
class Guard:
    """What is put in the place of the compilers."""

    path: str
    """For the environment variable."""
    covers: dict[str, str]
    tripwire: Path
    log: Path
    """Every call of a tripwire is a line of it."""

    def tripped(self) -> str:
        """Why the submission cheats; empty when nothing was called."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        called = lines[0].replace(f"{self.tripwire.parent}/bin/", "")[:300] if lines else ""
        return f"it calls a compiler: {called}" if lines else ""


def set_guard(folder: Path) -> Guard:
    """Make the tripwires in a folder that submissions can read."""
    folder.mkdir()
    log = folder / "log"
    log.touch()
    log.chmod(0o622)
    tripwire = folder / "tripwire"
    tripwire.write_text(
        f'#!/bin/sh\necho "$0 $*" >>{log}\necho "${{0##*/}}: an existing compiler must not be called" >&2\nexit 126\n'
    )
    tripwire.chmod(0o755)
    names = {"gcc", "cc", "clang", "tcc", "g++", "c++", "clang++", "cpp", "c99", "c89", "zig"}
    places = folder / "bin"
    places.mkdir()
    covers: dict[str, str] = {}
    for path in installed():
        covers[str(path.resolve())] = str(tripwire)
        if "bin" in path.parts:
            names.add(path.name)
    for name in names:
        (places / name).symlink_to(tripwire)
    return Guard(f"{places}:/usr/local/bin:/usr/bin:/bin", covers, tripwire, log)


def installed() -> Iterator[Path]:
    """The compilers of this machine, and libraries that are one."""
    for pattern in (*FOLDERS, *os.environ.get("PATH", "").split(":")):
        for folder in Path("/").glob(pattern.lstrip("/")) if pattern.startswith("/") else ():
            if folder.is_dir():
                yield from (
                    path
                    for path in folder.iterdir()
                    if (COMPILER.fullmatch(path.name) or LIBRARY.fullmatch(path.name)) and path.is_file()
                )


def tracer() -> list[str] | None:
    """The command that records what is started into the file `trace`; None where there is none."""
    strace = shutil.which("strace")
    return [strace, "-f", "-qq", "-s", "256", "-e", "trace=execve,execveat", "-o", "trace", "--"] if strace else None


def judge_trace(folder: Path, tree: Path, guard: Guard) -> str:
    """Why what the trace in a case's folder shows is cheating; empty when it is not, or there is none."""
    trace = folder / "trace"
    if trace.is_symlink() or not trace.is_file():
        return ""
    for line in trace.read_text(errors="replace").splitlines():
        for path in TRACED.findall(line):
            found = _judge_start(path, folder, tree, guard, failed=" = -1 " in line)
            if found:
                return found
    trace.unlink()
    return ""


def _judge_start(path: str, folder: Path, tree: Path, guard: Guard, *, failed: bool) -> str:
    full = Path(os.path.normpath(folder / path))
    real = full.resolve()
    if any(real.is_relative_to(place) for place in (tree, folder)):
        return ""
    if real == guard.tripwire or COMPILER.fullmatch(full.name) or COMPILER.fullmatch(real.name):
        return f"it starts {full.name if real == guard.tripwire else path}"
    if not failed and not str(full).startswith(SYSTEM):
        return f"it starts {path}, which is neither its own nor the system's"
    return ""


def embedded(tree: Path) -> str:
    """Which file of a built tree holds an existing compiler; empty when none does."""
    scanned = 0
    for path in sorted(tree.rglob("*")):
        if path.is_symlink():
            if COMPILER.fullmatch(path.resolve().name) and not path.resolve().is_relative_to(tree):
                return f"{path.relative_to(tree)} is a link to {path.resolve()}"
            continue
        if not path.is_file() or scanned > MAX_SCANNED_BYTES:
            continue
        with path.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                continue
            content = file.read(MAX_SCANNED_BYTES)
        scanned += len(content)
        for marker in MARKERS:
            if marker in content:
                return f"{path.relative_to(tree)} holds an existing compiler ({marker.decode().strip()!r} is in it)"
    return ""
