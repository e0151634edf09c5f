"""Legal lists from vLLM's own server: ``vllm serve EXPORT``, with this as its ``--logits-processors``.

The server reads the export, and each request says in ``vllm_xargs`` what the user has had.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from blade_dist.rollouts.constrain import EXCLUDED, OPTION, constraint_options
from blade_dist.rollouts.processor_v1 import CatalogProcessor
from blade_dist.serving.opened import EngineOptions, open_export
from blade_dist.serving.request import Resolver

HISTORY = "history"
"""Key of ``vllm_xargs``: item ids, oldest first; those that are no items are skipped."""


class ServedLists(CatalogProcessor):
    """Every answer is a legal list of the export's K items, and holds nothing that its request's history excludes."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        """Raises UserError where the served model is no export, or a damaged one."""
        opened = open_export(Path(vllm_config.model_config.model))
        self._resolver = Resolver(opened)
        spec = opened.spec(EngineOptions())
        # its clients read the last item too, to its last token
        options = {OPTION: constraint_options(spec.lists, spec.codec, spec.trie, spec.catalog, early=False)}
        vllm_config.additional_config = {**(vllm_config.additional_config or {}), **options}
        super().__init__(vllm_config, device, is_pin_memory)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises ValueError, which the server answers with status 400, where the history is no list of ids."""
        if not isinstance(_history(sampling_params), list):
            raise ValueError(f"vllm_xargs.{HISTORY}: must be a list of item ids")  # noqa: TRY004 - vLLM asks for it

    def arguments(self, params: Any) -> dict[str, Any]:
        """See :class:`CatalogProcessor`; nothing raises here, as that would end the server."""
        return {EXCLUDED: self._resolver.seen([str(item) for item in _history(params)]).tolist()}


def _history(params: Any) -> Any:
    return (params.extra_args or {}).get(HISTORY, [])
