"""What every storage must do, as tests that a plugin's author runs against a real one.

    class TestMyStorage(StorageContract):
        @pytest.fixture
        def make_storage(self) -> MakeStorage:
            async def make() -> Storage:
                return await MY_STORAGE.create(MyOptions(...))

            return make

        @pytest.fixture
        def oracle(self) -> StorageOracle:
            return MyOracle(...)

Every call of `make_storage` opens the same place anew, as another process would. The oracle looks at that place
another way than through the storage under test: its API, its files. A test that is overridden should say why.
"""

# ruff: noqa: D102 - a test says by its name what it shows

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Protocol

import anyio
import pytest

from envoi_trace_core.errors import ConditionFailedError, KeyMissingError, StorageError
from envoi_trace_core.protocols import Absent, AtVersion, Storage

MakeStorage = Callable[[], Awaitable[Storage]]


class StorageOracle(Protocol):
    """Looks at the backend another way than through the storage under test."""

    async def read(self, key: str) -> bytes | None:
        """The object under a key; None when there is none."""
        ...

    async def write(self, key: str, data: bytes) -> None:
        """Put an object there, as another program would."""
        ...

    async def keys(self) -> Sequence[str]:
        """Every object of the place, leftovers of unfinished writes included."""
        ...


class StorageContract:
    """Subclass it, and supply `make_storage` and `oracle` for an empty place."""

    pytestmark: ClassVar[Sequence[pytest.MarkDecorator]] = [pytest.mark.anyio]
    racers: ClassVar[int] = 8
    """How many writers race for one key."""
    large_bytes: ClassVar[int] = 20 * 1024 * 1024
    """The size of an object that is large for this backend (one that goes up in several pieces, say)."""
    clock_tolerance_s: ClassVar[float] = 120.0
    """How far the backend's clock may be from this machine's."""

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        """Override."""
        raise NotImplementedError

    @pytest.fixture
    def oracle(self) -> StorageOracle:
        """Override."""
        raise NotImplementedError

    @pytest.fixture
    async def storage(self, make_storage: MakeStorage) -> AsyncGenerator[Storage]:
        """The storage, closed at the end."""
        storage = await make_storage()
        try:
            yield storage
        finally:
            await storage.close()

    # -- put and get --------------------------------------------------------------------------------

    async def test_is_a_storage(self, storage: Storage) -> None:
        assert isinstance(storage, Storage)

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 300], ids=["empty", "one byte", "binary"])
    async def test_gives_back_what_was_put(self, storage: Storage, oracle: StorageOracle, data: bytes) -> None:
        await storage.put("trajectories/a/trace.parquet", data)
        assert await storage.get("trajectories/a/trace.parquet") == data
        assert await oracle.read("trajectories/a/trace.parquet") == data

    async def test_puts_a_file_by_its_path(self, storage: Storage, oracle: StorageOracle, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"from a file")
        await storage.put("trajectories/a/repo.bundle", source)
        assert await oracle.read("trajectories/a/repo.bundle") == b"from a file"
        assert source.read_bytes() == b"from a file"

    async def test_puts_a_large_file(self, storage: Storage, tmp_path: Path) -> None:
        source = tmp_path / "large"
        block = bytes(range(256)) * 4096
        with source.open("wb") as file:
            for _ in range(self.large_bytes // len(block)):
                file.write(block)
        await storage.put("large", source)
        info = await storage.stat("large")
        assert info is not None
        assert info.size_bytes == source.stat().st_size
        assert await storage.get("large", start=info.size_bytes - 7) == block[-7:]

    async def test_a_source_file_that_is_missing_is_a_storage_error(
        self, storage: Storage, oracle: StorageOracle, tmp_path: Path
    ) -> None:
        with pytest.raises(StorageError):
            await storage.put("a/b", tmp_path / "missing")
        assert await oracle.keys() == []

    async def test_a_put_replaces_the_object(self, storage: Storage, oracle: StorageOracle) -> None:
        await storage.put("a", b"a longer first one")
        await storage.put("a", b"second")
        assert await storage.get("a") == b"second"
        assert await oracle.keys() == ["a"]

    async def test_keys_may_hold_blanks_and_other_letters(self, storage: Storage, oracle: StorageOracle) -> None:
        key = "trajectories/a b/ü+%41.txt"
        await storage.put(key, b"1")
        assert await oracle.read(key) == b"1"
        assert [info.key for info in await storage.list("trajectories/a ")] == [key]

    async def test_an_object_that_another_program_wrote_is_read(self, storage: Storage, oracle: StorageOracle) -> None:
        await oracle.write("trajectories/x/trace.parquet", b"foreign")
        assert await storage.get("trajectories/x/trace.parquet") == b"foreign"

    async def test_is_seen_by_another_client_at_once(self, storage: Storage, make_storage: MakeStorage) -> None:
        await storage.put("a", b"1")
        other = await make_storage()
        try:
            assert await other.get("a") == b"1"
        finally:
            await other.close()

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [(0, 3, b"012"), (3, None, b"3456789"), (8, 100, b"89"), (2, 0, b""), (0, None, b"0123456789"), (9, 1, b"9")],
    )
    async def test_gives_ranges(self, storage: Storage, start: int, length: int | None, expected: bytes) -> None:
        await storage.put("a", b"0123456789")
        assert await storage.get("a", start=start, length=length) == expected

    async def test_a_range_behind_the_end_is_empty(self, storage: Storage) -> None:
        await storage.put("a", b"0123456789")
        assert await storage.get("a", start=10) == b""
        assert await storage.get("a", start=50, length=5) == b""

    async def test_a_key_without_an_object_is_missing(self, storage: Storage) -> None:
        with pytest.raises(KeyMissingError):
            await storage.get("trajectories/none/trace.parquet")
        assert await storage.stat("trajectories/none/trace.parquet") is None

    async def test_a_folder_of_objects_is_no_object(self, storage: Storage) -> None:
        await storage.put("trajectories/a/b", b"1")
        assert await storage.stat("trajectories/a") is None
        with pytest.raises(KeyMissingError):
            await storage.get("trajectories/a")

    async def test_uri_names_the_object(self, storage: Storage) -> None:
        assert storage.uri("trajectories/a/trace.parquet").endswith("trajectories/a/trace.parquet")

    # -- versions -----------------------------------------------------------------------------------

    async def test_stat_tells_size_version_and_time(self, storage: Storage) -> None:
        version = await storage.put("a", b"12345")
        info = await storage.stat("a")
        assert info is not None
        assert (info.key, info.size_bytes, info.version) == ("a", 5, version)
        assert abs((datetime.now(UTC) - info.modified_at).total_seconds()) < self.clock_tolerance_s

    async def test_every_change_gives_another_version(self, storage: Storage) -> None:
        versions = [await storage.put("a", b"%02d" % number) for number in range(20)]
        assert len(set(versions)) == 20

    async def test_absent_puts_only_where_there_is_nothing(self, storage: Storage) -> None:
        await storage.put("a", b"first", condition=Absent())
        with pytest.raises(ConditionFailedError):
            await storage.put("a", b"second", condition=Absent())
        assert await storage.get("a") == b"first"

    async def test_a_version_holds_until_the_next_put(self, storage: Storage) -> None:
        first = await storage.put("a", b"1")
        second = await storage.put("a", b"2", condition=AtVersion(first))
        with pytest.raises(ConditionFailedError):
            await storage.put("a", b"3", condition=AtVersion(first))
        await storage.put("a", b"4", condition=AtVersion(second))
        assert await storage.get("a") == b"4"

    async def test_a_version_of_stat_and_of_list_holds(self, storage: Storage) -> None:
        await storage.put("a", b"1")
        info = await storage.stat("a")
        assert info is not None
        await storage.put("a", b"2", condition=AtVersion(info.version))
        [listed] = await storage.list("a")
        await storage.put("a", b"3", condition=AtVersion(listed.version))

    async def test_a_version_does_not_hold_for_what_is_gone(self, storage: Storage, oracle: StorageOracle) -> None:
        version = await storage.put("a", b"1")
        await storage.delete("a")
        with pytest.raises(ConditionFailedError):
            await storage.put("a", b"2", condition=AtVersion(version))
        assert await oracle.keys() == []

    async def test_a_version_does_not_hold_after_a_foreign_write(self, storage: Storage, oracle: StorageOracle) -> None:
        version = await storage.put("a", b"1")
        await oracle.write("a", b"foreign")
        with pytest.raises(ConditionFailedError):
            await storage.put("a", b"2", condition=AtVersion(version))
        assert await oracle.read("a") == b"foreign"

    async def test_one_of_many_racers_wins(self, make_storage: MakeStorage, oracle: StorageOracle) -> None:
        wins: list[int] = []
        clients = [await make_storage() for _ in range(self.racers)]

        async def race(number: int) -> None:
            try:
                await clients[number].put("lease", b"%d" % number, condition=Absent())
            except ConditionFailedError:
                return
            wins.append(number)

        async with anyio.create_task_group() as group:
            for number in range(self.racers):
                group.start_soon(race, number)
        for client in clients:
            await client.close()
        assert len(wins) == 1
        assert await oracle.read("lease") == b"%d" % wins[0]

    async def test_no_conditional_put_overwrites_another(self, make_storage: MakeStorage) -> None:
        """A counter that all increase is as high as there were increases."""
        clients = [await make_storage() for _ in range(3)]
        await clients[0].put("counter", b"0")

        async def count(client: Storage) -> None:
            done = 0
            while done < 5:
                info = await client.stat("counter")
                assert info is not None
                value = int(await client.get("counter"))
                try:
                    await client.put("counter", b"%d" % (value + 1), condition=AtVersion(info.version))
                except ConditionFailedError:
                    continue
                done += 1

        async with anyio.create_task_group() as group:
            for client in clients:
                group.start_soon(count, client)
        assert await clients[0].get("counter") == b"15"
        for client in clients:
            await client.close()

    # -- wholeness ----------------------------------------------------------------------------------

    async def test_a_reader_beside_a_writer_sees_whole_objects(self, make_storage: MakeStorage) -> None:
        reader, writer = await make_storage(), await make_storage()
        objects = [bytes([number]) * (50_000 + 10_000 * number) for number in range(4)]
        await writer.put("a", objects[0])
        is_done = False

        async def read() -> None:
            while not is_done:
                assert await reader.get("a") in objects

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            for number in range(20):
                await writer.put("a", objects[number % 4])
            is_done = True
        await reader.close()
        await writer.close()

    async def test_a_cancelled_put_leaves_the_old_or_the_new(self, storage: Storage, oracle: StorageOracle) -> None:
        old, new = b"old" * 1000, b"new" * 1_000_000
        await storage.put("a", old)
        for delay_s in (0.0, 0.001, 0.005, 0.02):
            with anyio.move_on_after(delay_s):
                await storage.put("a", new)
        assert await storage.get("a") in (old, new)
        assert await oracle.keys() == ["a"]

    # -- list and delete ----------------------------------------------------------------------------

    async def test_lists_by_the_beginning_of_keys(self, storage: Storage) -> None:
        for key in ("trajectories/ab/z", "trajectories/ab/a", "trajectories/abc/x", "trajectories/b", "other"):
            await storage.put(key, b"12")
        found = await storage.list("trajectories/ab")
        assert [info.key for info in found] == ["trajectories/ab/a", "trajectories/ab/z", "trajectories/abc/x"]
        assert [info.key for info in await storage.list("trajectories/ab/")] == [
            "trajectories/ab/a",
            "trajectories/ab/z",
        ]
        assert {info.size_bytes for info in found} == {2}
        assert len(await storage.list("")) == 5
        assert await storage.list("trajectories/none/") == []

    async def test_deletes(self, storage: Storage, oracle: StorageOracle) -> None:
        await storage.put("trajectories/a/resume/lease.json", b"1")
        await storage.put("trajectories/a/trace.parquet", b"1")
        await storage.delete("trajectories/a/resume/lease.json")
        assert await oracle.keys() == ["trajectories/a/trace.parquet"]
        assert await storage.stat("trajectories/a/resume/lease.json") is None

    async def test_deleting_what_is_not_there_is_fine(self, storage: Storage) -> None:
        await storage.delete("trajectories/a/none")
        await storage.put("a", b"1")
        await storage.delete("a")
        await storage.delete("a")

    async def test_puts_and_deletes_side_by_side_disturb_nothing(self, storage: Storage, oracle: StorageOracle) -> None:
        async def come_and_go(number: int) -> None:
            for _ in range(5):
                await storage.put(f"shared/folder/{number}", b"1")
                await storage.delete(f"shared/folder/{number}")
            await storage.put(f"shared/folder/{number}", b"%d" % number)

        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(come_and_go, number)
        assert sorted(await oracle.keys()) == [f"shared/folder/{number}" for number in range(4)]

    async def test_closing_twice_is_fine(self, make_storage: MakeStorage) -> None:
        storage = await make_storage()
        await storage.close()
        await storage.close()
