"""The engine's side of the push: an extension of vLLM's worker (``worker_extension_cls``).

Works with vLLM 0.24 and 0.32 alike, whose own weight-transfer classes differ, and on a CPU, where vLLM's call
``torch.accelerator.synchronize``, which raises. A transport only turns what arrives into tensors; loading and digesting
them is the same for all.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from blade_dist.weights.digest import Digest
from blade_dist.weights.gather import Bucket
from blade_dist.weights.stream import Announcement

if TYPE_CHECKING:
    from blade_dist.weights.load import Loader


class WeightReceiver:
    """Methods added to vLLM's worker; ``self`` is the worker. Their names begin with ``blade_`` because vLLM refuses an
    extension that shadows one of the worker's.
    """

    model_runner: Any
    vllm_config: Any
    device: torch.device

    def blade_describe(self) -> str:
        """The GPU's UUID, or ``cpu``."""
        if self.device.type != "cuda":
            return "cpu"
        return str(torch.cuda.get_device_properties(self.device).uuid)

    def blade_connect(self, transport: str, info: dict[str, Any]) -> None:
        """Joins the learner's transfer group."""
        from blade_dist.weights.load import AdapterLoader, loader_for
        from blade_dist.weights.transports import receiving_end

        self._blade_end: Any = receiving_end(transport, info, self)
        if hasattr(self, "_blade_loader"):  # a new attempt of the learners connects anew; the model is the same
            return
        if self.vllm_config.lora_config is not None:
            self._blade_loader: Loader = AdapterLoader(self.model_runner.lora_manager, info["alpha"], info["adapter"])
        else:
            self._blade_loader = loader_for(self.model_runner.model, self.vllm_config, self.device)

    def blade_disconnect(self) -> None:
        """Leaves the group, so that a learner that still sends fails at once."""
        self._blade_end = None

    @torch.inference_mode()
    def blade_update(self, first: Announcement) -> dict[str, float]:
        """One whole push, from a transport that streams; seconds of each part."""
        self.blade_start_update()
        stream = self._blade_end.stream(first)
        while (weights := self._timed("receive", lambda: next(stream, None))) is not None:
            self._take(weights)
        return self.blade_finish_update()

    @torch.inference_mode()
    def blade_start_update(self) -> None:
        """Makes the model ready for new weights."""
        from vllm.config import set_current_vllm_config

        self._blade_seconds: dict[str, float] = {}
        self._blade_cpu = time.process_time()
        with set_current_vllm_config(self.vllm_config):
            self._timed("start", self._blade_loader.start)

    @torch.inference_mode()
    def blade_receive(self, bucket: dict[str, Any]) -> None:
        """Receives and loads one bucket: ``names``, ``dtypes``, ``shapes`` and what the transport adds."""
        self._take(self._timed("receive", lambda: self._blade_end.receive(bucket)))

    @torch.inference_mode()
    def blade_finish_update(self) -> dict[str, float]:
        """Makes what arrived the weights that are served.

        Returns:
            Seconds of each part of the update; ``packing`` is a part of ``load`` and ``serve``, ``cpu`` counts all
            threads of the process.
        """
        from vllm.config import set_current_vllm_config

        with set_current_vllm_config(self.vllm_config):
            self._blade_seconds["packing"] = self._timed("serve", self._blade_loader.finish)
        self._blade_seconds["cpu"] = time.process_time() - self._blade_cpu
        return self._blade_seconds

    @torch.inference_mode()
    def blade_digests(self) -> dict[str, Digest]:
        """Digest of every parameter that arrived in the last push, by Hugging Face name."""
        return self._blade_loader.digests()

    def _take(self, weights: Bucket) -> None:
        from vllm.config import set_current_vllm_config

        with set_current_vllm_config(self.vllm_config):
            self._timed("load", lambda: self._blade_loader.load(weights))

    def _timed(self, part: str, work: Any) -> Any:
        started = time.perf_counter()
        done = work()
        self._blade_seconds[part] = self._blade_seconds.get(part, 0.0) + time.perf_counter() - started
        return done
