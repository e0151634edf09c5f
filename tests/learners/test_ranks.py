"""The gradient does not depend on how the batch is cut: ranks, micro-batches, ZeRO stages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.ranks import dropped_gradients, free_port, imitation_step, run_ranks, steps_with_bad_ones

WHOLE, SMALL = 100_000, 40
ONE = {
    "whole": dict(zero_stage=0, budget=WHOLE, tied=True),
    "unshared": dict(zero_stage=0, budget=WHOLE, tied=True, shared=False),
    "accumulated": dict(zero_stage=0, budget=SMALL, tied=True),
    "untied": dict(zero_stage=0, budget=WHOLE, tied=False),
}
TWO = {
    "zero0": dict(zero_stage=0, budget=WHOLE, tied=True),
    "zero1": dict(zero_stage=1, budget=SMALL, tied=True),
    "zero2": dict(zero_stage=2, budget=SMALL, tied=True),
    "zero3": dict(zero_stage=3, budget=SMALL, tied=True),
    "zero3_untied": dict(zero_stage=3, budget=SMALL, tied=False),
    "bfloat16": dict(zero_stage=2, budget=SMALL, tied=True, dtype="bfloat16"),
}

KINDS = [(0, "float32"), (1, "float32"), (2, "float32"), (3, "float32"), (0, "bfloat16"), (2, "bfloat16")]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where PyTorch keeps what it compiles for the ranks."""
    return tmp_path_factory.mktemp("extensions")


@pytest.fixture(scope="module")
def steps(extensions: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    out: Path = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(extensions))
        return {**run_ranks(1, ONE, out, free_port()), **run_ranks(2, TWO, out, free_port())}


def test_no_learner_needs_a_compiler(steps: dict, extensions: Path) -> None:
    assert not list(extensions.iterdir())


@pytest.mark.parametrize(
    ("case", "same_as"),
    [
        ("unshared", "whole"),
        ("accumulated", "whole"),
        ("zero0", "whole"),
        ("zero1", "whole"),
        ("zero2", "whole"),
        ("zero3", "whole"),
        ("zero3_untied", "untied"),
    ],
)
def test_gradient_is_the_same(steps: dict, case: str, same_as: str) -> None:
    reference, other = steps[same_as], steps[case]
    names = [name for name in reference if name.startswith("gradient/")]
    assert len(names) > 10
    whole = torch.cat([reference[name].reshape(-1) for name in names])
    cut = torch.cat([other[name].reshape(-1) for name in names])
    assert whole.norm() > 0
    assert float((whole - cut).norm() / whole.norm()) < 1e-5
    torch.testing.assert_close(other["stats"], reference["stats"], rtol=1e-4, atol=1e-6)


def test_what_is_imitated_weighs_as_the_formula_says(tmp_path: Path) -> None:
    half = dict(zero_stage=0, budget=WHOLE, shared=True, own_share=0.5)
    cases = {"half": half, "most": {**half, "own_share": 0.25, "budget": SMALL}, "nothing": {**half, "own_share": 1.0}}
    parted = {"parted": dict(zero_stage=3, budget=SMALL, shared=False, own_share=0.5)}
    steps = run_ranks(1, cases, tmp_path, free_port(), imitation_step)
    steps |= run_ranks(2, parted, tmp_path, free_port(), imitation_step)
    for step in steps.values():
        names = [name for name in step if name.startswith("gradient/")]
        gradient = torch.cat([step[name].reshape(-1) for name in names])
        expected = torch.cat([step[name.replace("gradient", "expected")].reshape(-1) for name in names])
        assert float((gradient - expected).norm() / expected.norm()) < 1e-4
        kl, gap, weight = step["stats"].tolist()  # of the policy's own lists alone
        assert kl == pytest.approx(0, abs=1e-9)
        assert gap < 1e-4
        assert weight == pytest.approx(1, abs=1e-4)


def test_lists_are_imitated_without_dropout(tmp_path: Path) -> None:
    found = run_ranks(1, {"drawn": {}}, tmp_path, free_port(), dropped_gradients)["drawn"]
    assert found["imitated 1"].norm() > 0
    assert torch.equal(found["imitated 1"], found["imitated 2"])
    assert not torch.equal(found["sequences 1"], found["sequences 2"])


@pytest.fixture(scope="module")
def left_out(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    cases = {
        f"{stage} {dtype} {bad}": {"zero_stage": stage, "dtype": dtype, "bad": bad}
        for stage, dtype in KINDS
        for bad in (False, True)
    }
    return run_ranks(2, cases, tmp_path_factory.mktemp("left out"), free_port(), steps_with_bad_ones)


@pytest.mark.parametrize(("stage", "dtype"), KINDS)
def test_a_step_that_is_not_finite_leaves_all_ranks_as_they_were(left_out: dict, stage: int, dtype: str) -> None:
    """The last rank alone has such a number."""
    with_it, without = left_out[f"{stage} {dtype} True"], left_out[f"{stage} {dtype} False"]
    assert with_it["why"] == [None, "the loss", "the gradient of model.norm.weight", None]
    assert all("grad_norm" not in numbers for numbers in with_it["numbers"][1:3])
    assert with_it["numbers"][::3] == without["numbers"]
    for name, weights in without["weights"].items():
        assert torch.equal(with_it["weights"][name], weights), name


def test_bfloat16_points_the_same_way(steps: dict) -> None:
    names = [name for name in steps["whole"] if name.startswith("gradient/")]
    exact, rough = (torch.cat([steps[case][name].reshape(-1) for name in names]) for case in ("whole", "bfloat16"))
    assert float(torch.nn.functional.cosine_similarity(exact, rough, dim=0)) > 0.99
    assert steps["bfloat16"]["weight/model.embed_tokens.weight"].dtype == torch.bfloat16


def test_the_step_moves_every_parameter(steps: dict) -> None:
    before, after = steps["whole"], steps["untied"]
    moved = [name for name in before if name.startswith("gradient/") and before[name].abs().max() > 0]
    assert len(moved) == sum(name.startswith("gradient/") for name in before)
    assert "gradient/lm_head.weight" in after
    assert "gradient/lm_head.weight" not in before
