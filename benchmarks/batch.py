"""Many script trajectories by `envoi-trace batch` in one process: what one costs, and whether any is lost.

python benchmarks/batch.py [--trajectories 200] [--concurrency 8] [--parts 10] [--kill]

Prints wall time, parts a second, CPU of the orchestrator outside the sandboxes, and its memory: with one trajectory,
at the peak of all, and, of a hundred or more, what it still grows by a finished one. `--kill` ends it with SIGKILL in
the middle and runs the same command again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import attrs

from envoi_trace_core.trace.reader import read_trace

COMMAND = [sys.executable, "-m", "envoi_trace_core"]
SAMPLE_S = 0.5
ENOUGH_FOR_GROWTH = 100
"""With fewer, libraries that are imported late look like growth."""
ENVIRONMENT = """
import envoi

@envoi.test()
async def never():
    return {"passed": 0, "failed": 1, "total": 1}
"""


@attrs.define
class Samples:
    """The orchestrator's memory over time, in MiB, and its own CPU in seconds."""

    resident_mib: list[float] = attrs.field(factory=list)
    ended: list[int] = attrs.field(factory=list)
    cpu_s: float = 0.0
    threads: int = 0
    files: int = 0


@attrs.define
class Bench:
    folder: Path
    trajectories: int
    concurrency: int
    parts: int

    def write(self) -> None:
        for name in ("task", "env", "out"):
            (self.folder / name).mkdir()
        actions: list[dict[str, str]] = []
        for number in range(self.parts):
            kinds = ({"write": "file.txt", "content": f"{number}\n"}, {"text": f"said {number}"}, {"run": "true"})
            actions.append(kinds[number % 3])
        (self.folder / "task" / "en.md").write_text("Play.")
        (self.folder / "task" / "script.jsonl").write_text("".join(json.dumps(a) + "\n" for a in actions))
        (self.folder / "env" / "main.py").write_text(ENVIRONMENT)
        (self.folder / "plan.toml").write_text(
            f'name = "bench"\ntrials = {self.trajectories}\nconcurrency = {self.concurrency}\n'
            'agents = ["script"]\nstorage = "local"\nstorage-opt = { root = "out" }\n'
            '[[tasks]]\ntask = "task"\nenv = "env"\n[defaults]\nsandbox = "local"\nmax-turns = 1\n'
        )

    def start(self, *options: str) -> subprocess.Popen[str]:
        environ = {**os.environ, "ENVOI_TRACE_STATE_DIR": str(self.folder / "state")}
        return subprocess.Popen(
            [*COMMAND, "batch", str(self.folder / "plan.toml"), "--json", "--quiet", *options],
            cwd=self.folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ended(self) -> int:
        return sum(1 for _ in (self.folder / "out").glob("trajectories/*/repo.bundle"))

    def kill_in_the_middle(self) -> int:
        process = self.start()
        while self.ended() < self.trajectories // 2:
            if process.poll() is not None:
                raise SystemExit(f"it ended too soon: {process.communicate()[1]}")
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return self.ended()

    def measure(self, *options: str) -> tuple[dict[str, object], Samples, float]:
        began_at = time.monotonic()
        process = self.start(*options)
        samples, over = Samples(), threading.Event()
        watcher = threading.Thread(target=self._watch, args=(process.pid, samples, over))
        watcher.start()
        stdout, stderr = process.communicate()
        took_s = time.monotonic() - began_at
        over.set()
        watcher.join()
        if process.returncode != 0:
            raise SystemExit(f"exit status {process.returncode}:\n{stderr}")
        return json.loads(stdout.strip().splitlines()[-1]), samples, took_s

    def _watch(self, pid: int, samples: Samples, over: threading.Event) -> None:
        folder = Path("/proc") / str(pid)
        ticks, page_mib = os.sysconf("SC_CLK_TCK"), resource.getpagesize() / 2**20
        while not over.wait(SAMPLE_S):
            try:
                samples.resident_mib.append(int((folder / "statm").read_text().split()[1]) * page_mib)
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                samples.files = max(samples.files, len(list((folder / "fd").iterdir())))
            except OSError:
                return
            samples.cpu_s = (int(fields[11]) + int(fields[12])) / ticks
            samples.threads = max(samples.threads, int(fields[17]))
            samples.ended.append(self.ended())

    def lost(self) -> list[str]:
        """Trajectories without a whole trace."""
        lost = []
        for number in range(1, self.trajectories + 1):
            path = self.folder / "out" / "trajectories" / f"bench.script.task.env.t{number}" / "trace.parquet"
            trace = read_trace(path) if path.exists() else None
            if trace is None or trace.end is None or len(trace.rows) != self.parts:
                lost.append(path.parent.name)
        return lost


def growth_kib(samples: Samples, total: int) -> float:
    """By how much the resident memory grows a finished trajectory, from a quarter of them to the end (KiB)."""
    early = [
        mib for mib, ended in zip(samples.resident_mib, samples.ended, strict=True) if total / 4 <= ended < total / 2
    ]
    late = [
        mib for mib, ended in zip(samples.resident_mib, samples.ended, strict=True) if total * 3 / 4 <= ended < total
    ]
    if not early or not late:
        return float("nan")
    return (sum(late) / len(late) - sum(early) / len(early)) * 1024 / (total / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--parts", type=int, default=10)
    parser.add_argument("--kill", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="envoi-trace-bench-") as folder:
        bench = Bench(Path(folder), given.trajectories, given.concurrency, given.parts)
        bench.write()
        before = bench.kill_in_the_middle() if given.kill else 0
        told, samples, took_s = bench.measure()
        _, one, _ = bench.measure("--batch", "one", "--trials", "1", "--concurrency", "1")
        played = given.trajectories - before
        lost = bench.lost()
        print(f"trajectories      {given.trajectories}, {given.concurrency} at once, {given.parts} parts each")
        if given.kill:
            print(f"before the kill   {before} had ended; {told['ended_before']} were left as they are")
        print(f"lost              {len(lost)}{''.join(f' {name}' for name in lost[:5])}")
        print(f"wall time         {took_s:.1f} s, {took_s / played:.2f} s a trajectory")
        print(f"parts a second    {played * given.parts / took_s:.1f}")
        print(f"orchestrator CPU  {samples.cpu_s:.1f} s, {samples.cpu_s / played * 1000:.0f} ms a trajectory")
        peak, alone = max(samples.resident_mib), max(one.resident_mib)
        print(f"memory            {alone:.0f} MiB with one trajectory, {peak:.0f} MiB at the peak of all")
        more = (peak - alone) / max(given.concurrency - 1, 1)
        print(f"                  {more:.1f} MiB more for each further one that runs")
        if given.trajectories >= ENOUGH_FOR_GROWTH:
            print(f"                  {growth_kib(samples, given.trajectories):.1f} KiB more a finished trajectory")
        print(f"threads, files    {samples.threads}, {samples.files} at most")
        if lost:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
