"""Tests a C compiler: `build.sh` builds it, `./cc FILE.c... -o PROGRAM` is called for each case.

What is tested stands in `suites.py` and the files that it names; README.md tells how.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import envoi
from judging import judge_all
from public_suites import MissingSuiteError
from settings import load_settings
from submission import BuildError, Submission
from suites import Test, all_tests

SETTINGS = load_settings()
_session: list[Submission] = []
"""The one submission of this process: the runtime starts one for each session."""


@envoi.setup
async def build(submission: envoi.Documents) -> None:
    """Build it; what is raised here is shown to the agent."""
    made = Submission(Path(submission.dir), SETTINGS)
    _session.append(made)
    try:
        await made.prepare()
    except BaseException:
        await asyncio.to_thread(made.close)
        raise


@envoi.teardown
async def leave() -> None:
    """Remove what the cases left."""
    for made in _session:
        await asyncio.to_thread(made.close)


def register(test: Test) -> None:
    """Make a test known to the runtime."""

    async def run() -> dict[str, object]:
        submission = _session[0]
        try:
            cases = test.cases()
        except MissingSuiteError as error:
            return {"passed": 0, "failed": 1, "total": 1, "error": str(error)}
        async with submission.cache.alone(test.path):
            known = submission.cache.get(test.path)
            if known is not None:
                return known
            try:
                await submission.built()
            except BuildError as error:
                return {"passed": 0, "failed": len(cases), "total": len(cases), "error": str(error)}
            result = await judge_all(cases, submission)
            # A busy machine may be why a case did not end in time, so that is tried again.
            if not result.get("hung"):
                submission.cache.put(test.path, result)
            return result

    run.__doc__ = test.summary
    if test.suite not in _suites:
        _suites[test.suite] = envoi.suite(test.suite)
    _suites[test.suite].test(test.name)(run)


_suites: dict[str, envoi.environment.Suite] = {}
for _test in all_tests(SETTINGS):
    register(_test)
