"""An export that is opened: every file is checked once, and then handed on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.terms import TermBook
from blade_dist.rollouts.spec import EngineSpec
from blade_dist.serving.export import CATALOG, CODEC, TRIE
from blade_dist.serving.manifest import Manifest, Trained, check_files, read_manifest

LONG_LIST = 100
"""Items of the longest list that there is room for, whatever the export's K."""


@dataclass(frozen=True)
class EngineOptions:
    """How an engine uses the machine that it serves on."""

    tensor_parallel: int = 1
    """GPUs of an engine."""
    max_num_seqs: int = 256
    """Lists that it writes at once."""
    gpu_memory_utilization: float = 0.85
    """Share of a GPU that it may take."""
    kv_cache_gb: int = 1
    """KV cache on a CPU, GiB at most."""


@dataclass(frozen=True, eq=False)
class OpenedExport:
    """What a request is answered with, but for the engine."""

    folder: Path
    manifest: Manifest
    catalog: Catalog
    codec: Codec
    book: TermBook

    @cached_property
    def trained(self) -> Trained:
        """What the policy is, whatever the catalog of the day."""
        own = self.manifest
        here = Trained(weights=own.weights, codec=own.codec, catalog=own.catalog, items=len(self.catalog))
        return own.trained or here

    @cached_property
    def index(self) -> dict[str, int]:
        """Catalog index of each item id."""
        return {item: number for number, item in enumerate(self.catalog.item_ids.tolist())}

    @cached_property
    def context(self) -> int:
        """Longest sequence that an engine is started for, tokens.

        What the model has room for would take memory, of a large one more than there is; what a history and a long
        list need is enough.
        """
        longest_list = self.codec.max_list_tokens(max(self.manifest.lists.k, LONG_LIST))
        return min(self.manifest.context, self.codec.max_prompt_tokens(self.manifest.max_history) + longest_list)

    def spec(self, options: EngineOptions) -> EngineSpec:
        """The engine that serves it."""
        manifest, folder = self.manifest, self.folder.absolute()
        return EngineSpec(
            model=folder,
            codec=folder / CODEC,
            trie=folder / TRIE,
            catalog=folder / CATALOG,
            lists=manifest.lists,
            seed=manifest.seed,
            dtype=manifest.dtype,
            context=self.context,
            tensor_parallel=options.tensor_parallel,
            max_num_seqs=options.max_num_seqs,
            gpu_memory_utilization=options.gpu_memory_utilization,
            kv_cache_gb=options.kv_cache_gb,
            trust_remote_code=False,
            sleeps=False,
            lora=None,
        )

    def describe(self, items: list[int]) -> list[dict[str, Any]]:
        """Id and title of each."""
        return [{"id": self.catalog.item_ids[item], "title": self.catalog.titles[item]} for item in items]


def open_export(folder: Path) -> OpenedExport:
    """Checks every file and maps them.

    Raises:
        UserError: no export there, one of another schema version, or a damaged file.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    codec = Codec.load(folder / CODEC)
    book = TermBook(codec, folder / TRIE, folder / CATALOG)
    return OpenedExport(folder, manifest, Catalog.load(folder / CATALOG), codec, book)
