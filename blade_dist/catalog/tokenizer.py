"""The tokenizer: a Hugging Face folder, or a byte-level BPE trained on the words of the catalog."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from blade_dist.errors import UserError
from blade_dist.store.base_files import refuse_pointers
from blade_dist.store.files import read_json, write_json

PAD, EOS, SEPARATOR = "<pad>", "<eos>", "<sep>"
CODE = "<a_0>"
"""The first token of items that are written in codes."""
_OF_ITEM = re.compile(r"<([a-z]|shown)_[0-9]+>")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with ``<pad>``, ``<eos>`` and ``<sep>``; frequent words become one token.

    Words carry their leading space, so write every title with one in front.

    Raises:
        UserError: a vocabulary too small for the 256 bytes and the special tokens.
    """
    special, alphabet = [PAD, EOS, SEPARATOR], pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(special) + len(alphabet):
        raise UserError(
            f"codec.vocab_size: {vocab_size} is too small; the {len(alphabet)} bytes and {len(special)} special "
            f"tokens need {len(special) + len(alphabet)}"
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        extra_special_tokens=[SEPARATOR],
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A Hugging Face tokenizer from a local folder.

    Raises:
        UserError: no such folder, or no tokenizer in it but a pointer of Git LFS, say.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; codec.tokenizer (or model.path) must hold a tokenizer")
    refuse_pointers(folder)
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoTokenizer  # imports torch, which takes seconds and a trained tokenizer does not need

    try:
        # without the last word it would ask on the terminal whether code beside the model may run, and wait
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except StrictDataclassError as error:
        raise UserError(f"{folder / 'config.json'}: {' '.join(str(error).split())}") from None
    except Exception as error:  # a bare one of a damaged file, one of imports where a package is missing
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise UserError(f"{folder}: no tokenizer could be read ({reason}); save or fetch it again") from None


def load_base(folder: Path, titles: bool = False) -> PreTrainedTokenizerBase:
    """As :func:`load_tokenizer`, of a tokenizer that gets tokens for items, or writes their ``titles``.

    Raises:
        UserError: also where it has such tokens: they are of other items, and would be taken for these. Titles can do
            without them, unless it is a policy of ours, which writes by them.
    """
    from blade_dist.store.policy import STAMP  # imports torch too

    tokenizer = load_tokenizer(folder)
    if CODE in tokenizer.get_added_vocab() and not (titles and not (folder / STAMP).is_file()):
        raise UserError(
            f"{folder}: its tokens of items, as {CODE}, are of another run's items; set codec.grown_from to that run's "
            "folder or export, or give another tokenizer"
        )
    return tokenizer


def without_items(folder: Path, out: Path) -> Path:
    """A tokenizer without the tokens that a run gave its items, for a model that is built anew and knows none of them.

    Returns:
        ``out``, which is written; or the folder itself, where the tokenizer has no such tokens.

    Raises:
        UserError: see :func:`load_tokenizer`.
    """
    if CODE not in load_tokenizer(folder).get_added_vocab():
        return folder
    shutil.copytree(folder, out)
    for name, key in (("tokenizer.json", "added_tokens"), ("tokenizer_config.json", "added_tokens_decoder")):
        content = read_json(out / name) or {}
        if isinstance(added := content.get(key), list):
            content[key] = [token for token in added if not _OF_ITEM.fullmatch(token["content"])]
        elif added is not None:
            content[key] = {place: token for place, token in added.items() if not _OF_ITEM.fullmatch(token["content"])}
        write_json(out / name, content)
    return out


def special_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Id of a special token, added where the tokenizer has none of that text."""
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False)], special_tokens=True)
    return int(tokenizer.convert_tokens_to_ids(text))


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, encoded separately; the text of a special token is read as plain text."""
    rows: list[list[int]] = []
    for start in range(0, len(texts), 65536):
        part = texts[start : start + 65536]
        encoded = tokenizer(part, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False)
        rows.extend(encoded["input_ids"])
    return rows


_SPECIAL = re.compile(r"<\|[^<>|\s]+\|>|</?s>|<(?:bos|eos|sep|pad|start_of_turn|end_of_turn)>|\[/?INST\]")
"""What is written as a special token of some family of models."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a prompt's text; the text of a special token is that token, as in a chat template."""
    if not text:
        return []
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=False, return_attention_mask=False)
    return [int(token) for token in encoded["input_ids"]]


def special_in_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, setting: str = "codec.prompt") -> list[str]:
    """Which special tokens a prompt holds, and what only looks like one, as lines; ``setting``: where it stands."""
    known = {str(token) for token in (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab())}
    held = sorted(token for token in known if token in prompt)
    rest = prompt
    for token in held:
        rest = rest.replace(token, " ")
    lines = [f"{setting}: {', '.join(held)} is read as a special token"] if held else []
    if unknown := sorted(set(_SPECIAL.findall(rest))):
        lines.append(f"{setting}: {', '.join(unknown)} is no token of this tokenizer and is read as plain text")
    return lines


def opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that the tokenizer itself puts before a text (bos), or nothing."""
    first = tokenizer("", add_special_tokens=True)["input_ids"][:1]
    return [int(first[0])] if first and first[0] == tokenizer.bos_token_id else []
