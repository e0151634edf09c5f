"""Why an engine did not start, where its user can change that. Pure."""

from __future__ import annotations


def refusal(text: str) -> str | None:
    """One line, of what Ray says of an actor that failed in its creation; None where it is a fault of ours.

    Ray hands on the text of the error alone, with its traceback above its last line.

    >>> refusal("Traceback ...\\nblade_dist.errors.UserError: lists.exclude: there is no item 'x'")
    "lists.exclude: there is no item 'x'"
    """
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    kind, _, words = last.partition(": ")
    if kind.endswith("UserError"):
        return words
    if "KV cache" in words:
        sentence = words.partition(" Try increasing")[0]
        return (
            "rollout.kv_cache_gb (on a GPU rollout.gpu_memory_utilization): too small for one prompt and its list; "
            f"raise it, or lower data.max_history or lists.k. vLLM says: {sentence}"
        )
    return None
