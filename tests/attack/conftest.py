"""What several attacks read."""

from pathlib import Path

import pytest
from writing_commands import write_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))
