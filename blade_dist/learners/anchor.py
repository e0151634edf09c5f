"""The anchor of J-BOND: a policy whose weights are an exponential moving average of the learner's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from blade_dist.learners.policy import Policy


def move_towards(anchor: Tensor, policy: Tensor, eta: float) -> None:
    """``(1 - eta) anchor + eta policy`` into ``anchor``, in its precision."""
    anchor.lerp_(policy.to(anchor), eta)


class Anchor:
    """Every rank holds it whole; equal on all of them, as all see the same weights."""

    def __init__(self, policy: Policy, eta: float) -> None:
        """Begins where ``policy`` is, and takes it over.

        Averages are kept in float32: with bfloat16 a step of ``eta`` is often less than half of the last digit.
        """
        self.policy = policy.requires_grad_(True)  # a push sends what could be trained
        self._eta = eta
        self._served = {name: parameter.detach() for name, parameter in policy.model.named_parameters()}
        self._exact = {name: served.float() for name, served in self._served.items()}  # float32 is not copied

    @torch.no_grad()
    def follow(self, buckets: Iterable[list[tuple[str, Tensor]]]) -> None:
        """One step of the average, by names and whole tensors of the learner's parameters, a bucket at a time."""
        for bucket in buckets:
            for name, parameter in bucket:
                move_towards(self._exact[name], parameter, self._eta)
                self._served[name].copy_(self._exact[name])

    def copy(self) -> dict[str, Tensor]:
        """The averages, in float32, in the CPU's memory."""
        return {name: exact.detach().to("cpu", copy=True) for name, exact in self._exact.items()}

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Takes what :meth:`copy` returned, from a safetensors file."""
        for name, saved in load_file(path).items():
            self._exact[name].copy_(saved)
            self._served[name].copy_(saved)
