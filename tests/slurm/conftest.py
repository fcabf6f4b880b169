"""The SLURM that the tests of this folder share the use of: one per test, stopped after it."""

from collections.abc import Iterator

import pytest

from tests.slurm.local_cluster import ClusterUnavailable, LocalCluster, check_available


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Two idle workers; the test is skipped where SLURM cannot run."""
    try:
        check_available()
    except ClusterUnavailable as reason:
        pytest.skip(str(reason))
    with LocalCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster
