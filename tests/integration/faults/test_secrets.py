"""A secret that a plugin declared is in nothing that a run writes, whatever the agent does with it."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, quote_plus

import pyarrow.parquet as pq
import pytest
import zstandard

HERE = Path(__file__).parent
SECRETS = {"ODD": 'canary/5ecret+of "the" plügin %41', "KEY": "sk-canary-0123456789-ABCDEF"}
ODD, KEY = SECRETS["ODD"], SECRETS["KEY"]


def forms(secret: str) -> list[bytes]:
    """Every form in which somebody may look for it."""
    found = [
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json.dumps(json.dumps(secret))[3:-3],
    ]
    encoded = [form.encode() for form in found]
    for before in range(3):
        text = base64.b64encode(b"x" * before + secret.encode() + b"y" * 3)
        core = text[4 if before else 0 : -8]
        encoded += [core, core.replace(b"+", b"-").replace(b"/", b"_")]
    return encoded


NEEDLES = [form for secret in SECRETS.values() for form in forms(secret)]


def in_base64(secret: str, before: str = "") -> str:
    return base64.b64encode(f"{before}{secret}{before}".encode()).decode()


ACTIONS = [
    {"text": f"I was given {ODD} and {KEY}"},
    {"reasoning": f"as a link: https://example.org/?key={quote(ODD, safe='')}&again={quote_plus(ODD)}"},
    {"text": "x" * 1990 + KEY + " over the end of a chunk"},
    {"run": f"printf %s {shlex.quote(ODD)}; printf %s {shlex.quote(KEY)} >&2; exit 3"},
    {"run": f"printf %s {shlex.quote(KEY[:9])}; sleep 0.3; printf %s {shlex.quote(KEY[9:])}"},
    {"run": f"echo {in_base64(ODD)} {in_base64(KEY, 'ab')} {in_base64(KEY, 'a')}"},
    {"run": f"printf %s {shlex.quote(json.dumps({'nested': json.dumps(ODD)}))}"},
    {"write": "plain.txt", "content": f"the key: {ODD}\n{KEY}\n"},
    {"write": "forms.json", "content": json.dumps([ODD, quote(KEY), in_base64(ODD, "zz")])},
    {"write": f"{KEY}/{KEY}.txt", "content": "named after it"},
    {"run": f"ln -s {KEY} link; printf '\\0\\377%s' {KEY} >binary; head -c 300000 /dev/zero | tr '\\0' a >>binary"},
    {"patch": f"--- /dev/null\n+++ b/patched.txt\n@@ -0,0 +1 @@\n+{KEY}\n"},
    {"run_tests": KEY},
    {"run": f"rm {KEY}/{KEY}.txt plain.txt"},
    {"fail": f"the model refused {KEY} and {ODD}"},
]

TELLS = """
import envoi

@envoi.test()
async def tells():
    names = sorted(str(path) for path in envoi.session_path().rglob("*"))
    texts = [path.read_bytes().decode(errors="replace")[:2000] for path in envoi.session_path().rglob("*.txt")]
    return {"passed": 0, "failed": 1, "total": 1, "error": f"{names} KEY_TEXT {texts}"}
"""


@pytest.fixture
def leaky(bench, tmp_path, monkeypatch):
    """A bench that runs the leaky agent."""
    info = tmp_path / "site" / "leaky-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[envoi_trace]\nleaky = leaky_plugin\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{HERE}")
    monkeypatch.setenv("LEAKY_SECRETS", json.dumps(SECRETS))
    bench.main_py(TELLS.replace("KEY_TEXT", KEY))
    (bench.task / "en.md").write_text(f"Use {KEY} and {ODD}.")
    return bench


def test_a_secret_is_found_in_nothing_that_a_run_writes(leaky):
    bench = leaky
    bench.script(*ACTIONS)
    options = ("--agent", "leaky", "--label", f"key={KEY}", "--max-restarts", "1", "--restart-delay", "0")
    run = bench.run(*options, "--auto-resume", "--debug")
    assert run.summary["reason"] == "agent_error", run.stderr
    assert run.summary["parts"] == len(ACTIONS) - 1
    shown = [bench.cli(*words) for words in (("show", "t1"), ("show", "t1", "--part", "4"), ("logs", "t1"))]
    said = [run.stdout, run.stderr, *(text for done in shown for text in (done.stdout, done.stderr))]
    for text in said:
        assert not found_in(text.encode()), text
    for name, content in everything(bench, run):
        assert not found_in(content), name
    row = run.rows[4]
    assert row["tool_output"] == "[redacted:KEY]"
    assert "[redacted:KEY] over the end" in run.rows[2]["content"]
    assert run.rows[3]["tool_output"].count("[redacted:") == 2
    assert "[redacted:KEY]" in run.summary["message"]


def found_in(content: bytes) -> list[bytes]:
    return [needle for needle in NEEDLES if needle in content]


def everything(bench, run) -> Iterator[tuple[str, bytes]]:
    """Each artifact as it is, and opened as far as it opens."""
    files = sorted(path for path in run.folder.rglob("*") if path.is_file())
    files += [path for path in bench.journal().parent.glob("*") if path.is_file()]
    names = {path.name for path in files}
    assert names >= {"trace.parquet", "events.jsonl.zst", "repo.bundle", "run.log", "config.json", "journal.jsonl"}
    assert any(name.startswith("agent-state-") for name in names)
    for path in files:
        data = path.read_bytes()
        yield str(path), data
        if path.suffix == ".parquet":
            yield str(path), json.dumps(pq.read_table(path).to_pylist(), default=str, ensure_ascii=False).encode()
            yield str(path), repr(pq.read_metadata(path).metadata).encode()
        elif path.suffix == ".zst":
            yield str(path), zstandard.ZstdDecompressor().stream_reader(BytesIO(data)).read()
        elif path.suffix == ".bundle":
            yield from of_bundle(path, bench.root)
        elif path.name.startswith("agent-state-"):
            with tarfile.open(fileobj=BytesIO(data)) as archive:
                for member in archive:
                    content = archive.extractfile(member).read()
                    assert json.loads(content)["KEY"] == "*" * len(KEY)
                    yield f"{path}/{member.name}", content


def of_bundle(path: Path, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every object: blobs, trees with their names, commits with their messages."""
    repository = folder / f"unpacked-{path.stem}-{path.parent.name}"
    subprocess.run(["git", "init", "-q", "--bare", repository], check=True)
    if path.name != "000001.bundle" and path.parent.name == "repository":
        repository = folder / "unpacked-000001-repository"
    fetch = ["git", "fetch", "-q", path.absolute(), "+refs/*:refs/x/*"]
    subprocess.run(fetch, cwd=repository, check=True)
    words = ["git", "cat-file", "--batch", "--batch-all-objects"]
    objects = subprocess.run(words, cwd=repository, check=True, capture_output=True).stdout
    assert path.name != "repo.bundle" or len(objects) > 300_000
    yield str(path), objects
