"""What a rank's optimizer holds of each parameter, saved under the parameter's name, and read by any number of ranks.

DeepSpeed's own checkpoints are of one number of ranks and one ZeRO stage, and what it converts them by knows no stage
0. Here a share says where it stands in its parameter, so that every layout finds the numbers that it needs. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

WEIGHT, MOMENTS, STEP = "weight", ("exp_avg", "exp_avg_sq"), "step"
"""Names of numbers: those of which the model's weights are copies, AdamW's moments, and its steps."""
WHOLE, SHARDED = 0, 3
"""ZeRO stages: all ranks hold all, and each holds a share of the weights too."""


@dataclass(frozen=True)
class Share:
    """What one rank holds of one parameter: views of the optimizer's own numbers."""

    name: str
    start: int
    """Place of the first number in the flat parameter."""
    numbers: Mapping[str, Tensor]
    """float32 ``[n]`` of :data:`WEIGHT` and each of :data:`MOMENTS`."""
    step: Tensor
    """float32 ``[]``, of the optimizer's steps; may be that of other shares too."""

    def __len__(self) -> int:
        return len(self.numbers[WEIGHT])

    def cut(self, start: int, end: int) -> Share:
        """Places ``start`` to ``end`` of the flat parameter, which it holds."""
        numbers = {kind: of[start - self.start : end - self.start] for kind, of in self.numbers.items()}
        return Share(self.name, start, numbers, self.step)

    def copied(self) -> Share:
        """With numbers of its own, in the CPU's memory."""
        numbers = {kind: of.to("cpu", copy=True) for kind, of in self.numbers.items()}
        return Share(self.name, self.start, numbers, self.step.to("cpu", copy=True))


def shares_of(engine: Any) -> list[Share]:
    """Those of this rank of a DeepSpeed engine with AdamW; an optimizer without a state gets AdamW's first one."""
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == WHOLE:
        return [
            _share(name, 0, master, _state(optimizer, master), 0, master.numel())
            for name, _, master in _held_whole(engine)
        ]
    if stage == SHARDED:
        return [
            _share(name, place, flat, _state(optimizer, flat), offset, count)
            for name, _, flat, offset, place, count in _sharded(engine)
            if count
        ]
    shares = []
    for name, parameter in _trained(engine):
        if (held := parameter._hp_mapping) is not None:  # else other ranks have all of it
            (flat,) = optimizer.param_groups[held.param_group_index]["params"]
            here, there = held.hp_fragment_address, held.lp_fragment_address
            shares.append(_share(name, there.start, flat, _state(optimizer, flat), here.start, here.numel))
    return shares


def copy_to_weights(engine: Any) -> None:
    """Makes the model's weights what the optimizer's numbers say (collective)."""
    stage = engine.zero_optimization_stage()
    if stage == WHOLE:
        for _, parameter, master in _held_whole(engine):
            parameter.data.copy_(master.data)
    elif stage == SHARDED:
        engine.optimizer.checkpoint_event_prologue()  # small weights are held whole beside their shares
        for _, parameter, flat, offset, *_ in _sharded(engine):
            parameter.ds_tensor.data.copy_(flat.data[offset : offset + parameter.partition_numel()])
        engine.optimizer.checkpoint_event_epilogue()
    else:
        engine.optimizer.update_lp_params()


def save_shares(shares: Sequence[Share], file: Path) -> None:
    """Writes them to a safetensors file; missing folders are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for share in shares:
        held = {**share.numbers, STEP: share.step.clone()}  # as others hold the same one
        tensors |= {_key(share.name, share.start, kind): of for kind, of in held.items()}
    save_file(tensors, file)


def load_shares(shares: Sequence[Share], folder: Path) -> None:
    """Fills them with what the files in ``folder`` hold, however it is cut there.

    Raises:
        RuntimeError: it does not hold all of them.
    """
    with ExitStack() as opened:
        saved: defaultdict[str, list[tuple[int, Any]]] = defaultdict(list)
        for file in sorted(folder.glob("*.safetensors")):
            content = opened.enter_context(safe_open(file, "pt"))
            for key in content.keys():  # noqa: SIM118 - no dictionary
                name, start, kind = key.rsplit("/", 2)
                if kind == WEIGHT:
                    saved[name].append((int(start), content))
        for share in shares:
            found = sum(_filled(share, start, content) for start, content in saved[share.name])
            if found != len(share):
                raise RuntimeError(f"{folder}: {found} of {len(share)} numbers of a share of {share.name} are there")


def _filled(share: Share, start: int, content: Any) -> int:
    """How many of its numbers are in a saved share of the parameter, which begins at ``start``; they are copied."""
    slices = {kind: content.get_slice(_key(share.name, start, kind)) for kind in share.numbers}
    first, last = max(start, share.start), min(start + slices[WEIGHT].get_shape()[0], share.start + len(share))
    if first >= last:
        return 0
    for kind, of in share.cut(first, last).numbers.items():
        of.copy_(slices[kind][first - start : last - start])
    share.step.copy_(content.get_tensor(_key(share.name, start, STEP)))
    return last - first


def _key(name: str, start: int, kind: str) -> str:
    return f"{name}/{start}/{kind}"


def _share(name: str, start: int, flat: Tensor, state: Mapping[str, Tensor], offset: int, count: int) -> Share:
    """Of ``count`` numbers of a tensor of the optimizer's, from ``offset`` on."""
    held = {WEIGHT: flat.detach()} | {kind: state[kind] for kind in MOMENTS}
    numbers = {kind: of.view(-1).narrow(0, offset, count) for kind, of in held.items()}
    return Share(name, start, numbers, state[STEP])


def _state(optimizer: Any, master: Tensor) -> dict[str, Tensor]:
    """AdamW's of a tensor, as it makes it itself at its first step where there is none."""
    state: dict[str, Tensor] = optimizer.state[master]
    if not state:
        state |= {kind: torch.zeros_like(master) for kind in MOMENTS} | {STEP: torch.tensor(0.0)}
    return state


def _trained(engine: Any) -> Iterator[tuple[str, Any]]:
    return ((name, parameter) for name, parameter in engine.module.named_parameters() if parameter.requires_grad)


def _held_whole(engine: Any) -> Iterator[tuple[str, Any, Tensor]]:
    """Name, weights, and what they are a copy of (in float32 itself)."""
    masters = [master for group in engine.optimizer.param_groups for master in group["params"]]
    return ((*named, master) for named, master in zip(_trained(engine), masters, strict=True))


def _sharded(engine: Any) -> Iterator[tuple[str, Any, Tensor, int, int, int]]:
    """Name, parameter, the tensor with its share and where in that; place in the parameter, and numbers, of the share.

    Shares of a parameter are equally long; the last ones end beyond it.
    """
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    optimizer = engine.optimizer
    for group, flat in zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True):
        offset = 0
        for parameter in group:
            size = parameter.partition_numel()
            place = size * torch.distributed.get_rank()
            count = max(0, min(size, parameter.ds_numel - place))
            yield names[id(parameter)], parameter, flat, offset, place, count
            offset += size
