"""The command, killed for real when it writes a fact: `dying_command.py KIND before|after WORDS...`.

"before" is when the fact is known and not yet in the journal, "after" when it is durable and nobody was told.
"""

from __future__ import annotations

import os
import signal
import sys

from envoi_trace_core.cli.main import main
from envoi_trace_core.domain.facts import Fact
from envoi_trace_core.trace.journal import Journal

_append_now = Journal.append_now


def _append_and_die(journal: Journal, fact: Fact) -> None:
    kind, when = sys.argv[1:3]
    if type(fact).__name__ != kind:
        _append_now(journal, fact)
        return
    if when == "after":
        _append_now(journal, fact)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    Journal.append_now = _append_and_die  # type: ignore[method-assign]
    sys.exit(main(sys.argv[3:]))
