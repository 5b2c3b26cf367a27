"""The C compiler environment, tested with real submissions through the real harness.

The submissions are shell scripts around gcc, or none: what is tested here is the environment, not a compiler.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from envoi_trace_core.builtin.local_sandbox import isolation
from envoi_trace_core.builtin.local_sandbox.factory import create
from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.domain.environments import load_environment
from envoi_trace_core.harness.results import TestRun
from envoi_trace_core.harness.runtime import EnvoiRuntime
from envoi_trace_core.specs import SandboxRequest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it makes programs for Linux"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc, around which submissions are made"),
    pytest.mark.skipif(not Path("/usr/bin/gcc").exists(), reason="gcc is not where submissions look for it"),
]

SOURCE = Path(__file__).parents[2] / "examples" / "environments" / "c_compiler"
SMALL = ("basics/several_files", "basics/diagnostics")
SMALL_TOTAL = 12 + 35


def script(body: str) -> dict[str, str]:
    """A submission whose compiler is a shell script."""
    return {"build.sh": f"cat >cc <<'END'\n#!/bin/sh\n{body}\nEND\nchmod +x cc\n"}


WRAPPER = script('exec gcc -w -std=gnu11 "$@"')


def environment(folder: Path, **changes: str) -> Path:
    """A copy with other settings: of our own cases only, and without the cheat check."""
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns(".cache", "__pycache__"))
    settings = (folder / "settings.toml").read_text()
    for name, value in {"suites": '["basics"]', "cheat_check": "false", **changes}.items():
        section, _, key = name.rpartition("__")
        start = settings.index(f"[{section}]") if section else 0
        rest, count = re.subn(rf"(?m)^{key} = (\[[^]]*\]|.*)$", f"{key} = {value}", settings[start:], count=1)
        assert count, name
        settings = settings[:start] + rest
    (folder / "settings.toml").write_text(settings)
    return folder


class Runtime:
    """The environment at work in a sandbox."""

    def __init__(self, inner: EnvoiRuntime, folder: Path) -> None:
        self.inner = inner
        self.folder = folder
        self._count = 0

    async def test(self, files: dict[str, str], paths: Sequence[str] | None = None, timeout_s: float = 600) -> TestRun:
        self._count += 1
        tree = self.folder / f"tree-{self._count}"
        for name, content in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(content)
        return await self.inner.test(tree, paths, timeout_s=timeout_s)


@asynccontextmanager
async def runtime(tmp_path: Path, folder: Path, kind: Any = "none") -> AsyncIterator[Runtime]:
    request = SandboxRequest(name="e", trajectory_id="t", role="evaluation", lifetime_s=3600, runs_model=False)
    sandbox = await create(request, LocalSandboxOptions(isolation=kind, root=str(tmp_path / "sandboxes")))
    try:
        async with EnvoiRuntime(sandbox=sandbox, environment=load_environment(folder)) as inner:
            yield Runtime(inner, tmp_path)
    finally:
        await sandbox.close()


def has_namespaces() -> bool:
    words = ["unshare", *([] if os.getuid() == 0 else ["--user", "--map-current-user"])]
    try:
        probe = [*words, "--pid", "--mount", "--net", "--ipc", "--fork", "true"]
        return subprocess.run(probe, capture_output=True, timeout=20, check=False).returncode == 0
    except OSError:
        return False


def failures(run: TestRun, path: str) -> list[dict[str, Any]]:
    assert len(run.detail[path]) < 6100, "the harness would cut it"
    return json.loads(run.detail[path])["failures"]


def processes(word: str) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if word in line:
                found.append(line)
    return found


async def test_a_wrapper_around_gcc_passes_every_case(tmp_path: Path) -> None:
    """That is: what the cases expect is right."""
    async with runtime(tmp_path, environment(tmp_path / "env")) as it:
        run = await it.test(WRAPPER)
    assert run.status == "completed"
    assert {result.path: result.counts.failed for result in run.results if result.counts.failed} == {}
    assert run.counts.total >= 150
    topics = {result.path.removeprefix("basics/") for result in run.results}
    assert topics == {path.stem for path in (SOURCE / "basics").glob("*.cases")}


CHEATS = {
    "by_path": (WRAPPER, "it starts gcc"),
    "by_absolute_path": (script('exec /usr/bin/gcc -w "$@"'), "it starts /usr/bin/gcc"),
    "only_for_hard_programs": (script('grep -q struct "$1" && exec gcc -w "$@"; exit 1'), "it starts gcc"),
    "at_the_run_time_of_the_program": (
        script('printf "#!/bin/sh\\nexec /usr/bin/gcc --version\\n" >"$3"; chmod +x "$3"'), "it starts /usr/bin/gcc"
    ),
    "a_copy": (
        {"build.sh": 'cp "$(gcc -print-prog-name=cc1)" helper; printf "#!/bin/sh\\nexit 1\\n" >cc; chmod +x cc'},
        "holds an existing compiler",
    ),
    "a_link": ({"build.sh": 'ln -s "$(command -v gcc)" cc'}, "is a link to"),
}  # fmt: skip


async def test_compilers_that_call_a_compiler_are_failed_with_the_reason(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    async with runtime(tmp_path, environment(tmp_path / "env", cheat_check="true")) as it:
        for name, (files, reason) in CHEATS.items():
            run = await it.test(files, SMALL)
            assert run.status == "build_failed", name
            assert run.error is not None
            assert "The submission cheats: " in run.error, name
            assert reason in run.error, (name, run.error)


@pytest.mark.parametrize("kind", ["none", "bwrap"])
async def test_a_cheat_that_the_probes_did_not_show_fails_its_test(tmp_path: Path, kind: str) -> None:
    """It calls gcc for programs with a `goto` only; in namespaces of its own even by the absolute path."""
    if kind == "bwrap" and isolation.bubblewrap() is None:
        pytest.skip("bubblewrap does not work here")
    if not has_namespaces():
        pytest.skip("this machine gives no namespaces: an absolute path gets by")
    sly = script('grep -q goto "$1" && exec /usr/bin/gcc -w "$@"; echo "main.c:1: no" >&2; exit 1')
    async with runtime(tmp_path, environment(tmp_path / "env", cheat_check="true"), kind) as it:
        run = await it.test(sly, ["basics/control_flow"])
    (result,) = run.results
    assert (result.counts.passed, result.counts.failed) == (0, 30)
    assert "The submission cheats: it calls a compiler: /usr/bin/gcc" in str(result.error)


NAP = f"sleep 61.{os.getpid():06}7"
"""Of this test process alone, so that what is left of it can be found."""
BOMB = "f() { [ $1 -gt 9 ] || { f $(($1 + 1)) & f $(($1 + 1)) & }; @; }; f 0".replace("@", NAP)
"""A thousand processes at most, should nothing stop it."""
HOSTILE = {
    "always_0": (script("exit 0"), "made no program"),
    "hangs": (script(NAP), "ran for more than 4 s"),
    "spins": (script("while :; do :; done"), "more than 4 s"),
    "prints_1_gb": (script("head -c 1000000000 /dev/zero"), "wrote more than"),
    "writes_1_gb": (script("head -c 1000000000 /dev/zero >program"), "the compiler"),
    "forks_without_end": (script(BOMB), ""),
    "crashes": (script("kill -SEGV $$"), "killed by SIGSEGV"),
    "makes_no_elf": (script("echo text >program; chmod +x program"), "could not be started"),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
async def test_hostile_compilers_fail_every_case_in_bounded_time(tmp_path: Path, name: str) -> None:
    files, problem = HOSTILE[name]
    paths, total = (SMALL, SMALL_TOTAL) if name == "always_0" else (SMALL[:1], 12)
    folder = environment(tmp_path / "env", compile__wall_s="4", run__wall_s="5")
    async with runtime(tmp_path, folder) as it:
        started = time.monotonic()
        run = await it.test(files, paths)
        took_s = time.monotonic() - started
        after = await it.test(WRAPPER, ["basics/several_files"])
        assert it.inner.restarts == 0
    assert run.status == "completed"
    assert (run.counts.passed, run.counts.failed, run.counts.total) == (0, total, total)
    told = failures(run, "basics/several_files")[0]
    assert problem in f"{told['problem']} {told.get('actual')}"
    assert took_s < 300
    assert after.counts.all_passed
    assert processes(NAP) == []


@pytest.mark.parametrize("kind", ["none", "bwrap"])
async def test_hostile_programs_fail_and_leave_nothing(tmp_path: Path, kind: str) -> None:
    """The compiler is gcc; what it makes of one case forks without end, or prints 1 GB, or leaves a daemon."""
    if kind == "bwrap" and isolation.bubblewrap() is None:
        pytest.skip("bubblewrap does not work here")
    folder = environment(tmp_path / "env", run__wall_s="3", basics='["hostile"]')
    (folder / "basics" / "hostile.cases").write_text(
        "=== bomb\n#include <unistd.h>\n"
        "int main(void) { for (int i = 0; i < 10; i++) fork(); execl(\"/bin/sleep\", \"sleep\", \"@\", 0); }\n"
        "=== flood\nint puts(const char *);\n"
        "int main(void) { for (long i = 0; i < 100000000; i++) puts(\"0123456789\"); }\n"
        "=== daemon\n> exit 3\n#include <unistd.h>\n"
        "int main(void) { if (fork()) return 3; setsid(); if (fork()) return 0; close(1);"
        " execl(\"/bin/sleep\", \"sleep\", \"@\", 0); }\n"
        "=== memory\n#include <stdlib.h>\n#include <string.h>\n"
        "int main(void) { for (int i = 0; i < 64; i++) { char *p = malloc(1 << 26); if (!p) return 5;"
        " memset(p, 1, 4096); } }\n"
        "=== spins\nint main(void) { for (;;) ; }\n".replace("@", NAP.split()[1])
    )  # fmt: skip
    async with runtime(tmp_path, folder, kind) as it:
        run = await it.test(WRAPPER)
    (result,) = run.results
    assert (result.counts.passed, result.counts.failed) == (1, 4), run.detail
    found = {entry["case"]: f"{entry['problem']} {entry.get('actual')}" for entry in failures(run, "basics/hostile")}
    assert "wrote more than" in found["flood"]
    assert "exit status 5" in found["memory"]
    assert "3 s" in found["spins"] or "SIGXCPU" in found["spins"]
    assert "daemon" not in found
    assert processes(NAP) == []


async def test_failures_tell_what_an_agent_needs_and_are_bounded(tmp_path: Path) -> None:
    """Source, expected and actual, the compiler's words, times."""
    body = 'echo "main.c:1: warning: odd" >&2; gcc -w "$@" || exit; case $1 in main.c) ;; *) exit 0;; esac\n'
    wrong = script(body + 'printf "#!/bin/sh\\nyes x | head -c 30000\\nexit 77\\n" >program')
    async with runtime(tmp_path, environment(tmp_path / "env")) as it:
        run = await it.test(wrong, ["basics/strings"])
    (result,) = run.results
    assert (result.counts.passed, result.counts.failed) == (0, 20)
    first = failures(run, "basics/strings")[0]
    assert set(first) == {
        "case", "problem", "expected", "actual", "compiler_stderr", "compile_ms", "run_ms", "source"
    }  # fmt: skip
    assert first["case"] == "puts_a_literal"
    assert 'puts("Hello, world!")' in first["source"]
    assert first["expected"].startswith("exit status 0, output 'Hello, world!")
    assert first["actual"].startswith("exit status 77, output 'x\\nx")
    assert "characters ..." in first["actual"]
    assert first["compiler_stderr"] == "main.c:1: warning: odd\n"
    assert "own_strlen" in json.loads(run.detail["basics/strings"])["failed_too"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"cc": "x"}, ["no build.sh"]),
        ({"build.sh": "echo building; echo 'line 7: no' >&2; exit 3"}, ["exit status 3", "building", "line 7: no"]),
        ({"build.sh": "true"}, ["no executable ./cc"]),
        ({"build.sh": NAP}, ["ran for more than 2 s"]),
        ({"build.sh": BOMB}, ["build.sh: "]),
    ],
)
async def test_a_failed_build_says_why(tmp_path: Path, files: dict[str, str], words: list[str]) -> None:
    async with runtime(tmp_path, environment(tmp_path / "env", build__wall_s="2")) as it:
        run = await it.test(files, SMALL)
        again = await it.test(files, SMALL)
    assert run.status == again.status == "build_failed"
    for word in words:
        assert word in str(run.error)
    assert processes(NAP) == []


