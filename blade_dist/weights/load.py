"""Loading weights that arrived into a model that vLLM serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Protocol

import torch

from blade_dist.weights.gather import Bucket


class Loader(Protocol):
    """What a worker does between the start and the end of a push."""

    def start(self) -> None:
        """Makes the model ready."""

    def load(self, weights: Bucket) -> None:
        """Takes some parameters under their Hugging Face names; their memory may be used again afterwards."""

    def finish(self) -> None:
        """Makes what was loaded the weights that are served."""


def loader_for(model: Any, config: Any, device: torch.device) -> Loader:
    """The fast way where the model allows it, else the general one."""
    if device.type == "cpu" and InPlaceLoader.fits(model):
        return InPlaceLoader(model)
    return LayerwiseLoader(model, config, device)


class LayerwiseLoader:
    """vLLM's layer-wise reload: for every model, device and quantization."""

    def __init__(self, model: Any, config: Any, device: torch.device) -> None:
        self._model, self._config, self._device = model, config, device

    def start(self) -> None:
        """Restores the layout of a fresh checkpoint load."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        with self._device:
            initialize_layerwise_reload(self._model)

    def load(self, weights: Bucket) -> None:
        """Layers are processed as they become whole; until then vLLM keeps their pieces, here copies of them."""
        own = [(name, tensor.clone()) for name, tensor in weights] if self._device.type == "cpu" else weights
        with self._device:
            self._model.load_weights(own)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def finish(self) -> None:
        """Processes what is left, and what vLLM's CPU backend forgets: it packs a tied head apart, and only once."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        with self._device:
            finalize_layerwise_reload(self._model, self._config.model_config)
        head, config = getattr(self._model, "lm_head", None), getattr(self._model, "config", None)
        if self._device.type == "cpu" and head is not None and getattr(config, "tie_word_embeddings", False):
            _pack(head)


@dataclass
class _Steps:
    """How vLLM loads one Hugging Face tensor."""

    parameters: list[int]
    """Identities of the vLLM parameters that it goes into."""
    replay: list[Callable[[torch.Tensor], object]] | None
    """The loads themselves; None where the model changes the tensor first."""


class InPlaceLoader:
    """CPU, unquantized: keeps each layer's plain weight beside the packed one, writes into it, and packs it anew.

    The model's own ``load_weights`` says once, tensor by tensor, what goes where; later pushes repeat only that. A
    layer is packed as soon as all that goes into it has arrived.
    """

    def __init__(self, model: Any) -> None:
        """Gives every layer its plain weight back; not a number until it is loaded."""
        from vllm.model_executor.model_loader.weight_utils import default_weight_loader

        self._model = model
        self._steps: dict[str, _Steps] = {}
        self._calls: list[tuple[int, torch.Tensor, Callable[[torch.Tensor], object]]] = []
        self._packed: dict[int, list[Any]] = {}
        self._needs: dict[int, set[str]] = {}
        self._arrived: dict[int, set[str]] = {}
        for layer in model.modules():
            if _packs(layer):
                _restore_weight(layer)
                self._packed.setdefault(id(layer.weight), []).append(layer)
        head = getattr(model, "lm_head", None)
        for layers in self._packed.values():
            if head in layers:  # an embedding whose head is a layer of its own is only looked up
                layers[:] = [head]
        for parameter in model.parameters():
            parameter.weight_loader = self._noting(getattr(parameter, "weight_loader", default_weight_loader))

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
        self._arrived = {}

    def load(self, weights: Bucket) -> None:
        """Writes into the plain weights."""
        for name, tensor in weights:
            steps = self._steps.get(name)
            if steps is not None and steps.replay is not None:
                for step in steps.replay:
                    step(tensor)
            else:
                steps = self._steps[name] = self._first(name, tensor)
            for parameter in steps.parameters:
                arrived = self._arrived.setdefault(parameter, set())
                arrived.add(name)
                if arrived == self._needs.get(parameter):
                    self._serve(parameter)

    def finish(self) -> None:
        """Packs what has not been: layers of which a part arrived, and on the first push all. Notes what each needs."""
        for parameter in list(self._arrived):
            self._serve(parameter)
        for name, steps in self._steps.items():
            for parameter in steps.parameters:
                self._needs.setdefault(parameter, set()).add(name)

    def _serve(self, parameter: int) -> None:
        del self._arrived[parameter]
        for layer in self._packed.get(parameter, []):
            _pack(layer)

    def _first(self, name: str, tensor: torch.Tensor) -> _Steps:
        self._calls = []
        self._model.load_weights([(name, tensor)])
        plain = all(_same_view(loaded, tensor) for _, loaded, _ in self._calls)
        return _Steps(
            list(dict.fromkeys(parameter for parameter, _, _ in self._calls)),
            [step for _, _, step in self._calls] if plain and self._calls else None,
        )

    def _noting(self, loader: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(loader)
        def noting(parameter: Any, loaded: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            step = partial(_call, loader, parameter, args, kwargs)
            self._calls.append((id(parameter), loaded, step))
            return step(loaded)

        return noting


def _call(
    loader: Callable[..., Any], parameter: Any, args: tuple[Any, ...], kwargs: dict[str, Any], loaded: torch.Tensor
) -> Any:
    return loader(parameter, loaded, *args, **kwargs)


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
        layer.weight.data.fill_(float("nan"))


def _pack(layer: Any) -> None:
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
