"""What is recorded: durable facts, their fold, and the file that holds it.

- keys.py         where a trajectory's objects stand in a storage
- line_log.py     lines that survive a crash: guarded, fsync'ed, fenced
- journal.py      the facts, one a line
- events.py       the agent's native events, one a line
- fold.py         facts -> rows and totals (`testing_timeline.py`: how the tests stood at each part)
- rows.py         the rows and the summary, as values
- schema.py       the columns of trace.parquet
- convert.py      rows <-> Arrow (`nested.py`: structs and lists)
- encode.py       a snapshot -> the bytes of trace.parquet
- writer.py       snapshots to a storage, one writer a trajectory
- reader.py       trace.parquet -> values (`footers.py`: of many only their footers)
- lookup.py       ids, prefixes and paths -> traces; journals that are ahead
- opening.py      `envoi_trace_core.open_trace`
- lease.py        who writes a trajectory
- redact.py       known secrets out of everything that is written
"""
