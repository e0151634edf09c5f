"""The text of a prompt around its items: as the settings have it, or as turns of the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from blade_dist.batches import Ragged
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.tokenizer import encode_prompt, opening
from blade_dist.errors import UserError
from blade_dist.settings import CodecSettings

HISTORY = "{history}"
"""Stands for the items."""
ANSWER = "{answer}"
"""Stands for a list, to see what a template writes after one."""
DATE = "26 Jul 2024"
"""For templates that write the date of the day: the prompts of tomorrow are those of the training. It is the date that
Llama's template has where it knows none."""
TRIED = 200
"""Titles whose tokens are looked for in the whole text of a prompt."""
NAMED = 3
"""Tokens of a difference that a message shows."""


@dataclass(frozen=True)
class PromptText:
    """``before item item ... after`` is a prompt; a list goes on there, and ``end`` ends it."""

    before: str
    after: str
    end: str
    """Nothing where the tokenizer's own end is meant."""
    opened: bool
    """Whether the tokenizer puts its first token (bos) before the text; a chat template writes it itself."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, settings: CodecSettings) -> PromptText:
        """Of these settings.

        Raises:
            UserError: not exactly one ``{history}``; no chat template where one is to be used, or one that refuses the
                turns.
        """
        if (count := settings.prompt.count(HISTORY)) != 1:
            raise UserError(f"codec.prompt: {HISTORY} must stand in it once, not {count} times")
        if settings.format == "plain":
            before, _, after = settings.prompt.partition(HISTORY)
            return cls(before, after, "", opened=True)
        if not tokenizer.chat_template:
            raise UserError(
                "codec.format: chat needs a tokenizer with a chat template, as models have that are tuned on "
                "conversations, and this one has none; set codec.format=plain"
            )
        turns = chat_turns(settings)
        text = _rendered(tokenizer, turns, settings)
        answered = _rendered(tokenizer, [*turns, {"role": "assistant", "content": ANSWER}], settings)
        if (count := text.count(HISTORY)) != 1:
            raise UserError(
                f"codec.format: the chat template writes {HISTORY} {count} times, and it must stand in a prompt once; "
                "leave it out of codec.system, or set codec.format=plain"
            )
        before, _, after = text.partition(HISTORY)
        return cls(before, after, answered.rpartition(ANSWER)[2], opened=False)

    def prefix(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Tokens before the history. A text that begins with the opening token itself needs no second one."""
        return self._opened(tokenizer, encode_prompt(tokenizer, self.before))

    def end_token(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """The special token that ends an answer: the template's, or else the tokenizer's own (eos)."""
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        first = encode_prompt(tokenizer, self.end)[:1]
        return first[0] if first and first[0] in special else int(tokenizer.eos_token_id)

    def sent(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The whole text, with ``{history}``, as servers are sent it, which put the opening token before any text."""
        text = self.before + HISTORY + self.after
        for token in [] if self.opened else opening(tokenizer):
            text = text.removeprefix(str(tokenizer.convert_ids_to_tokens(token)))
        return text

    def difference(self, codec: Codec, titles: Sequence[str]) -> str | None:
        """A line where titles are written with other tokens than in the whole text of a prompt; None where not.

        A title is encoded alone, so that it is the same in every list; a tokenizer may join its ends with what stands
        beside it.
        """
        assert codec.separator is not None
        tokenizer = codec.tokenizer
        tried = np.unique(np.linspace(0, len(titles) - 1, TRIED).astype(np.int32)).tolist()
        mark = tokenizer.decode([codec.separator])
        ours = codec.encode_prompts(Ragged.of([[item, item] for item in tried]))
        apart = []
        for row, item in enumerate(tried):
            text = self.before + 2 * (titles[item] + mark) + self.after
            if (whole := self._opened(tokenizer, encode_prompt(tokenizer, text))) != ours[row].tolist():
                apart.append((item, ours[row].tolist(), whole))
        if not apart:
            return None
        item, alone, whole = apart[0]
        return (
            f"codec.prompt: {len(apart)} of {len(tried)} titles tried have other tokens than in the whole text of a "
            f"prompt, as {titles[item]!a}: {_pieces(tokenizer, alone, whole)} here, {_pieces(tokenizer, whole, alone)} "
            f"there; other servers must be sent tokens. A line break right before {HISTORY}, and none right after it, "
            "may make them the same"
        )

    def _opened(self, tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> list[int]:
        first = opening(tokenizer) if self.opened else []
        return tokens if tokens[:1] == first else first + tokens


def chat_turns(settings: CodecSettings) -> list[dict[str, str]]:
    """The turns before the answer, as chat servers take them."""
    system = [] if settings.system is None else [{"role": "system", "content": settings.system}]
    return [*system, {"role": "user", "content": settings.prompt}]


def said_of_template(tokenizer: PreTrainedTokenizerBase, settings: CodecSettings) -> list[str]:
    """What there is to say of the template, as lines."""
    if settings.format == "chat" and "strftime_now" in str(tokenizer.chat_template):
        return [f"codec.format: the chat template writes the date of the day; prompts of this run always have {DATE}"]
    return []


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], settings: CodecSettings) -> str:
    """The turns as text; where the last one is the user's, up to where the answer begins."""
    how: dict[str, Any] = {"date_string": DATE, "enable_thinking": False}  # a list comes at once, without reasoning
    try:
        return str(
            tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=turns[-1]["role"] == "user", **how
            )
        )
    except Exception as error:  # Jinja's, whatever it is: a template is its author's program
        remedy = "set codec.format=plain" if settings.system is None else "leave codec.system out"
        said = " ".join(str(error).split())
        raise UserError(f"codec.format: the chat template refuses these turns ({said}); {remedy}") from None


def _pieces(tokenizer: PreTrainedTokenizerBase, tokens: list[int], others: list[int]) -> str:
    """The first tokens that differ from the others."""
    same = next((place for place, pair in enumerate(zip(tokens, others, strict=False)) if pair[0] != pair[1]), 0)
    return " ".join(f"{tokenizer.decode([token])!a}" for token in tokens[same : same + NAMED])
