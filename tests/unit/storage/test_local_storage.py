"""The `local` storage: what every storage must do, and what is its own."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC221, ASYNC240 - a test may wait

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from envoi_trace_core.builtin import local_storage
from envoi_trace_core.builtin.local_storage import LOCAL_STORAGE, LocalStorage, LocalStorageOptions
from envoi_trace_core.errors import ConditionFailedError, StorageError, UsageError
from envoi_trace_core.protocols import AtVersion, Storage
from envoi_trace_core.testing.storage_contract import MakeStorage, StorageContract

INCREASE = """
import sys, anyio
from pathlib import Path
from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.errors import ConditionFailedError
from envoi_trace_core.protocols import AtVersion

async def main():
    storage = LocalStorage(Path(sys.argv[1]))
    done = 0
    while done < 25:
        info = await storage.stat("counter")
        value = int(await storage.get("counter"))
        try:
            await storage.put("counter", b"%d" % (value + 1), condition=AtVersion(info.version))
        except ConditionFailedError:
            continue
        done += 1

anyio.run(main)
"""

PUT_FOREVER = """
import sys, anyio
from pathlib import Path
from envoi_trace_core.builtin.local_storage import LocalStorage

async def main():
    storage = LocalStorage(Path(sys.argv[1]))
    number = 0
    while True:
        await storage.put("a/b", bytes([number % 256]) * 3_000_000)
        number += 1
        print(number, flush=True)

