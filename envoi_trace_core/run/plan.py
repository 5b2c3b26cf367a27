"""From a configuration to the things it names: everything that can be wrong is found here, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from envoi_trace_core.domain.environments import Environment, load_environment
from envoi_trace_core.domain.tasks import Task, load_task
from envoi_trace_core.errors import UsageError
from envoi_trace_core.options import parse_options
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.run.budgets import Budgets, Price, split_price
from envoi_trace_core.run.config import RunConfig
from envoi_trace_core.specs import AgentSpec, PartParserSpec, SandboxSpec, StorageSpec


@attrs.frozen(kw_only=True)
class Chosen[SpecT]:
    """A plugin's descriptor with the options that the user gave it."""

    spec: SpecT
    options: Any
    """An instance of `spec.options`."""


@attrs.frozen(kw_only=True)
class RunPlan:
    """A run that can start."""

    config: RunConfig
    task: Task
    environment: Environment
    agent: Chosen[AgentSpec[Any]]
    parser: PartParserSpec
    sandbox: Chosen[SandboxSpec[Any]]
    storage: Chosen[StorageSpec[Any]]
    budgets: Budgets
    price: Price | None
    secrets: Mapping[str, str]
    left_s: float
    """What is left of the timeout, which goes on through all restarts."""

    @property
    def hidden(self) -> tuple[str, ...]:
        """Globs of the test paths that the agent must not see."""
        return (*self.environment.hidden, *self.config.hidden)


def make_plan(config: RunConfig, plugins: Plugins, *, agent_works: bool = True) -> RunPlan:
    """Resolve a configuration.

    Args:
        config: What was asked for.
        plugins: What is installed.
        agent_works: Whether the agent is going to work on the task; not when only the tests run.

    Raises:
        UsageError: A name, folder, option or credential is wrong or missing.
        PluginError: The plugin that was asked for is broken.
    """
    agent_words, price = split_price(config.agent_opts)
    agent_spec = plugins.agent(config.agent)
    agent = Chosen(spec=agent_spec, options=parse_options(agent_spec.options, agent_words, "agent", config.agent))
    sandbox_spec = plugins.sandbox(config.sandbox)
    storage_spec = plugins.storage(config.storage)
    sandbox = Chosen(
        spec=sandbox_spec, options=parse_options(sandbox_spec.options, config.sandbox_opts, "sandbox", config.sandbox)
    )
    storage = Chosen(
        spec=storage_spec, options=parse_options(storage_spec.options, config.storage_opts, "storage", config.storage)
    )
    if config.max_cost_usd is not None and price is None and not agent_spec.reports_cost:
        raise UsageError(
            f"--max-cost-usd needs a price: {config.agent} does not report what its model costs",
            mend="--agent-opt price=in:1.25,cached:0.1,out:10 (US dollars a million tokens)",
        )
    task = load_task(Path(config.task), lang=config.lang, params=config.params)
    if agent_works:
        agent_spec.check(config.model, agent.options)
        agent_spec.check_task(task.directory, agent.options)
    return RunPlan(
        config=config,
        task=task,
        environment=load_environment(Path(config.environment)),
        agent=agent,
        parser=plugins.part_parser(agent_spec.event_format),
        sandbox=sandbox,
        storage=storage,
        budgets=Budgets(max_parts=config.max_parts, max_tokens=config.max_tokens, max_cost_usd=config.max_cost_usd),
        price=price,
        secrets={
            **agent_spec.secrets(agent.options),
            **sandbox_spec.secrets(sandbox.options),
            **storage_spec.secrets(storage.options),
        },
        left_s=config.timeout_s,
    )