async def test_an_identical_tree_is_built_and_run_once(tmp_path: Path) -> None:
    count = tmp_path / "count"
    files = {"build.sh": f"echo built >>{count}\n{WRAPPER['build.sh']}"}
    async with runtime(tmp_path, environment(tmp_path / "env")) as it:
        first = await it.test(files, ["basics/several_files"])
        second = await it.test(files, ["basics/several_files"])
        assert count.read_text().count("built") == 1
        assert first.counts == second.counts
        assert first.counts.all_passed
        other = await it.test({**files, "note": "changed"}, ["basics/several_files"])
        assert count.read_text().count("built") == 2
        assert other.counts == first.counts


# -- the public suites ------------------------------------------------------------------------------


def repository(folder: Path, files: dict[str, str]) -> str:
    """A git repository; gives its commit."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"],
                  ["config", "uploadpack.allowAnySHA1InWant", "true"]):  # fmt: skip
        subprocess.run(["git", *words], cwd=folder, check=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


WACCT = {
    "tests/chapter_1/valid/two.c": "int main(void) { return 2; }",
    "tests/chapter_1/invalid_parse/open.c": "int main(void) { return 2;",
    "tests/chapter_2/valid/libraries/lib.c": "int f(void) { return 40; }",
    "tests/chapter_2/valid/libraries/lib_client.c": '#include "../h.h"\nint main(void) { return f() + 2; }',
    "tests/chapter_2/valid/h.h": "int f(void);",
    "tests/chapter_2/valid/out.c": 'int puts(const char *);\nint main(void) { puts("x"); return 0; }',
    "tests/chapter_2/valid/needs_assembly.c": "int asm_part(void); int main(void) { return asm_part(); }",
    "expected_results.json": json.dumps({
        "chapter_1/valid/two.c": {"return_code": 2},
        "chapter_2/valid/libraries/lib.c": {"return_code": 42},
        "chapter_2/valid/out.c": {"return_code": 0, "stdout": "x\n"},
        "chapter_2/valid/needs_assembly.c": {"return_code": 1},
    }),
    "test_properties.json": json.dumps({"assembly_libs": {"chapter_2/valid/needs_assembly.c": ["x"]}, "libs": {}}),
}  # fmt: skip
C_TESTSUITE = {f"tests/single-exec/0000{n}.c": "int main(void) { return 0; }" for n in range(1, 5)} | {
    f"tests/single-exec/0000{n}.c.expected": "" for n in range(1, 5)
}
TORTURE = {
    "gcc/testsuite/gcc.c-torture/execute/1.c": "void abort(void); int main(void) { if (1 > 2) abort(); return 0; }",
    "gcc/testsuite/gcc.c-torture/execute/2.c": "/* { dg-require-effective-target avr } */ int main(void) { return 1; }",
    "gcc/testsuite/gcc.c-torture/execute/sub/3.c": "not C",
    "gcc/large.txt": "not fetched",
}


def with_public_suites(folder: Path, sources: dict[str, tuple[str, str]]) -> Path:
    """The environment with public suites from elsewhere: name to URL and commit."""
    environment(folder, suites='["wacct", "c_testsuite", "torture"]')
    text = (SOURCE / "suites.toml").read_text()
    for name, (url, commit) in sources.items():
        head, rest = text.split(f"[{name}]")
        rest = re.sub(r'url = ".*"', f'url = "{url}"', rest, count=1)
        text = f"{head}[{name}]" + re.sub(r'commit = ".*"', f'commit = "{commit}"', rest, count=1)
    (folder / "suites.toml").write_text(text)
    return folder


async def test_public_suites_are_fetched_and_run_and_the_schema_is_the_same_without_them(tmp_path: Path) -> None:
    sources = {}
    for name, files in (("wacct", WACCT), ("c_testsuite", C_TESTSUITE), ("torture", TORTURE)):
        commit = repository(tmp_path / name, files)
        sources[name] = (f"file://{tmp_path / name}", commit)
    sources["torture"] = (f"file://{tmp_path}/gone", sources["torture"][1])
    async with runtime(tmp_path, with_public_suites(tmp_path / "env", sources)) as it:
        schema = it.inner.schema.test_paths
        run = await it.test(WRAPPER, ["wacct/chapter_1", "wacct/chapter_2", "c_testsuite/part_1", "torture/part_1"])
        refuses_all = await it.test(script('echo "main.c:1: no" >&2; exit 1'), ["wacct/chapter_1"])
    counts = {result.path: (result.counts.passed, result.counts.failed) for result in run.results}
    assert counts["wacct/chapter_1"] == (2, 0), run.detail
    assert counts["wacct/chapter_2"] == (2, 0), run.detail
    assert counts["c_testsuite/part_1"] == (1, 0), run.detail
    assert counts["torture/part_1"] == (0, 1)
    (missing,) = (result.error for result in run.results if result.path == "torture/part_1")
    assert "torture is not there: it could not be fetched from file://" in str(missing)
    assert refuses_all.counts.passed == 0
    assert len(schema) == 20 + 11 + 30
    assert "torture/part_30" in schema

    sources["torture"] = (f"file://{tmp_path / 'torture'}", sources["torture"][1])
    async with runtime(tmp_path / "again", with_public_suites(tmp_path / "env2", sources)) as it:
        assert it.inner.schema.test_paths == schema
        assert it.inner.setup_log.count(": fetched") == 3
        run = await it.test(WRAPPER, ["torture/part_1"])
        assert (run.counts.passed, run.counts.failed) == (1, 0), run.detail


def test_case_files_that_are_wrong_are_named(tmp_path: Path) -> None:
    program = "import sys; sys.path.insert(0, sys.argv[1]); from cases import load_cases; from pathlib import Path\n"
    program += "try: load_cases(Path(sys.argv[2]))\nexcept ValueError as error: print(error)"
    for text, expected in (
        ("int main(void) {}\n", "x.cases:1: a case begins with `=== NAME`"),
        ("=== a\n> exits 3\n", "x.cases:2: unknown line `> exits`"),
        ("=== a\nint x;\n=== a\nint x;\n", "x.cases: a name stands twice: a"),
        ("=== a\n> exit 3\n", "x.cases:1: a has no C file"),
        ("=== a\n> out 3\n", "x.cases:2: a string in quotes was expected"),
    ):
        path = tmp_path / "x.cases"
        path.write_text(text)
        words = [sys.executable, "-c", program, str(SOURCE), str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(expected), done.stdout
