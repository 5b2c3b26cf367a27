"""SQL over traces: what it gives, what it leaves out, and what it refuses."""

from __future__ import annotations

import shutil
import struct

import anyio
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envoi_trace_core.analysis import query_fetch
from envoi_trace_core.analysis.query_run import query_storage
from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.errors import UsageError
from envoi_trace_core.trace.schema import TRAJECTORY_KEY, VERSION_KEY


@pytest.fixture
def ask(root):
    async def run(sql, storage=None, **options):
        rows = []

        def take(result):
            rows[:] = [result.columns, *result.rows]

        summary = await query_storage(storage or LocalStorage(root), sql, take, **options)
        return rows[1:], summary

    return run


@pytest.fixture
def rows(ask):
    return lambda sql, **options: anyio.run(lambda: ask(sql, **options))[0]


def test_parts_have_their_nested_fields_by_dots(store, rows):
    store("a")
    sql = "SELECT part, evaluation.passed, testing_state.solved_paths, token_usage.total, repo_checkpoint.commit_after"
    found = rows(f"{sql} FROM parts WHERE part IN (2, 3) ORDER BY part")
    assert found == [(2, None, 0, None, None), (3, 2, 1, 105, f"{3:040x}")]
    assert rows("SELECT labels['team'], envoi_calls[1].path, started_at FROM parts WHERE part = 5") == [
        ("a", "sort", "2026-01-02T03:04:05.678901+00:00")
    ]
    # Sums are whole numbers, and not the decimals that Arrow has.
    assert rows("SELECT sum(token_usage.total), avg(part), count(*) FROM parts") == [(315, 3.5, 6)]


def test_trajectories_has_one_row_each_also_without_a_part(store, rows):
    store("a")
    store("b", parts=0, reason="envoi_error", model="m", batch="night", trial=2)
    store("c", parts=3, passing=(2,), reason=None)
    columns = "trajectory_id, model, batch, trial, session_end_reason, total_parts, solved, solved_paths, total_paths"
    assert rows(f"SELECT {columns} FROM trajectories ORDER BY 1") == [
        ("a", None, None, None, "solved", 6, True, 3, 3),
        ("b", "m", "night", 2, "envoi_error", 0, False, 0, 3),
        ("c", None, None, None, None, 3, False, 2, 3),
    ]
    found = rows("SELECT labels, token_usage.total, cost_usd, agent_version FROM trajectories ORDER BY trajectory_id")
    assert found[0] == ({"team": "a"}, 315, 0.75, "1.2")


def test_an_empty_storage_has_the_same_columns(store, rows):
    assert rows("SELECT count(evaluation.passed) FROM parts") == [(0,)]
    assert rows("SELECT count(solved) FROM trajectories") == [(0,)]
    empty = [rows(f"DESCRIBE {view}") for view in ("parts", "trajectories")]
    store("a")
    full = [rows(f"DESCRIBE {view}") for view in ("parts", "trajectories")]
    assert [[(row[0], row[1]) for row in view] for view in empty] == [
        [(row[0], row[1]) for row in view] for view in full
    ]


# -- the statement ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT part FROM parts WHERE nope = 1", r'"nope" not found .*\(column 30\)'),
        ("SELECT part\nFROM parts\nWHERE x ==", r"syntax error .*\(line 3, column \d+\)"),
        ("SELECT 'é', nope FROM parts", r"\(column 13\)"),
        ("SELECT CAST('a' AS INT) FROM parts", "Could not convert"),
        ("FROM no_such_table", "no_such_table does not exist"),
    ],
)
def test_a_wrong_statement_says_where_in_one_line(store, rows, sql, message):
    store("a")
    with pytest.raises(UsageError, match=message) as raised:
        rows(sql)
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    "sql",
    ["", "  ;", "SELECT 1; SELECT 2", "CREATE TABLE x (i INT)", "DROP VIEW parts", "SET memory_limit = '1TB'",
     "INSTALL httpfs", "LOAD httpfs", "PRAGMA database_list", "EXPORT DATABASE '/tmp'", "CALL pragma_version()"],
)  # fmt: skip
def test_a_query_only_reads(store, rows, sql):
    store("a")
    with pytest.raises(UsageError):
        rows(sql)


