"""Every option of run mode, once: typer's options, the configuration's keys and what the run gets are made of it."""

from __future__ import annotations

from typing import Annotated, Literal

import attrs
import typer

from envoi_trace_core.errors import UsageError

BUDGETS = "Budgets"
TESTS = "Tests"
PLACES = "Where it runs"
RESTARTS = "Restarts"
MANY = "Many at once"
OUTPUT = "Output"
OF_SEVERAL = frozenset({"trials", "concurrency", "batch", "retries", "max_total_cost_usd"})
"""Options that say nothing of one trajectory alone."""


@attrs.frozen(kw_only=True)
class RunOptions:
    """What the user asked of a run. A field is an option: `max_parts` is `--max-parts`.

    Attributes:
        given: Names of the options that stood on the command line itself (not in the environment or a file).
    """

    task: Annotated[str | None, typer.Option(help="Folder of the task.", metavar="PATH", show_default=False)] = None
    env: Annotated[str | None, typer.Option(help="Folder of the environment.", metavar="PATH", show_default=False)] = (
        None
    )
    agent: Annotated[str, typer.Option(help="Which agent works.", metavar="NAME")] = "codex"
    model: Annotated[
        str | None, typer.Option(help="Which model; the agent's own by default.", metavar="NAME", show_default=False)
    ] = None
    param: Annotated[
        tuple[str, ...], typer.Option(help="A parameter of the task. Repeatable.", metavar="KEY=VALUE")
    ] = ()
    lang: Annotated[str, typer.Option(help="Which prompt file of the task: CODE.md.", metavar="CODE")] = "en"
    label: Annotated[tuple[str, ...], typer.Option(help="Goes into the trace. Repeatable.", metavar="KEY=VALUE")] = ()
    trajectory_id: Annotated[
        str | None,
        typer.Option(
            help="Go on with that trajectory, or start it; a new id by default.", metavar="ID", show_default=False
        ),
    ] = None

    max_parts: Annotated[
        int, typer.Option(help="Parts; row N is the last.", metavar="N", min=1, rich_help_panel=BUDGETS)
    ] = 1000
    max_turns: Annotated[
        int | None, typer.Option(help="Turns; 1 is a single shot.", metavar="N", min=1, rich_help_panel=BUDGETS)
    ] = None
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens, over all of it.", metavar="N", min=1, rich_help_panel=BUDGETS)
    ] = None
    max_cost_usd: Annotated[
        float | None, typer.Option(help="US dollars, over all of it.", metavar="X", min=0, rich_help_panel=BUDGETS)
    ] = None
    timeout: Annotated[
        float, typer.Option(help="Seconds, over all of it.", metavar="S", min=0, rich_help_panel=BUDGETS)
    ] = 14400
    idle_timeout: Annotated[
        float, typer.Option(help="Seconds without an event end a turn.", metavar="S", min=0, rich_help_panel=BUDGETS)
    ] = 1800
    turn_timeout: Annotated[
        float | None, typer.Option(help="Seconds of one turn.", metavar="S", min=0, rich_help_panel=BUDGETS)
    ] = None

    eval_sandbox: Annotated[
        Literal["separate", "shared"], typer.Option(help="Where the tests run.", rich_help_panel=TESTS)
    ] = "separate"
    eval_concurrency: Annotated[
        int, typer.Option(help="Evaluations at once.", metavar="N", min=1, rich_help_panel=TESTS)
    ] = 1
    eval_grace: Annotated[
        float,
        typer.Option(help="Seconds for what still waits at the end.", metavar="S", min=0, rich_help_panel=TESTS),
    ] = 600
    hidden: Annotated[
        tuple[str, ...],
        typer.Option(help="Test paths kept from the agent. Repeatable.", metavar="GLOB", rich_help_panel=TESTS),
    ] = ()
    fail_under: Annotated[
        float | None,
        typer.Option(
            help="Exit status 6 below this share of passed tests.", metavar="X", min=0, max=1, rich_help_panel=TESTS
        ),
    ] = None

    sandbox: Annotated[str, typer.Option(help="Where the agent works.", metavar="NAME", rich_help_panel=PLACES)] = (
        "modal"
    )
    storage: Annotated[
        str | None,
        typer.Option(
            help="Where artifacts go; s3 when AWS_S3_BUCKET is set, else local.",
            metavar="NAME",
            show_default=False,
            rich_help_panel=PLACES,
        ),
    ] = None
    agent_opt: Annotated[
        tuple[str, ...],
        typer.Option(help="An option of the agent. Repeatable.", metavar="KEY=VALUE", rich_help_panel=PLACES),
    ] = ()
    sandbox_opt: Annotated[
        tuple[str, ...],
        typer.Option(help="An option of the sandbox. Repeatable.", metavar="KEY=VALUE", rich_help_panel=PLACES),
    ] = ()
    storage_opt: Annotated[
        tuple[str, ...],
        typer.Option(help="An option of the storage. Repeatable.", metavar="KEY=VALUE", rich_help_panel=PLACES),
    ] = ()
    launcher: Annotated[
        str | None,
        typer.Option(
            help="Where the orchestrator runs; local, unless it must run remotely.",
            metavar="NAME",
            show_default=False,
            rich_help_panel=PLACES,
        ),
    ] = None
    launcher_opt: Annotated[
        tuple[str, ...],
        typer.Option(help="An option of the launcher. Repeatable.", metavar="KEY=VALUE", rich_help_panel=PLACES),
    ] = ()
    detach: Annotated[
        bool, typer.Option("--detach", help="Run the orchestrator remotely and return.", rich_help_panel=PLACES)
    ] = False
    preemptible: Annotated[
        bool,
        typer.Option("--preemptible/--non-preemptible", help="The remote orchestrator.", rich_help_panel=PLACES),
    ] = False

    auto_resume: Annotated[
        bool,
        typer.Option("--auto-resume/--no-auto-resume", help="Go on after a failure.", rich_help_panel=RESTARTS),
    ] = True
    max_restarts: Annotated[int, typer.Option(help="How often.", metavar="N", min=0, rich_help_panel=RESTARTS)] = 20
    restart_delay: Annotated[
        float, typer.Option(help="Seconds before the first; backs off.", metavar="S", min=0, rich_help_panel=RESTARTS)
    ] = 10

    trials: Annotated[
        int | None,
        typer.Option(help="So many equal trajectories.", metavar="N", min=1, show_default=False, rich_help_panel=MANY),
    ] = None
    concurrency: Annotated[
        int | None,
        typer.Option(
            help="So many at once; 4 by default.", metavar="K", min=1, show_default=False, rich_help_panel=MANY
        ),
    ] = None
    batch: Annotated[
        str | None,
        typer.Option(
            help="Name of all trials together; given again, it goes on with what is left.",
            metavar="NAME",
            show_default=False,
            rich_help_panel=MANY,
        ),
    ] = None
    retries: Annotated[
        int | None,
        typer.Option(
            help="New attempts at a trial that failed by no fault of the agent; 2 by default.",
            metavar="N",
            min=0,
            show_default=False,
            rich_help_panel=MANY,
        ),
    ] = None
    max_total_cost_usd: Annotated[
        float | None,
        typer.Option(
            help="US dollars over all trials: once spent, no further one starts.",
            metavar="X",
            min=0,
            show_default=False,
            rich_help_panel=MANY,
        ),
    ] = None

    json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout at the end.", rich_help_panel=OUTPUT)
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.", rich_help_panel=OUTPUT)] = False
    debug: Annotated[bool, typer.Option("--debug", help="Errors with their traceback.", rich_help_panel=OUTPUT)] = False

    given: frozenset[str] = frozenset()

    def refuse_several(self, command: str) -> None:
        """For a command that is of one trajectory.

        Raises:
            UsageError: An option of several trajectories stood on the command line.
        """
        for name in sorted(self.given & OF_SEVERAL):
            raise UsageError(
                f"--{name.replace('_', '-')} is of several trajectories, and `{command}` is of one",
                mend="envoi-trace --trials N, or envoi-trace batch PLAN.toml",
            )

    @property
    def asks_for_batch(self) -> bool:
        """Whether it is about several trajectories."""
        return self.trials is not None or self.batch is not None