anyio.run(main)
"""


class FileOracle:
    def __init__(self, root: Path) -> None:
        self.root = root

    async def read(self, key: str) -> bytes | None:
        path = self.root / key
        return path.read_bytes() if path.is_file() else None

    async def write(self, key: str, data: bytes) -> None:
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).write_bytes(data)

    async def keys(self) -> Sequence[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


class TestLocalStorage(StorageContract):
    @pytest.fixture
    def make_storage(self, root: Path) -> MakeStorage:
        async def make() -> Storage:
            return await LOCAL_STORAGE.create(LocalStorageOptions(root=str(root)))

        return make

    @pytest.fixture
    def oracle(self, root: Path) -> FileOracle:
        return FileOracle(root)

    async def test_processes_race_safely(self, storage: Storage, root: Path) -> None:
        await storage.put("counter", b"0")
        racers = [subprocess.Popen([sys.executable, "-c", INCREASE, str(root)]) for _ in range(3)]
        assert [racer.wait(timeout=60) for racer in racers] == [0, 0, 0]
        assert await storage.get("counter") == b"75"

    async def test_a_put_looks_at_the_version_only_when_nobody_else_writes(self, storage: Storage, root: Path) -> None:
        import fcntl

        version = await storage.put("a", b"1")
        descriptor = os.open(root, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        refused: list[ConditionFailedError] = []

        async def put() -> None:
            try:
                await storage.put("a", b"2", condition=AtVersion(version))
            except ConditionFailedError as error:
                refused.append(error)

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(put)
                with anyio.fail_after(10):
                    while len(list(root.iterdir())) < 2:  # the object and the put's temporary file
                        await anyio.sleep(0.001)
                await anyio.sleep(0.05)
                (root / "a").write_bytes(b"of another process")
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)
        assert len(refused) == 1
        assert (root / "a").read_bytes() == b"of another process"

    async def test_a_killed_put_leaves_a_whole_object_and_nothing_listed(self, storage: Storage, root: Path) -> None:
        for _ in range(3):
            process = subprocess.Popen([sys.executable, "-c", PUT_FOREVER, str(root)], stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.readline()
            process.kill()
            process.communicate(timeout=30)
            data = await storage.get("a/b")
            assert len(data) == 3_000_000
            assert len(set(data)) == 1
        assert [info.key for info in await storage.list("")] == ["a/b"]

    async def test_what_a_killed_put_left_goes_in_time(
        self, storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        leftover = root / "a" / f"{local_storage.TEMPORARY_PREFIX}12345678-dead"
        leftover.parent.mkdir(parents=True)
        leftover.write_bytes(b"half")
        await storage.put("a/b", b"1")
        assert leftover.exists()
        old = time.time() - local_storage.STALE_TEMPORARY_S - 1
        os.utime(leftover, (old, old))
        await storage.put("a/b", b"2")
        assert not leftover.exists()

    @pytest.mark.parametrize(
        "key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/", "a\0b", ".envoi-tmp-x/y"]
    )
    async def test_no_key_leaves_the_root(self, storage: Storage, root: Path, key: str) -> None:
        with pytest.raises(StorageError, match="can't be a key"):
            await storage.put(key, b"1")
        with pytest.raises(StorageError, match="can't be a key"):
            await storage.get(key)
        assert list(root.rglob("*")) == []

    async def test_no_space_left_says_so_and_leaves_nothing(
        self, storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The operating system's own error, at the moment at which a full disk gives it."""

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="no space left") as caught:
            await storage.put("trajectories/a/trace.parquet", b"1")
        assert caught.value.retryable
        assert caught.value.mend
        assert list(root.rglob("*")) == []

    async def test_a_full_disk(self, tmp_path: Path) -> None:
        """A real one."""
        mount = tmp_path / "small"
        mount.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip("no right to mount a file system here")
        try:
            storage = LocalStorage(mount)
            await storage.put("a", b"1" * 10_000)
            with pytest.raises(StorageError, match="no space left"):
                await storage.put("a", b"2" * 1_000_000)
            assert await storage.get("a") == b"1" * 10_000
            assert [path.name for path in mount.iterdir()] == ["a"]
            await storage.put("a", b"3" * 10_000)
        finally:
            subprocess.run(["umount", str(mount)], check=True)

    async def test_deleting_the_last_object_removes_its_folders_only(self, storage: Storage, root: Path) -> None:
        await storage.put("a/b/c/d", b"1")
        await storage.put("a/x", b"1")
        await storage.delete("a/b/c/d")
        assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == ["a", "a/x"]
        await storage.delete("a/x")
        assert root.is_dir()
        assert list(root.iterdir()) == []

    async def test_a_key_below_an_object_is_an_error_and_no_harm(self, storage: Storage, root: Path) -> None:
        await storage.put("a", b"1")
        with pytest.raises(StorageError, match="can't be written"):
            await storage.put("a/b", b"2")
        assert await storage.stat("a/b") is None
        assert await storage.get("a") == b"1"

    async def test_a_circle_of_links_is_listed_once(self, storage: Storage, root: Path) -> None:
        await storage.put("a/b", b"1")
        (root / "a" / "loop").symlink_to(root / "a", target_is_directory=True)
        assert [info.key for info in await storage.list("")] == ["a/b"]

    async def test_locks_by_a_file_where_a_folder_can_not_be_locked(
        self, storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import fcntl

        real = fcntl.flock

        def like_nfs(descriptor: int, operation: int) -> None:
            if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            real(descriptor, operation)

        if not Path("/proc/self/fd").exists():
            pytest.skip("needs /proc")
        monkeypatch.setattr(fcntl, "flock", like_nfs)
        await storage.put("a", b"1")
        assert await storage.get("a") == b"1"
        assert [info.key for info in await storage.list("")] == ["a"]


@pytest.mark.anyio
async def test_root_defaults_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = await LOCAL_STORAGE.create(LocalStorageOptions())
    assert storage.uri("trajectories/a") == str(tmp_path / "trajectories" / "a")


@pytest.mark.anyio
async def test_a_root_that_can_not_be_made_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can't be made"):
        await LOCAL_STORAGE.create(LocalStorageOptions(root=str(tmp_path / "file" / "root")))


def test_the_plugin_module_is_light() -> None:
    code = (
        "import sys, envoi_trace_core.builtin.local_storage;"
        "print([m for m in ('anyio', 'cattrs', 'pyarrow', 'zstandard') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
