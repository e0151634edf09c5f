"""The prior on disk: built in parts, stamped, looked up by prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blade_dist.errors import UserError
from blade_dist.posterior.prior import Prior, PriorWriter
from tests.helpers.catalogs import PRIOR_STAMP


def test_prior_round_trip(prior: Prior, tmp_path: Path) -> None:
    assert prior.prompts.tolist() == [2, 5, 9]
    assert (np.diff(prior.rewards, axis=1) >= 0).all()
    expected = np.sort(np.random.default_rng(0).random((2, 6)), axis=1)
    np.testing.assert_array_equal(prior.rewards[prior.where(np.array([9, 5]))], expected[::-1])
    assert not (tmp_path / "prior.arrow.parts").exists()


def test_a_foreign_prior_is_refused_by_name(prior: Prior, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"the prior was made with other settings: catalog: c1 there, c2 now( and 1 more|; k: 5)",
    ):
        Prior.load(tmp_path / "prior.arrow", {**PRIOR_STAMP, "catalog": "c2", "k": 10})


def test_a_prompt_without_prior_is_named(prior: Prior) -> None:
    with pytest.raises(UserError, match="no training prompt 7"):
        prior.where(np.array([5, 7]))


def test_an_interrupted_build_keeps_its_parts(tmp_path: Path) -> None:
    PriorWriter(tmp_path / "p.arrow", PRIOR_STAMP).add(np.array([1, 3]), np.ones((2, 2)))
    again = PriorWriter(tmp_path / "p.arrow", PRIOR_STAMP)
    assert again.done().tolist() == [1, 3]
    with pytest.raises(UserError, match="reference: r1 there, r2 now"):
        PriorWriter(tmp_path / "p.arrow", {**PRIOR_STAMP, "reference": "r2"})
    assert not (tmp_path / "p.arrow").exists()


def test_without_cold_prompts_nothing_is_pooled(prior: Prior) -> None:
    assert prior.pool is None
