"""What a resume elsewhere needs is stored whole, in order, through outages and lost answers."""

from __future__ import annotations

from pathlib import Path

import anyio
import attrs
import pytest

from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.errors import ConditionFailedError, StorageError
from envoi_trace_core.options import parse_options
from envoi_trace_core.repo.git import Git
from envoi_trace_core.repo.increments import has_increment, import_increments, write_increment
from envoi_trace_core.repo.mirror import RECORD_REF
from envoi_trace_core.run.preserve import Moment, Preserver
from envoi_trace_core.run.restoring import StoredRun, bring_back
from envoi_trace_core.run.resume import without_secrets
from envoi_trace_core.run.stored_log import StoredLog
from envoi_trace_core.specs import option
from envoi_trace_core.trace.keys import events_path, journal_path

pytestmark = pytest.mark.anyio


@attrs.frozen
class Flaky(LocalStorage):
    """A store that can be down, and that can take an object and lose the answer."""

    faults: dict[str, int] = attrs.field(factory=lambda: {"down": 0, "lost_answers": 0})

    async def put(self, key, data, *, condition=None):
        if self.faults["down"]:
            raise StorageError("the store is down", retryable=True)
        version = await LocalStorage.put(self, key, data, condition=condition)
        if self.faults["lost_answers"]:
            self.faults["lost_answers"] -= 1
            raise StorageError("no answer", retryable=True)
        return version


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flaky:
    monkeypatch.setenv("ENVOI_TRACE_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "storage").mkdir()
    return Flaky(tmp_path / "storage")


def lines(path: Path, first: int, count: int) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(f'{{"n":{n}}}\n' for n in range(first, first + count))
    return path.stat().st_size


async def test_a_log_is_stored_in_segments_that_join_to_it(storage, tmp_path):
    path = tmp_path / "log"
    log = await StoredLog.find(storage, "log/", path)
    for first in (0, 5, 10):
        await log.upload(lines(path, first, 5))
    found = await StoredLog.find(storage, "log/", path)
    assert len(found.sizes_bytes) == 3
    assert await found.download() == path.read_bytes()
    assert await found.is_behind_local()
    path.write_bytes(path.read_bytes()[:-5] + b"9999\n")
    assert not await found.is_behind_local()


async def test_an_object_whose_answer_was_lost_is_not_stored_twice(storage, tmp_path):
    path = tmp_path / "log"
    log = await StoredLog.find(storage, "log/", path)
    storage.faults["lost_answers"] = 1
    with pytest.raises(StorageError):
        await log.upload(lines(path, 0, 3))
    await log.upload(lines(path, 3, 3))
    assert await (await StoredLog.find(storage, "log/", path)).download() == path.read_bytes()


async def test_another_writers_object_is_not_overwritten(storage, tmp_path):
    path = tmp_path / "log"
    log = await StoredLog.find(storage, "log/", path)
    await storage.put("log/000001.jsonl", b'{"other":1}\n')
    with pytest.raises(ConditionFailedError):
        await log.upload(lines(path, 0, 3))
    assert await storage.get("log/000001.jsonl") == b'{"other":1}\n'


@pytest.mark.parametrize("end", [0, 8, 16, 20, 40, 48])
async def test_what_is_stored_can_be_cut_at_any_line(storage, tmp_path, end):
    path = tmp_path / "log"
    log = await StoredLog.find(storage, "log/", path)
    for first in (0, 2, 4):
        await log.upload(lines(path, first, 2))
    await log.cut(end)
    found = await StoredLog.find(storage, "log/", path)
    assert await found.download() == path.read_bytes()[:end]
    assert found.sizes_bytes == log.sizes_bytes


async def never() -> bool:
    return False


async def test_an_outage_is_waited_out_and_only_whole_moments_are_told(storage, monkeypatch):
    monkeypatch.setattr("envoi_trace_core.run.preserve.FIRST_RETRY_S", 0.01)
    storage.faults["down"] = 1
    stored = await bring_back(storage, "t", lambda _: None)
    async with Preserver.open(stored, never, lambda _: None) as preserver:
        moment = Moment(lines(journal_path("t"), 0, 3), lines(events_path("t"), 0, 9), None)
        lines(journal_path("t"), 3, 3)  # on disk, and not yet told
        preserver.submit(moment)
        with anyio.fail_after(5):
            while preserver.last_error is None:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        with pytest.raises(StorageError, match="the store is down"):
            await preserver.flush(0.05)
        storage.faults["down"] = 0
        await preserver.flush(5)
    found = await StoredRun.find(storage, "t")
    assert found.journal.size_bytes == moment.journal_bytes
    assert await found.events.download() == events_path("t").read_bytes()


async def test_an_increment_holds_the_journals_commit_though_the_record_is_ahead(storage, tmp_path):
    git = Git.create(tmp_path / "mirror")
    commits: list[str] = []
    for n in range(4):
        blob = git("hash-object", "-w", "--stdin", stdin=f"{n}\n".encode()).decode().strip()
        tree = git("mktree", stdin=f"100644 blob {blob}\tfile\n".encode()).decode().strip()
        commits.append(git.text("commit-tree", tree, "-m", str(n), *(["-p", commits[-1]] if commits else [])))
    git("update-ref", RECORD_REF, commits[3])
    bundles = [tmp_path / f"{number}.bundle" for number in (1, 2)]
    assert write_increment(git, bundles[0], number=1, head=commits[0])
    assert write_increment(git, tmp_path / "lost.bundle", number=2, head=commits[1])  # it never reached the store
    assert write_increment(git, bundles[1], number=2, head=commits[2])
    assert not write_increment(git, tmp_path / "none.bundle", number=3, head=commits[2])
    import_increments(tmp_path / "there", bundles, commits[2])
    there = Git(directory=tmp_path / "there")
    assert there.text("rev-list", RECORD_REF).split() == commits[2::-1]
    assert has_increment(tmp_path / "there", 2)
    assert not has_increment(tmp_path / "there", 3)
    with pytest.raises(StorageError):
        import_increments(tmp_path / "incomplete", bundles[1:], commits[2])


def test_secret_options_are_not_stored():
    @attrs.frozen
    class Options:
        token: str | None = option(None, "a token", secret=True)
        api_key: str | None = option(None, "a key", secret=True)
        size: int = option(1, "a size")

    words = ("token=abc", "size=3", "api-key=def")
    assert parse_options(Options, words, "agent", "a").api_key == "def"
    assert without_secrets(words, Options) == ("size=3",)
