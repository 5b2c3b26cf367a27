"""What Codex keeps in the sandbox: its home, its configuration, the checkpoint hook, its sessions."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import attrs

from envoi_trace_codex.config import MARK_VARIABLE
from envoi_trace_core.errors import SandboxError
from envoi_trace_core.protocols import Sandbox

COMMAND_TIMEOUT_S = 60.0
MAX_ARCHIVE_BYTES = 256 * 1024 * 1024

# The hook gets JSON on stdin; `tool_use_id` comes after all that the model wrote, in which quotes are escaped.
_HOOK = r"""#!/bin/sh
id=$(sed -n 's/.*"tool_use_id": *"\([A-Za-z0-9_.:-]*\)".*/\1/p' | tail -n 1)
[ -n "$id" ] || exit 1
%s "$id" >/dev/null </dev/null || exit 1
"""

# Processes that carry the mark, and all below them; the mark comes by stdin so that this script does not carry it.
_REAP = r"""
read -r mark
marked() {
  if [ -r /proc/self/environ ]; then
    grep -lsaF -e "$mark" /proc/[0-9]*/environ 2>/dev/null | sed 's/[^0-9]//g'
  else
    ps -Aww -E -o pid=,command= | grep -F -e "$mark" | grep -v 'grep -F' | awk '{print $1}'
  fi
}
below() {
  if [ -r /proc/self/stat ]; then
    cat /proc/[0-9]*/stat 2>/dev/null | sed 's/^\([0-9]*\) (.*) [A-Za-z] \([0-9]*\) .*/\1 \2/'
  else
    ps -A -o pid=,ppid=
  fi | awk -v roots="$1" '
    BEGIN { n = split(roots, r, " "); for (i = 1; i <= n; i++) doomed[r[i]] = 1 }
    { parent[$1] = $2 }
    END {
      do { more = 0
        for (pid in parent) if (!(pid in doomed) && parent[pid] in doomed) { doomed[pid] = 1; more = 1 }
      } while (more)
      for (pid in doomed) print pid
    }'
}
round=0
while [ "$round" -lt 100 ]; do
  roots=$(marked | tr '\n' ' ')
  [ -n "${roots%% }" ] || { echo 0; exit 0; }
  kill -KILL $(below "$roots") 2>/dev/null
  round=$((round + 1))
  sleep 0.05
done
marked | wc -l
"""


@attrs.frozen(kw_only=True)
class CodexHome:
    """Codex's folder in one sandbox, outside the workspace."""

    sandbox: Sandbox
    mark: str
    """By which commands of the agent are told from everything else."""

    @property
    def path(self) -> str:
        """CODEX_HOME."""
        return f"{self.sandbox.support_dir}/codex/home"

    @property
    def hook(self) -> str:
        """The PostToolUse hook's script."""
        return f"{self.sandbox.support_dir}/codex/after_tool.sh"

    def pipe(self, process_name: str, use: str) -> str:
        """A named pipe for one process."""
        return f"{self.sandbox.support_dir}/codex/{process_name}.{use}"

    async def prepare(self, config: str, checkpoint_command: tuple[str, ...]) -> None:
        """Write the configuration and the hook.

        Raises:
            SandboxError: It could not be done.
        """
        await self.sandbox.write_file(f"{self.path}/config.toml", config.encode(), mode=0o600)
        await self.sandbox.write_file(self.hook, (_HOOK % shlex.join(checkpoint_command)).encode(), mode=0o755)

    # -- the process to attach to -----------------------------------------------------------------

    async def note_process(self, name: str) -> None:
        """Note which process is the newest, before it starts."""
        await self.sandbox.write_file(f"{self.sandbox.support_dir}/codex/newest", name.encode())

    async def newest_process(self) -> str | None:
        """The name that was noted last."""
        try:
            noted = await self.sandbox.read_file(f"{self.sandbox.support_dir}/codex/newest", max_bytes=200)
        except SandboxError as error:
            if type(error) is not SandboxError:
                raise  # lost or too late, not missing
            return None
        return noted.decode("utf-8", "replace").strip() or None

    # -- sessions ---------------------------------------------------------------------------------

    async def save_sessions(self, report: Callable[[str], None]) -> bytes | None:
        """Codex's record of its threads, as a gzipped tar; None when there is none or it is too large."""
        script = 'cd "$1" && [ -d sessions ] && tar -czf - sessions'
        done = await self.sandbox.run(
            ("sh", "-c", script, "sh", self.path),
            timeout_s=COMMAND_TIMEOUT_S,
            max_output_bytes=MAX_ARCHIVE_BYTES,
        )
        if done.truncated:
            report(f"Codex's record of its session is above {MAX_ARCHIVE_BYTES >> 20} MiB: it is not saved")
            return None
        # tar says 1 when a file grew while it was read: what it read is whole lines and a beginning of one.
        return done.stdout if done.exit_code in (0, 1) and done.stdout else None

    async def restore_sessions(self, archive: bytes) -> bool:
        """Unpack what `save_sessions` gave; says whether it worked."""
        script = 'mkdir -p "$1" && cd "$1" && tar -xzf - sessions'
        done = await self.sandbox.run(
            ("sh", "-c", script, "sh", self.path), stdin=archive, timeout_s=COMMAND_TIMEOUT_S, max_output_bytes=65536
        )
        return done.exit_code == 0

    # -- what the agent left ----------------------------------------------------------------------

    async def kill_commands(self) -> int:
        """Kill every command of the agent with all below it; gives how many would not die."""
        done = await self.sandbox.run(
            ("sh", "-c", _REAP),
            stdin=f"{MARK_VARIABLE}={self.mark}\n".encode(),
            timeout_s=COMMAND_TIMEOUT_S,
            max_output_bytes=65536,
        )
        left = done.stdout.strip()
        return int(left) if left.isdigit() else 0
