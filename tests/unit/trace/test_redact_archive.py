"""An agent's saved state without secrets is still what the agent saved."""

from __future__ import annotations

import gzip
import io
import json
import random
import sqlite3
import tarfile
from urllib.parse import quote

import pytest
import zstandard

from envoi_trace_core.errors import StorageError
from envoi_trace_core.trace import redact_archive
from envoi_trace_core.trace.redact import Redactor
from envoi_trace_core.trace.redact_archive import masked_state

SECRET = "canary/sécret+of-the plugin"
REDACTOR = Redactor({"CANARY": SECRET})
FORMS = (SECRET, quote(SECRET, safe=""), json.dumps(SECRET)[1:-1])


def tar_of(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def files_of(state: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(state)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}


def line(text: str) -> bytes:
    return json.dumps({"output": f"it is {text} indeed"}).encode() + b"\n"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_each_file_of_a_tar_is_masked_and_keeps_its_length(form: str, mode: str) -> None:
    files = {"sessions/a.jsonl": line("nothing"), "sessions/b.jsonl": line(form), f"sessions/{'long' * 60}": b"x"}
    masked = files_of(masked_state(tar_of(files, mode), REDACTOR))
    assert masked.keys() == files.keys()
    assert {name: len(content) for name, content in masked.items()} == {n: len(c) for n, c in files.items()}
    assert masked["sessions/a.jsonl"] == files["sessions/a.jsonl"]
    assert set(json.loads(masked["sessions/b.jsonl"])["output"]) >= {"*"}
    assert REDACTOR.bytes(b"".join(masked.values())) == b"".join(masked.values())


def test_a_zstd_tar_and_a_bare_file_are_masked_too() -> None:
    packed = masked_state(zstandard.compress(tar_of({"state": line(SECRET)}, "w")), REDACTOR)
    content = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read()
    assert b"***" in files_of(content)["state"]
    escaped = len(json.dumps(SECRET)) - 2
    assert json.loads(masked_state(line(SECRET), REDACTOR))["output"] == f"it is {'*' * escaped} indeed"
    assert gzip.decompress(masked_state(gzip.compress(line(SECRET)), REDACTOR)).count(b"*") == escaped


def test_a_secret_at_any_place_of_a_large_file_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact_archive, "_BLOCK_BYTES", 5000)
    draw = random.Random(3)
    content = bytearray(draw.randbytes(200_000).replace(b"*", b"+"))
    places = range(100, 199_000, 1777)
    for place in places:
        content[place : place + len(SECRET.encode())] = SECRET.encode()
    masked = files_of(masked_state(tar_of({"big": bytes(content)}), REDACTOR))["big"]
    assert len(masked) == len(content)
    assert SECRET.encode() not in masked
    assert masked.count(b"*") == len(SECRET.encode()) * len(places)


def test_a_database_can_be_read_after_it_was_masked(tmp_path) -> None:
    database = sqlite3.connect(tmp_path / "db")
    with database:
        database.execute("create table part (id integer primary key, data text)")
        database.executemany("insert into part (data) values (?)", [(line(SECRET).decode() * n,) for n in range(1, 80)])
    database.close()
    (tmp_path / "db").write_bytes(
        files_of(masked_state(tar_of({"db": (tmp_path / "db").read_bytes()}), REDACTOR))["db"]
    )
    database = sqlite3.connect(tmp_path / "db")
    assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
    rows = [text for (text,) in database.execute("select data from part order by id")]
    assert len(rows) == 79
    assert not any(SECRET in text for text in rows)
    assert all(json.loads(text.splitlines()[0])["output"].startswith("it is *") for text in rows)
    database.close()


def test_links_are_left_out_and_what_cannot_be_opened_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with tarfile.open(fileobj=io.BytesIO(masked_state(made.getvalue(), REDACTOR))) as archive:
        assert archive.getmembers() == []
    whole = tar_of({"a": line(SECRET) * 1000})
    for broken in (whole[: len(whole) // 2], b"\x1f\x8bnot gzip", b"\x28\xb5\x2f\xfdnot zstd"):
        with pytest.raises(StorageError, match="can't be opened"):
            masked_state(broken, REDACTOR)
    monkeypatch.setattr(redact_archive, "MAX_UNPACKED_BYTES", 10_000)
    with pytest.raises(StorageError, match="more than 10000 bytes"):
        masked_state(tar_of({"bomb": bytes(1_000_000)}), REDACTOR)


def test_without_secrets_a_state_stays_as_it_is() -> None:
    state = b"\x1f\x8b whatever"
    assert masked_state(state, Redactor({})) is state
