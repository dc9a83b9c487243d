"""From a text or a dialogue to the tokens that a model reads, and to those that it is taught to write.

Training and every way of generating use this one class, so that a model is asked in the words it was taught with.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.generation.chat import pieces, turns

Message = Mapping[str, str]
Prompt = str | Sequence[Message]


class Prompts:
    """A tokenizer with a chat template.

    Attributes:
        tokenizer: a ``tokenizers.Tokenizer``.
        template: as ``chat.pieces`` takes it; None where the model continues texts only.
        ends: the tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, template: Mapping[str, Any] | None, ends: Iterable[int]) -> None:
        self.tokenizer, self.template, self.ends = tokenizer, template, frozenset(ends)
        added = tokenizer.get_added_tokens_decoder().values()
        self.specials = [token.content for token in added if token.special]

    def encode(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt. In messages a special token's name is text: no message can pose as another.

        Raises:
            WeitiaoError: messages that the model has no template for.
        """
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt).ids
        return self._joined(pieces(self.template, prompt))

    def taught(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """The tokens of a dialogue up to its last answer, and which are to be learnt: the answers and their ends.

        An answer is cut into tokens by itself, as it is when the model writes it.

        Raises:
            WeitiaoError: there is no template, or a message is none.
        """
        pieces(self.template, messages)  # for its errors
        assert self.template is not None
        ids: list[int] = []
        scored: list[bool] = []
        asked: list[tuple[str, bool]] = []
        for message, turn in zip(messages, turns(self.template, messages), strict=True):
            if message["role"] != "assistant":
                asked += turn
                continue
            read = self._joined([*asked, *turn[:-3], (self.template["generation"], False)])
            answer = self._joined(turn[-2:])
            learnt = self._learnt(answer)
            ids += [*read, *answer]
            scored += [False] * len(read) + [True] * learnt + [False] * (len(answer) - learnt)
            asked = []
        return ids, scored

    def continued(self, text: str, answer: str = "") -> tuple[list[int], list[bool]]:
        """The tokens of a text without a template and what follows it, which is to be learnt with its end.

        Without an answer the whole text is: each of its tokens after the first.
        """
        read = self.tokenizer.encode(text).ids
        if not answer:
            end = [self.end] if self.end is not None and (not read or read[-1] not in self.ends) else []
            return [*read, *end], [True] * (len(read) + len(end))
        written = self.plain_tokenizer.encode(answer, add_special_tokens=False).ids
        written += [] if self.end is None else [self.end]
        return [*read, *written], [False] * len(read) + [True] * len(written)

    def cut(self, text: str, tokens: int) -> str:
        """The beginning of a text that has at most so many tokens."""
        encoding = self.plain_tokenizer.encode(text, add_special_tokens=False)
        if len(encoding.ids) <= tokens:
            return text
        return text[: encoding.offsets[tokens][0]] if tokens > 0 else ""

    @property
    def end(self) -> int | None:
        """The token that a text is taught to end with."""
        return min(self.ends, default=None)

    @cached_property
    def plain_tokenizer(self) -> Any:
        """Reads the names of special tokens as text. A copy, because other threads use the tokenizer meanwhile."""
        from tokenizers import Tokenizer

        plain = Tokenizer.from_str(self.tokenizer.to_str())
        plain.encode_special_tokens = True
        return plain

    def save(self, path: str) -> None:
        """Write the tokenizer's file."""
        self.tokenizer.save(path)

    def check_room(self, ids: Sequence[int], most: int) -> None:
        """Make sure that a prompt leaves room to answer within ``most`` tokens.

        Raises:
            WeitiaoError: it does not, or it is empty.
        """
        if not 0 < len(ids) < most:
            raise WeitiaoError(
                say(
                    f"The prompt has {len(ids):,} tokens; the model reads and writes {most:,} in all. "
                    f"Give 1 to {most - 1:,}",
                    f"提示有 {len(ids):,} 个词元；模型读写合计最多 {most:,} 个。请给 1 至 {most - 1:,} 个",
                )
            )

    def _learnt(self, answer: list[int]) -> int:
        """How many tokens of an answer come before and with its end; where it has none, it is given one."""
        for place, token in enumerate(answer):
            if token in self.ends:
                return place + 1
        if self.end is not None:
            answer.append(self.end)
        return len(answer)

    def _joined(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        if not any(special in text for text, is_content in parts if is_content for special in self.specials):
            return self.tokenizer.encode("".join(text for text, _ in parts), add_special_tokens=False).ids
        ids: list[int] = []
        for text, is_content in parts:
            reader = self.plain_tokenizer if is_content else self.tokenizer
            ids += reader.encode(text, add_special_tokens=False).ids
        return ids
