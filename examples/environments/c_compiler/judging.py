"""One case against one compiler, and what an agent is told of a failure."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cases import Case
from submission import Submission

SHOWN_CHARS = 5400
"""Of a test's failures together; what is longer the harness would cut in the middle."""
SOURCE_CHARS, TEXT_CHARS, STDERR_CHARS = 1200, 400, 600
MAX_HUNG = 5


@dataclass
class Verdict:
    """How a case went."""

    case: Case
    passed: bool = False
    problem: str = ""
    expected: str = ""
    actual: str = ""
    stderr: str = ""
    compile_ms: int = 0
    run_ms: int = 0
    hung: bool = False
    ran: bool = True

    @property
    def told(self) -> dict[str, object]:
        """For the agent; bounded."""
        found = {
            "case": self.case.name, "problem": self.problem, "expected": cut(self.expected, TEXT_CHARS),
            "actual": cut(self.actual, TEXT_CHARS), "compiler_stderr": cut(self.stderr, STDERR_CHARS),
            "compile_ms": self.compile_ms, "run_ms": self.run_ms, "source": cut(self.case.shown, SOURCE_CHARS),
        }  # fmt: skip
        return {name: value for name, value in found.items() if value != ""}


async def judge(case: Case, submission: Submission) -> Verdict:
    """Compile a case, run what came of it, compare."""
    limits = submission.settings.compile
    async with submission.case_folder(case) as folder:
        compiled = await folder.run(submission.compile_words(case), limits)
        program = folder.program
        stderr = compiled.stderr.decode(errors="replace")
        verdict = Verdict(case, stderr=stderr, compile_ms=compiled.duration_ms, hung=compiled.ended == "timeout")
        if compiled.exit_status is None:
            verdict.problem = f"the compiler: {compiled.described(limits)}"
        elif case.refused:
            _judge_refusal(verdict, compiled.exit_status, made=program.exists())
        elif compiled.exit_status != 0:
            verdict.problem = f"the compiler refused a correct program: {compiled.described(limits)}"
        elif not program.is_file() or program.is_symlink():
            verdict.problem = "the compiler said nothing was wrong, and made no program"
        else:
            limits = submission.settings.run
            ran = await folder.run([str(program), *case.args], limits, case.stdin)
            verdict.run_ms, verdict.hung = ran.duration_ms, ran.ended == "timeout"
            _judge_run(verdict, ran.exit_status, ran.stdout, ran.described(limits))
    return verdict


def _judge_refusal(verdict: Verdict, exit_status: int, *, made: bool) -> None:
    verdict.expected = "an exit status that is not 0, and no program"
    if verdict.case.error_at:
        verdict.expected += f", and {verdict.case.error_at!r} on standard error"
    verdict.actual = f"exit status {exit_status}"
    if exit_status == 0:
        verdict.problem = "the compiler accepted a wrong program"
    elif made:
        verdict.problem = "the compiler refused it, and left a program"
    elif verdict.case.error_at not in verdict.stderr:
        verdict.problem = "the compiler refused it, but does not say where"
    else:
        verdict.passed = True


def _judge_run(verdict: Verdict, exit_status: int | None, stdout: bytes, described: str) -> None:
    case = verdict.case
    wanted = f"exit status {case.exit_status}" if case.exit_status is not None else "it ends by itself"
    right_end = exit_status is not None and case.exit_status in (None, exit_status)
    right_text = case.stdout is None or case.stdout == stdout
    verdict.passed = right_end and right_text
    if verdict.passed:
        return
    verdict.problem = "the program ended otherwise" if not right_end else "the program wrote something else"
    verdict.expected, verdict.actual = wanted, described
    if case.stdout is not None:
        verdict.expected += f", output {case.stdout.decode(errors='replace')!r}"
        verdict.actual += f", output {stdout[:4000].decode(errors='replace')!r}"


async def judge_all(cases: Sequence[Case], submission: Submission) -> dict[str, object]:
    """A test's result: counts, and what failed.

    A compiler that refuses every program has not understood why some are wrong: then none of its refusals counts.
    """
    started = time.monotonic()
    hung = passed = 0

    async def one(case: Case) -> Verdict:
        nonlocal hung, passed
        everywhere = submission.patience
        # Looked at when its turn comes, not before.
        async with turns:
            gives_up = (hung >= MAX_HUNG and hung > passed) or (everywhere.hung > MAX_HUNG and not everywhere.passed)
            if gives_up:
                return Verdict(case, problem="not run: too many cases before it did not end in time", ran=False)
            verdict = await judge(case, submission)
        everywhere.note(passed=verdict.passed and not case.refused, hung=verdict.hung)
        hung, passed = hung + verdict.hung, passed + verdict.passed
        return verdict

    turns = asyncio.Semaphore(submission.settings.jobs or 4)
    verdicts = await asyncio.gather(*(one(case) for case in cases))
    accepts = any(verdict.passed and not verdict.case.refused for verdict in verdicts)
    if not accepts and any(not case.refused for case in cases):
        for verdict in verdicts:
            if verdict.passed:
                verdict.passed, verdict.problem = False, "refused, as is every correct program of this test"
    result = summary(verdicts)
    result["duration_ms"] = int((time.monotonic() - started) * 1000)
    if submission.guard and (reason := submission.guard.tripped()):
        total = len(verdicts)
        return {"passed": 0, "failed": total, "total": total, "error": f"The submission cheats: {reason}."}
    return result


def summary(verdicts: Sequence[Verdict]) -> dict[str, object]:
    """Counts, the first failures in full, the names of the others."""
    failed = [verdict for verdict in verdicts if not verdict.passed]
    shown: list[dict[str, object]] = []
    room = SHOWN_CHARS
    while len(shown) < len(failed) and room > 0:
        told = failed[len(shown)].told
        room -= len(json.dumps(told, ensure_ascii=False, indent=1)) + 20
        if room > 0 or not shown:
            shown.append(told)
    names = ", ".join(verdict.case.name for verdict in failed[len(shown) :])
    result: dict[str, object] = {
        "passed": len(verdicts) - len(failed), "failed": len(failed), "total": len(verdicts), "failures": shown,
        "hung": sum(verdict.hung or not verdict.ran for verdict in verdicts),
    }  # fmt: skip
    if names:
        result["failed_too"] = cut(names, 400)
    return result


def cut(text: str, most: int) -> str:
    """The beginning and the end of a long text."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"
