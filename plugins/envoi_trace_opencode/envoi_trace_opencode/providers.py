"""Which model is meant, where its provider is, and which variables hold its key.

The servers are those of the models list that OpenCode 1.18.33 carries (https://models.dev) and of the SDKs it is
built with.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import attrs

from envoi_trace_core.errors import UsageError
from envoi_trace_opencode.options import OpenCodeOptions

_EXAMPLE = "--model anthropic/claude-sonnet-4-5"
_PROVIDER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@attrs.frozen
class Provider:
    """A provider that OpenCode knows."""

    url: str
    variables: tuple[str, ...]


PROVIDERS = {
    "anthropic": Provider("https://api.anthropic.com/v1", ("ANTHROPIC_API_KEY",)),
    "baseten": Provider("https://inference.baseten.co/v1", ("BASETEN_API_KEY",)),
    "cerebras": Provider("https://api.cerebras.ai/v1", ("CEREBRAS_API_KEY",)),
    "chutes": Provider("https://llm.chutes.ai/v1", ("CHUTES_API_KEY",)),
    "deepseek": Provider("https://api.deepseek.com", ("DEEPSEEK_API_KEY",)),
    "fireworks-ai": Provider("https://api.fireworks.ai/inference/v1", ("FIREWORKS_API_KEY",)),
    "google": Provider(
        "https://generativelanguage.googleapis.com/v1beta",
        ("GOOGLE_GENERATIVE_AI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"),
    ),
    "groq": Provider("https://api.groq.com/openai/v1", ("GROQ_API_KEY",)),
    "huggingface": Provider("https://router.huggingface.co/v1", ("HF_TOKEN",)),
    "minimax": Provider("https://api.minimax.io/anthropic/v1", ("MINIMAX_API_KEY",)),
    "mistral": Provider("https://api.mistral.ai/v1", ("MISTRAL_API_KEY",)),
    "moonshotai": Provider("https://api.moonshot.ai/v1", ("MOONSHOT_API_KEY",)),
    "nebius": Provider("https://api.tokenfactory.nebius.com/v1", ("NEBIUS_API_KEY",)),
    "nvidia": Provider("https://integrate.api.nvidia.com/v1", ("NVIDIA_API_KEY",)),
    "openai": Provider("https://api.openai.com/v1", ("OPENAI_API_KEY",)),
    "opencode": Provider("https://opencode.ai/zen/v1", ("OPENCODE_API_KEY",)),
    "opencode-go": Provider("https://opencode.ai/zen/go/v1", ("OPENCODE_API_KEY",)),
    "openrouter": Provider("https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",)),
    "togetherai": Provider("https://api.together.xyz/v1", ("TOGETHER_API_KEY",)),
    "xai": Provider("https://api.x.ai/v1", ("XAI_API_KEY",)),
    "zai": Provider("https://api.z.ai/api/paas/v4", ("ZHIPU_API_KEY",)),
    "zai-coding-plan": Provider("https://api.z.ai/api/coding/paas/v4", ("ZHIPU_API_KEY",)),
}


@attrs.frozen(kw_only=True)
class ModelChoice:
    """A model at its provider."""

    provider: str
    model: str
    upstream: str
    """Base URL of the server."""
    is_custom: bool
    """Whether OpenCode does not know the provider."""
    variables: tuple[str, ...]
    """That may hold its key, in their order."""


def choose(model: str | None, options: OpenCodeOptions) -> ModelChoice:
    """Which model is meant.

    Raises:
        UsageError: No model is named, or nobody knows where its provider is.
    """
    if not model:
        raise UsageError("OpenCode needs a model: none is its default", mend=_EXAMPLE)
    provider, _slash, name = model.partition("/")
    if options.provider:
        provider, name = options.provider, model.removeprefix(f"{options.provider}/")
    if not _PROVIDER_ID.fullmatch(provider) or not name:
        raise UsageError(f"--model {model!r} names no provider: PROVIDER/MODEL is expected", mend=_EXAMPLE)
    known = PROVIDERS.get(provider)
    upstream = options.base_url or (known.url if known else "")
    if not upstream:
        raise UsageError(
            f"it is not known where the provider {provider!r} of --model {model} is",
            mend=f"name its server with --agent-opt base_url=, or take one of: {', '.join(sorted(PROVIDERS))}",
        )
    parts = urlsplit(upstream)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"base_url={upstream!r} is no URL", mend="--agent-opt base_url=http://127.0.0.1:8000/v1")
    own = f"{re.sub(r'[^A-Z0-9]', '_', provider.upper())}_API_KEY"
    # The server is the user's own choice then, so the key for OpenCode may go there.
    variables = known.variables if known else (own, "OPENCODE_API_KEY")
    if known and options.base_url:
        variables = tuple(dict.fromkeys((*known.variables, "OPENCODE_API_KEY")))
    return ModelChoice(provider=provider, model=name, upstream=upstream, is_custom=known is None, variables=variables)