def test_a_query_reads_no_other_file(store, rows, root, tmp_path):
    store("a")
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    other = root / "trajectories" / "a" / "run.log"
    other.write_text("a\n1\n")
    for path in (secret, other, "/etc/passwd"):
        for sql in (f"FROM '{path}'", f"FROM read_csv('{path}')", f"FROM read_text('{path}')", f"ATTACH '{path}'"):
            with pytest.raises(UsageError):
                rows(sql)
    for sql in (
        "FROM read_text('https://example.org/x')",
        f"COPY parts TO '{tmp_path / 'out.csv'}'",
        "FROM glob('/*')",
    ):
        with pytest.raises(UsageError):
            rows(sql)
    assert not (tmp_path / "out.csv").exists()
    # Nor a variable of this program.
    trace = pa.table({"a": [1]})
    with pytest.raises(UsageError, match="trace does not exist"):
        rows("FROM trace")
    assert trace.num_rows


def test_paths_with_quotes_are_only_paths(store, ask, tmp_path, root):
    store("a")
    odd = tmp_path / "it's; DROP"
    shutil.move(root, odd)
    found, _ = anyio.run(lambda: ask("SELECT count(*) FROM parts", LocalStorage(odd)))
    assert found == [(6,)]


def test_memory_is_bounded_and_what_does_not_fit_goes_to_disk(store, rows):
    for number in range(4):
        store(f"t{number}", parts=2000, passing=())
    # About 100 MB to sort.
    sql = "SELECT count(*) FROM (SELECT DISTINCT content || i FROM parts, range(120) r(i))"
    assert rows(sql, memory_limit="60MB") == [(2000 * 120,)]
    with pytest.raises(UsageError, match="more memory"):
        rows("SELECT len(string_agg(repeat(content, 3000))) FROM parts", memory_limit="60MB")
    with pytest.raises(UsageError, match="no amount of memory"):
        rows("SELECT 1", memory_limit="much")


# -- files that are no whole traces -------------------------------------------------------------------------


def rewrite(path, change, version=None):
    table = pq.read_table(path)
    metadata = dict(pq.read_metadata(path).metadata)
    if version is not None:
        metadata[VERSION_KEY] = version
    metadata.pop(b"ARROW:schema", None)
    pq.write_table(change(table).replace_schema_metadata(metadata), path)


def test_older_minor_versions_are_read_with_what_they_have(store, ask):
    store("a")
    older = store("b")
    rewrite(older, lambda table: table.drop_columns(["cost_usd", "batch"]), b"1.0")
    newer = store("c")
    rewrite(newer, lambda table: table.append_column("colour", pa.array(["red"] * 6)), b"1.7")
    found, summary = anyio.run(
        lambda: ask("SELECT trajectory_id, sum(cost_usd), count(*), max(colour) FROM parts GROUP BY 1 ORDER BY 1")
    )
    assert found == [("a", 0.75, 6, None), ("b", None, 6, None), ("c", 0.75, 6, "red")]
    assert not summary.left_out


def test_another_version_of_the_same_name_is_read_by_name(store, rows):
    store("a")
    rewrite(store("b"), lambda table: table.select(sorted(set(table.column_names) - {"cost_usd"})))
    assert rows("SELECT trajectory_id, sum(part), sum(cost_usd) FROM parts GROUP BY 1 ORDER BY 1") == [
        ("a", 21, 0.75),
        ("b", 21, None),
    ]


