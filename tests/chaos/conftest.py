"""What tests of builds on a cluster share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sites import ClusterSite, Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ClusterSite]:
    """Without machines yet; those that a test starts end with it."""
    made = ClusterSite(tmp_path)
    yield made
    made.machines.stop()


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a build on this machine alone gives."""
    local = Site(tmp_path_factory.mktemp("reference"))
    build = local.start()
    assert build.wait() == 0
    return local.contents()
