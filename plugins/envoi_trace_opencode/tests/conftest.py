"""What the tests of the OpenCode plugin share."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-opencode-goldens", action="store_true", help="write the golden files of the OpenCode parser again"
    )
