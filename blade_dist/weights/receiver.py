"""The engine's side of the push: an extension of vLLM's worker (``worker_extension_cls``).

Works with vLLM 0.24 and 0.32 alike, for every transport: a transport only turns a bucket's description into
tensors; loading them (vLLM's layer-wise reload), digesting them and repairing what vLLM's CPU backend leaves stale
is the same for all.
"""

from __future__ import annotations

from typing import Any

import torch

from blade_dist.weights.digest import Digest, digest


class WeightReceiver:
    """Methods added to vLLM's worker; ``self`` is the worker."""

    model_runner: Any
    vllm_config: Any
    model_config: Any
    device: torch.device

    def blade_describe(self) -> str:
        """The GPU's UUID, or ``cpu``."""
        if self.device.type != "cuda":
            return "cpu"
        return str(torch.cuda.get_device_properties(self.device).uuid)

    def blade_connect(self, transport: str, info: dict[str, Any]) -> None:
        """Joins the learner's transfer group."""
        from blade_dist.weights.transports import receiving_end

        self._blade_end = receiving_end(transport, info, self)
        self._blade_digests: dict[str, Digest] = {}

    @torch.inference_mode()
    def blade_start_update(self) -> None:
        """Restores the layout of a fresh checkpoint load."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self._blade_digests = {}
        with set_current_vllm_config(self.vllm_config), torch.device(self.device):
            initialize_layerwise_reload(self.model_runner.model)

    @torch.inference_mode()
    def blade_receive(self, bucket: dict[str, Any]) -> None:
        """Receives and loads one bucket: ``names``, ``dtypes``, ``shapes`` and what the transport adds."""
        from vllm.config import set_current_vllm_config

        weights = self._blade_end.receive(bucket)
        self._blade_digests.update({name: digest(tensor) for name, tensor in weights})
        with set_current_vllm_config(self.vllm_config), torch.device(self.device):
            self.model_runner.model.load_weights(weights)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.inference_mode()
    def blade_finish_update(self) -> dict[str, Digest]:
        """Processes what was loaded, and returns the digest of every parameter as it arrived."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        with set_current_vllm_config(self.vllm_config), torch.device(self.device):
            finalize_layerwise_reload(self.model_runner.model, self.model_config)
        if self.device.type == "cpu":
            _repack_tied_head(self.model_runner.model)
        return self._blade_digests


def _repack_tied_head(model: torch.nn.Module) -> None:
    """vLLM's CPU backend packs a tied output head apart from the embedding and does not pack it again on a reload."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    head, config = getattr(model, "lm_head", None), getattr(model, "config", None)
    if head is not None and getattr(config, "tie_word_embeddings", False):
        dispatch_cpu_unquantized_gemm(head, remove_weight=False)
