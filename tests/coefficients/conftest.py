"""Fixtures of lower's tests."""

from __future__ import annotations

import pytest
from lower_samples import Compiler


@pytest.fixture(scope="session")
def compile_net(compiler, tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(compiler, tmp_path_factory.mktemp("lower"), tmp_path_factory.mktemp("jit"))
