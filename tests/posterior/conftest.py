"""What the tests of the posterior share."""

from pathlib import Path

import numpy as np
import pytest

from blade_dist.posterior.prior import Prior, PriorWriter
from tests.helpers.catalogs import PRIOR_STAMP


@pytest.fixture
def prior(tmp_path: Path) -> Prior:
    writer = PriorWriter(tmp_path / "prior.arrow", PRIOR_STAMP)
    rng = np.random.default_rng(0)
    writer.add(np.array([5, 9]), rng.random((2, 6)))
    writer.add(np.array([2]), rng.random((1, 6)))
    writer.finish()
    return Prior.load(tmp_path / "prior.arrow", PRIOR_STAMP)
