"""What every sandbox must do, as tests that a plugin's author runs against a real one.

    class TestMySandbox(SandboxContract):
        spec_path = "my_package.spec:MY_SANDBOX"

        @pytest.fixture
        def options(self) -> MyOptions:
            return MyOptions(...)

        @pytest.fixture
        def oracle(self) -> SandboxOracle:
            return MyOracle(...)

The oracle looks at the backend another way than through the sandbox under test: its API, its process table.
A flag that is set to False says that the backend can't do that, and skips those tests; a test that is overridden
should say why.
"""

from __future__ import annotations

from envoi_trace_core.testing.sandbox_commands import CommandTests
from envoi_trace_core.testing.sandbox_files import FileTests
from envoi_trace_core.testing.sandbox_kit import SandboxOracle
from envoi_trace_core.testing.sandbox_life import LifeTests
from envoi_trace_core.testing.sandbox_streams import StreamTests

__all__ = ["SandboxContract", "SandboxOracle"]


class SandboxContract(CommandTests, StreamTests, FileTests, LifeTests):
    """Subclass it, name the spec, supply `options` and `oracle`."""
