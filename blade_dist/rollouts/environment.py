"""What an engine's process has in its environment.

Imports neither torch nor vLLM: they read most of it when they are imported.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

V2_PROCESSORS = "v1/worker/gpu/sample/logits_processor"
"""Where, inside vLLM, the interface of model runner V2's logits processors lives; absent before it existed."""


def environment(threads: int, gpu: bool, constrained: bool) -> dict[str, str]:
    """Environment of an engine's process, complete.

    It is set before torch or vLLM is imported: the pool hands it to Ray, which sets it before Python starts.

    Args:
        threads: of torch.
        gpu: whether it runs on one.
        constrained: whether its lists are held to the catalog.
    """
    return {
        # the engine stays in the actor's process and dies with it; vLLM's default is a child process
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # vLLM's binding counts the ranks of one engine only: two engines on a node would be pinned to the same cores
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
        "THP_MEM_ALLOC_ENABLE": "1",  # huge pages for large CPU tensors: logits fault less often
        "TORCHDYNAMO_DISABLE": "0" if gpu else "1",  # on CPU compiling one small kernel takes longer than it saves
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it is for top-k and top-p, which no request has
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "TOKENIZERS_PARALLELISM": "false",
        # model runner V2 refuses V1's logits processors, so that vLLM may not choose where lists are constrained
        **({"VLLM_USE_V2_MODEL_RUNNER": str(model_runner(gpu) - 1)} if constrained else {}),
    }


def make_ready(threads: int | None) -> None:
    """Makes this process one that an engine can start in, without Ray; ``threads``: None takes all cores."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # a name that is not a folder must not become a download
    gpu = Path("/proc/driver/nvidia/version").exists()
    os.environ |= environment(threads or len(os.sched_getaffinity(0)), gpu, constrained=True)
    # what is printed is the answer alone; vLLM warns of many things that nobody can do anything about
    os.environ |= {"VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_LOGGING_LEVEL": "ERROR"}


def model_runner(gpu: bool) -> int:
    """Which of vLLM's two model runners serves constrained lists: 2 on a GPU where vLLM has it, else 1."""
    if not gpu or (vllm := find_spec("vllm")) is None:
        return 1
    # find_spec of the inner module would import vLLM, and with it CUDA, into the driver
    inside = [Path(folder) / V2_PROCESSORS for folder in vllm.submodule_search_locations or []]
    return 2 if any(path.is_dir() or path.with_suffix(".py").is_file() for path in inside) else 1
