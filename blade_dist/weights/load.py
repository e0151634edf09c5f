"""Loading weights that arrived into a model that vLLM serves.

vLLM's CPU backend packs every matrix of a linear layer after it has loaded it, and may delete the plain one. So plain
``load_weights`` on a running engine fails, or writes where nobody reads. Two ways are left: vLLM's layer-wise reload,
which is general and slow, and keeping the plain weights beside the packed ones.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from blade_dist.weights.digest import Digest, digests
from blade_dist.weights.gather import Bucket


class Loader(Protocol):
    """What a worker does between the start and the end of a push."""

    def start(self) -> None:
        """Makes the model ready."""

    def load(self, weights: Bucket) -> None:
        """Takes some parameters under their Hugging Face names; their memory is written over afterwards."""

    def finish(self) -> float:
        """Makes what was loaded the weights that are served; seconds that packing took since the start."""

    def digests(self) -> dict[str, Digest]:
        """Of every parameter that arrived in the last push, by Hugging Face name."""


def loader_for(model: Any, config: Any, device: torch.device) -> Loader:
    """The fast way where the model allows it, else the general one."""
    if device.type == "cpu" and InPlaceLoader.fits(model):
        return InPlaceLoader(model)
    return LayerwiseLoader(model, config, device)


class AdapterLoader:
    """LoRA: what arrives becomes the one adapter that vLLM serves, without a file between."""

    def __init__(self, manager: Any, alpha: float, number: int) -> None:
        """Nothing is loaded yet.

        Args:
            manager: the worker's (``model_runner.lora_manager``).
            alpha: what arrives is scaled by ``alpha / rank``.
            number: of the adapter, in requests.
        """
        self._manager, self._alpha, self._number = manager, alpha, number
        self._tensors: dict[str, torch.Tensor] = {}
        self._digests: dict[str, Digest] = {}

    def start(self) -> None:
        """Nothing has arrived yet; the old adapter is served until all has."""
        self._tensors, self._digests = {}, {}

    def load(self, weights: Bucket) -> None:
        """Keeps copies."""
        self._digests.update(digests(weights))
        self._tensors.update({f"base_model.model.{name}": tensor.clone() for name, tensor in weights})

    def finish(self) -> float:
        """Puts the new adapter in the old one's place.

        (vLLM's public way loads an adapter from a folder and caches it by name and path: a file for each push.)
        """
        from vllm.lora.lora_model import LoRAModel
        from vllm.lora.peft_helper import PEFTHelper

        rank = next(tensor.shape[0] for name, tensor in self._tensors.items() if ".lora_A." in name)
        helper = PEFTHelper(r=rank, lora_alpha=self._alpha, target_modules=[])
        slots, device = self._manager._adapter_manager, str(self._manager.device)
        dtype = self._manager.lora_config.lora_dtype
        adapter = LoRAModel.from_lora_tensors(self._number, self._tensors, helper, device=device, dtype=dtype)
        # vLLM keeps the adapter of a number that it has: without the removal the old one would be served on
        slots.remove_adapter(self._number)
        slots.add_adapter(adapter)
        slots.activate_adapter(self._number)
        self._tensors = {}
        return 0.0

    def digests(self) -> dict[str, Digest]:
        """Made on arrival."""
        return self._digests


class LayerwiseLoader:
    """vLLM's layer-wise reload: for every model, device and quantization."""

    def __init__(self, model: Any, config: Any, device: torch.device) -> None:
        self._model, self._config, self._device = model, config, device
        self._digests: dict[str, Digest] = {}

    def start(self) -> None:
        """Restores the layout of a fresh checkpoint load."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self._digests = {}
        with self._device:
            initialize_layerwise_reload(self._model)

    def load(self, weights: Bucket) -> None:
        """Layers are processed as they become whole; until then vLLM keeps their pieces."""
        self._digests.update(digests(weights))
        # what arrives in the memory of the host is a buffer that the next piece overwrites
        arrived = [(name, tensor.to(self._device, copy=True) if tensor.is_cpu else tensor) for name, tensor in weights]
        with self._device:
            self._model.load_weights(arrived)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def finish(self) -> float:
        """Processes what is left, and what vLLM's CPU backend leaves out: a tied head.

        The head's packed copy of the embedding is made once, when the engine starts. The reload fills the embedding and
        not that copy: without the last line log-probs are off by up to 2.7 nats, and nothing fails.
        """
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        with self._device:
            finalize_layerwise_reload(self._model, self._config.model_config)
        head, config = getattr(self._model, "lm_head", None), getattr(self._model, "config", None)
        if self._device.type == "cpu" and head is not None and getattr(config, "tie_word_embeddings", False):
            _pack(head)
        return 0.0

    def digests(self) -> dict[str, Digest]:
        """Made on arrival."""
        return self._digests


@dataclass
class _Place:
    """Where one Hugging Face tensor belongs."""

    target: torch.Tensor | None
    """View of a plain weight that is to equal the tensor; None where the model does more than copy it."""
    weights: set[int]
    """Storages of the plain weights that it changes."""


class InPlaceLoader:
    """CPU, unquantized: keeps each layer's plain weight beside the packed one, writes into it, and packs it anew.

    Where a Hugging Face tensor belongs (``k_proj`` is the middle rows of a layer ``qkv_proj``, say) is known to the
    model's ``load_weights`` alone. So that is watched once, tensor by tensor; later pushes repeat only the copy that it
    made. A layer is packed as soon as every tensor that it is made of has arrived, while the next piece travels.
    """

    def __init__(self, model: Any) -> None:
        """Gives every layer its plain weight back; not a number until it is loaded."""
        self._model = model
        self._places: dict[str, _Place] = {}
        self._layers: dict[int, list[Any]] = {}
        """Layers by the storage of their plain weight."""
        self._needs: dict[int, set[str]] = {}
        """Storage -> names of the tensors that are written into it; known after the first push."""
        self._waiting: dict[int, set[str]] = {}
        """Storage -> names that have arrived in this push, until its layers are packed."""
        self._digests: dict[str, Digest | None] = {}
        self._packing = 0.0
        for layer in model.modules():
            if _packs(layer):
                _restore_weight(layer)
                self._layers.setdefault(_storage(layer.weight), []).append(layer)
        head = getattr(model, "lm_head", None)
        for layers in self._layers.values():
            # tied: head and embedding have one weight; the embedding is only looked up, and has nothing to pack
            if any(layer is head for layer in layers):
                layers[:] = [head]

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether nothing but packing happens to the model's weights after vLLM has loaded them."""
        from vllm.model_executor.layers.attention import Attention

        return all(
            (_packs(layer) or getattr(layer, "quant_method", None) is None)
            and (type(layer) is Attention or not hasattr(layer, "process_weights_after_loading"))
            for layer in model.modules()
        )

    def start(self) -> None:
        """Nothing has arrived yet."""
        self._waiting, self._digests, self._packing = {}, {}, 0.0

    def load(self, weights: Bucket) -> None:
        """Writes into the plain weights."""
        for name, tensor in weights:
            place = self._places.get(name)
            if place is not None and place.target is not None:
                place.target.copy_(tensor)
            else:
                place = self._places[name] = self._watch(name, tensor)
            # a plain copy is still there when somebody requests its digest: made then, if ever
            self._digests[name] = None if place.target is not None else digests([(name, tensor)])[name]
            for weight in place.weights:
                arrived = self._waiting.setdefault(weight, set())
                arrived.add(name)
                if arrived == self._needs.get(weight):
                    self._serve(weight)

    def finish(self) -> float:
        """Packs what has not been: layers of which a part arrived, and on the first push all. Notes what each needs."""
        for weight in list(self._waiting):
            self._serve(weight)
        for name, place in self._places.items():
            for weight in place.weights:
                self._needs.setdefault(weight, set()).add(name)
        return self._packing

    def digests(self) -> dict[str, Digest]:
        """Of the plain weights, where they hold what arrived as it is; the others' were made on arrival."""
        held = digests(
            (name, place.target)
            for name, place in self._places.items()
            if place.target is not None and name in self._digests
        )
        return held | {name: value for name, value in self._digests.items() if value is not None}

    def _serve(self, weight: int) -> None:
        del self._waiting[weight]
        started = time.perf_counter()
        for layer in self._layers.get(weight, []):
            _pack(layer)
        self._packing += time.perf_counter() - started

    def _watch(self, name: str, tensor: torch.Tensor) -> _Place:
        # one tensor at a time, so that every write belongs to it
        with _Writes() as writes:
            self._model.load_weights([(name, tensor)])
        # a target only where loading was one copy of the whole tensor: a model that also transposes, scales or casts
        # keeps its own load_weights on every push
        target = None
        if len(writes.seen) == 1 and writes.source is not None and _same_view(writes.source, tensor):
            target = writes.seen[0] if writes.seen[0].dtype == tensor.dtype else None
        return _Place(target, {_storage(written) for written in writes.seen})


class _Writes(TorchDispatchMode):
    """Notes every tensor that is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        self.source: torch.Tensor | None = None
        """Of the last write, where it was a copy."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:
            self.seen.append(args[0])
            self.source = args[1] if func is torch.ops.aten.copy_.default else None
        return func(*args, **(kwargs or {}))


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _same_view(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def _packs(layer: Any) -> bool:
    """Whether vLLM's CPU backend packs the layer's matrix and does nothing else to it."""
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    plain = type(getattr(layer, "quant_method", None)) in (UnquantizedLinearMethod, UnquantizedEmbeddingMethod)
    return plain and hasattr(layer, "cpu_linear") and _loaded_weight(layer).ndim == 2


def _loaded_weight(layer: Any) -> torch.Tensor:
    """The layer's weight before packing, without data where packing has removed it."""
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    recorded: torch.Tensor = get_layerwise_info(layer).restore_metadata[0].get("weight", layer.weight)
    return recorded


def _restore_weight(layer: Any) -> None:
    from vllm.model_executor.model_loader.reload.meta import materialize_meta_tensor
    from vllm.model_executor.model_loader.reload.sanitize import restore_layer_refs

    if not layer.weight.numel():
        layer.weight = materialize_meta_tensor(restore_layer_refs(_loaded_weight(layer), layer))
        layer.weight.data.fill_(float("nan"))  # a parameter that no push brings shows at once


def _pack(layer: Any) -> None:
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
