"""The contract kits that plugin authors run against what they made. They need pytest and anyio's plugin for it."""

from __future__ import annotations

import contextlib

with contextlib.suppress(ImportError):
    import pytest

    # The kits are imported after this line, so their asserts explain themselves as a test module's do.
    kits = ("sandbox_commands", "sandbox_files", "sandbox_kit", "sandbox_life", "sandbox_streams", "storage_contract")
    pytest.register_assert_rewrite(*(f"{__name__}.{kit}" for kit in kits))