def test_what_is_no_trace_is_left_out_and_told(store, ask, root):
    store("good")
    cut = store("cut")
    cut.write_bytes(cut.read_bytes()[:-100])
    store("empty").write_bytes(b"")
    store("text").write_bytes(b"PAR1 no, this is text")
    pq.write_table(pa.table({"a": [1]}), store("foreign"))
    rewrite(store("newer"), lambda table: table, b"2.0")
    head = store("head")
    head.write_bytes(b"XXXX" + head.read_bytes()[4:])
    footer = store("footer")
    data = bytearray(footer.read_bytes())
    data[-8 - struct.unpack("<I", data[-8:-4])[0] // 2] ^= 0xFF
    footer.write_bytes(data)
    (root / "trajectories" / "no-trace").mkdir()
    (root / "trajectories" / "file").write_text("")
    found, summary = anyio.run(lambda: ask("SELECT trajectory_id, count(*) FROM parts GROUP BY 1"))
    assert found == [("good", 6)]
    assert {"cut", "empty", "text", "foreign", "newer", "head", "footer"} == set(summary.left_out)
    assert "2.0" in summary.left_out["newer"].message
    assert anyio.run(lambda: ask("SELECT trajectory_id FROM trajectories"))[0] == [("good",)]


@pytest.mark.parametrize(
    "sql", ["SELECT sum(length(content)) FROM parts", "FROM parts", "SELECT max(summary) FROM parts"]
)
def test_a_file_whose_data_is_damaged_is_left_out_when_it_is_read(store, ask, sql):
    store("a")
    path = store("b", parts=400)
    store("c")
    whole = anyio.run(lambda: ask(sql))[0]
    data = bytearray(path.read_bytes())
    footer = struct.unpack("<I", data[-8:-4])[0]
    for at in range(2000, len(data) - footer - 8, 97):
        data[at] ^= 0xFF
    path.write_bytes(data)
    found, summary = anyio.run(lambda: ask(sql))
    assert set(summary.left_out) == {"b"}
    assert "damaged" in summary.left_out["b"].message
    path.unlink()
    assert found == anyio.run(lambda: ask(sql))[0] != whole


def test_an_error_of_the_statement_blames_no_file(store, rows):
    store("a")
    with pytest.raises(Exception, match=r"the query failed: .*boo"):
        rows("SELECT error('boo') FROM parts")


# -- a storage that is elsewhere ----------------------------------------------------------------------------

STATEMENTS = [
    "SELECT count(*) FROM parts",
    "SELECT trajectory_id, max(evaluation.passed), sum(token_usage.total) FROM parts GROUP BY 1 ORDER BY 1",
    "FROM parts ORDER BY trajectory_id, part LIMIT 3",
    "SELECT p FROM parts p WHERE p.content LIKE '%of 7 %' ORDER BY p.trajectory_id",
    "SELECT part FROM parts WHERE trajectory_id = 'b' AND (content || summary) LIKE '%9%' ORDER BY timestamp DESC",
    "SELECT COLUMNS('.*_status') FROM parts ORDER BY trajectory_id, part LIMIT 5",
    "SELECT t.agent, count(*) FROM trajectories t JOIN parts p USING (trajectory_id) WHERE patch != '' GROUP BY 1",
    (
        "SELECT trajectory_id, part, tool_name FROM parts SEMI JOIN "
        "(SELECT trajectory_id, min(part) AS part FROM parts WHERE evaluation.passed > 0 GROUP BY 1) "
        "USING (trajectory_id, part) ORDER BY 1"
    ),
    "SELECT column_name, min, max FROM (SUMMARIZE parts)",
    "SHOW TABLES",
    "DESCRIBE parts",
]


@pytest.mark.parametrize("sql", STATEMENTS)
def test_elsewhere_gives_the_same(store, ask, remote, monkeypatch, sql):
    store("a", parts=300)
    store("b", parts=500, reason=None)
    store("empty", parts=0)
    expected, _ = anyio.run(lambda: ask(sql))
    monkeypatch.setattr(query_fetch, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(query_fetch, "GAP_BYTES", 10)
    monkeypatch.setattr(query_fetch, "MAX_READ_BYTES", 3000)
    assert anyio.run(lambda: ask(sql, remote))[0] == expected


def test_elsewhere_only_what_is_needed_is_fetched(root, ask, remote, store, monkeypatch):
    path = store("a", parts=3)
    rewrite(path, lambda table: pa.concat_tables([table.slice(0, 1)] * 3000), b"1.0")
    noise = [bytes(range(33, 126)).decode()[at % 50 :] + str(at * 7919) for at in range(3000)]
    rewrite(path, lambda table: table.set_column(table.column_names.index("content"), "content", pa.array(noise)))
    size = path.stat().st_size
    monkeypatch.setattr(query_fetch, "GAP_BYTES", 100)
    monkeypatch.setattr(query_fetch, "WHOLE_BYTES", 1000)

    def cost(sql):
        return anyio.run(lambda: ask(sql, remote))[1].fetched_bytes

    footer = cost("FROM trajectories")
    assert cost("DESCRIBE parts") == footer
    assert footer < cost("SELECT sum(token_usage.total) FROM parts") < size / 2
    assert cost("SELECT sum(length(content)) FROM parts") > size / 3


@pytest.mark.anyio
async def test_a_trace_that_is_written_anew_while_it_is_fetched(store, ask, remote, monkeypatch, tmp_path):
    path = store("a", parts=300)
    monkeypatch.setattr(query_fetch, "WHOLE_BYTES", 1000)
    other = store("other", parts=600)
    other.rename(tmp_path / "other.parquet")
    other.parent.rmdir()

    def rewrite_after_footer(key, count):
        if count == 2:
            shutil.copy(tmp_path / "other.parquet", f"{path}.new")
            path.with_name("trace.parquet.new").replace(path)

    remote.on_get = rewrite_after_footer
    found, _ = await ask("SELECT count(length(content)), sum(part) FROM parts", remote)
    assert found == [(600, 180300)]
    assert len(remote.gets) == 3


@pytest.mark.anyio
async def test_a_plan_that_names_too_few_columns_costs_a_fetch_and_no_answer(store, ask, remote, monkeypatch):
    store("a", parts=300)
    monkeypatch.setattr(query_fetch, "WHOLE_BYTES", 1000)
    monkeypatch.setattr("envoi_trace_core.analysis.query_run.columns_read", lambda *_: frozenset({"part"}))
    found, summary = await ask("SELECT count(content), sum(part) FROM parts", remote)
    assert found == [(300, 45150)]
    assert not summary.left_out


@pytest.mark.anyio
async def test_a_removed_trace_is_no_error(store, ask, remote):
    store("a")
    gone = store("b")
    remote.on_get = lambda key, _: gone.unlink(missing_ok=True)
    found, summary = await ask("SELECT DISTINCT trajectory_id FROM parts", remote)
    assert found == [("a",)]
    assert not summary.left_out


@pytest.mark.anyio
@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.1, 3.0])
async def test_cancelling_ends_the_statement(store, root, after_s):
    store("a", parts=3000, passing=())
    began = anyio.Event()

    def take(result):
        anyio.from_thread.run_sync(began.set)
        list(result.rows)

    sql = "SELECT count(*) FROM parts a, parts b, parts c WHERE a.content || b.content < c.content"
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(query_storage, LocalStorage(root), sql, take)
            with anyio.move_on_after(after_s):
                await began.wait()
            group.cancel_scope.cancel()


def test_what_this_duckdb_has_built_in():
    """No extension is ever loaded, so these must be there."""
    with duckdb.connect() as connection:
        built_in = connection.execute(
            "SELECT extension_name FROM duckdb_extensions() WHERE install_mode = 'STATICALLY_LINKED'"
        ).fetchall()
    assert {("parquet",), ("json",), ("icu",)} <= set(built_in)
    assert TRAJECTORY_KEY
