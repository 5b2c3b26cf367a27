// Loaded by OpenCode's server. It awaits each hook, so the next action begins after the checkpoint.
// The driver passes what it needs in ENVOI_TRACE_OPENCODE: command, mark, home.

const given = JSON.parse(process.env.ENVOI_TRACE_OPENCODE)

export const Checkpoint = async () => ({
  "tool.execute.after": async (input) => {
    const done = Bun.spawnSync([...given.command, input.callID], { stdin: "ignore", stdout: "ignore", stderr: "ignore" })
    if (!done.success) console.error(`checkpoint of ${input.callID} failed with status ${done.exitCode}`)
  },
  // Commands of the agent see the sandbox's environment, not that of the server.
  "shell.env": async (_input, output) => {
    for (const name of Object.keys(process.env)) {
      if (name.startsWith("OPENCODE_") || name.startsWith("XDG_") || name.startsWith("ENVOI_TRACE_OPENCODE")) output.env[name] = ""
    }
    Object.assign(output.env, given.environment)
  },
})
