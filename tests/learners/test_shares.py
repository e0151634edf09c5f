"""What the optimizer of one layout saved, another one reads: the same numbers under the same names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.learners.shares import MOMENTS, WEIGHT, Share, load_shares, save_shares
from blade_dist.settings import BuildSettings, LearnerSettings, ModelSettings
from tests.helpers.ranks import END, PAD, VOCAB, free_port, make_batch, run_ranks

SIZES = {"embed.weight": 40, "norm.weight": 7}
KINDS = (WEIGHT, *MOMENTS)
Bounds = dict[str, list[int]]

bounds = st.fixed_dictionaries(
    {name: st.lists(st.integers(0, size), max_size=4).map(sorted) for name, size in SIZES.items()}
)


def cut(flat: dict[str, dict[str, torch.Tensor]], step: float, at: Bounds) -> list[Share]:
    """Shares of all that ``flat`` has; they are views of it."""
    return [
        Share(name, start, {kind: of[start:end] for kind, of in flat[name].items()}, torch.tensor(step))
        for name, size in SIZES.items()
        for start, end in zip([0, *at[name]], [*at[name], size], strict=True)
        if end > start
    ]


def filled(number: int | None) -> dict[str, dict[str, torch.Tensor]]:
    """Random numbers by the seed ``number``; zeros where it is None."""
    made = torch.zeros if number is None else torch.randn
    torch.manual_seed(number or 0)
    return {name: {kind: made(size) for kind in KINDS} for name, size in SIZES.items()}


@given(saved=bounds, wanted=bounds, files=st.integers(1, 3))
def test_shares_are_read_however_they_were_cut(
    saved: Bounds, wanted: Bounds, files: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, theirs, ours = tmp_path_factory.mktemp("shares"), filled(1), filled(None)
    written, read = cut(theirs, 3.0, saved), cut(ours, 0.0, wanted)
    for rank in range(files):
        save_shares(written[rank::files], folder / f"rank-{rank}.safetensors")
    load_shares(read, folder)
    for name, of in theirs.items():
        assert all(torch.equal(ours[name][kind], numbers) for kind, numbers in of.items())
    assert {float(share.step) for share in read} == {3.0}


def test_a_share_that_is_not_there_is_named(tmp_path: Path) -> None:
    at = {name: [size // 2] for name, size in SIZES.items()}
    save_shares(cut(filled(1), 3.0, at)[:-1], tmp_path / "rank-0.safetensors")
    with pytest.raises(RuntimeError, match=r"3 of 7 numbers of a share of norm\.weight are there"):
        load_shares(cut(filled(None), 0.0, {name: [] for name in SIZES}), tmp_path)


DTYPES = ("float32", "bfloat16")
SAVED = ((1, 0), (3, 1), (3, 2), (3, 3))
"""Ranks (of three, so that shares do not end where parameters do) and ZeRO stage."""
READ = ((1, 0), (1, 3), (3, 0), (3, 1), (3, 2), (3, 3))


def name_of(*layout: object) -> str:
    return "-".join(map(str, layout))


def learned(zero_stage: int, dtype: str, folder: str, saves: bool) -> dict[str, Any]:
    """Three steps, saved after two; or the third one alone, after what is saved. State before it, weights after it."""
    import torch.distributed as dist

    from blade_dist.learners.policy import Policy, build_model
    from blade_dist.learners.update import PolicyUpdate
    from blade_dist.learners.zero import DeepSpeedLearner
    from blade_dist.weights.gather import full_state

    build = BuildSettings(hidden_size=64, layers=1, heads=2, kv_heads=1, ffn_size=47, context=64)
    torch.manual_seed(0 if saves else 1)
    policy = Policy(build_model(ModelSettings(build=build, dtype=dtype), VOCAB, PAD, END), temperature=1.0)
    settings = LearnerSettings(zero_stage=zero_stage, weight_decay=0.1)
    learner = DeepSpeedLearner(policy, settings, dtype, PAD)
    update = PolicyUpdate(learner, None, settings, 0.0, None)

    def step(seed: int) -> None:
        rows = np.array_split(np.arange(6), learner.world_size)[learner.rank]
        update.learn(make_batch(seed=seed).take(rows), 1e-2)

    if saves:
        step(0)
        step(1)
        learner.copy_state()(Path(folder))
        dist.barrier()
    else:
        learner.load_state(Path(folder))
    result = {f"before/{name}": numbers for name, numbers in state(learner)}
    result |= {f"served/{name}": of for name, of in full_state(learner.model, 2**20, keep=True).items()}
    step(2)
    return result | {f"after/{name}": of for name, of in full_state(learner.model, 2**20, keep=True).items()}


def state(learner: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """By the parameters' names, as DeepSpeed's own functions and AdamW itself tell it."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    optimizer, named = learner._engine.optimizer, list(learner.model.named_parameters())
    stage = learner.layout.zero_stage
    if stage in (1, 2):
        optimizer._lazy_init_hp_params_optimizer_state()  # as after a step
    masters = [master for group in optimizer.param_groups for master in group["params"]] if stage == 0 else []
    for number, (name, parameter) in enumerate(named):
        if stage == 0:
            of = optimizer.state[masters[number]]
            yield f"{name}/weight", masters[number].detach().clone()
            yield from ((f"{name}/{kind}", of[kind].clone()) for kind in MOMENTS)
        else:
            yield f"{name}/weight", safe_get_full_fp32_param(parameter).clone()
            yield from ((f"{name}/{kind}", safe_get_full_optimizer_state(parameter, kind).clone()) for kind in MOMENTS)
    steps = {float(of["step"]) for of in optimizer.state.values()}
    yield "steps", torch.tensor(sorted(steps))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    out: Path = tmp_path_factory.mktemp("layouts")
    found: dict[str, dict[str, torch.Tensor]] = {}
    for ranks in (1, 3):
        saves = {
            name_of(ranks, stage, dtype): {"zero_stage": stage, "dtype": dtype, "saves": True}
            for of, stage in SAVED
            for dtype in DTYPES
            if of == ranks
        }
        cases = {name: {**case, "folder": str(out / name)} for name, case in saves.items()}
        found |= run_ranks(ranks, cases, out, free_port(), learned)
    for ranks in (1, 3):
        reads = {
            name_of(*saved, dtype, "by", ranks, stage): {
                "zero_stage": stage,
                "dtype": dtype,
                "saves": False,
                "folder": str(out / name_of(*saved, dtype)),
            }
            for saved in SAVED
            for of, stage in READ
            for dtype in DTYPES
            if of == ranks
        }
        found |= run_ranks(ranks, reads, out, free_port(), learned)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("saved", SAVED)
def test_every_layout_goes_on_from_every_other(
    runs: dict[str, dict[str, torch.Tensor]], saved: tuple[int, int], read: tuple[int, int], dtype: str
) -> None:
    theirs, ours = runs[name_of(*saved, dtype)], runs[name_of(*saved, dtype, "by", *read)]
    assert theirs.keys() == ours.keys()
    for name, numbers in theirs.items():
        if read == saved or not name.startswith("after/"):
            assert torch.equal(ours[name], numbers), name
    before, after, other = (
        torch.cat([of[name].flatten().float() for name in theirs if name.startswith(part)])
        for of, part in ((theirs, "served/"), (theirs, "after/"), (ours, "after/"))
    )
    way = (after - before).norm()
    assert way > 0
    assert (after - other).norm() < way * (1e-2 if dtype == "float32" else 0.3)  # another order of additions
