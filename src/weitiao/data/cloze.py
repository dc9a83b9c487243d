"""Texts as prompts: a template with a gap, and the words that may fill it. Without a gap the answer comes at the end.

Source: Schick & Schütze 2021, "Exploiting Cloze Questions for Few Shot Text Classification" (patterns, verbalisers).
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say

TEXT, MASK = "{text}", "{mask}"
MASKS = ("[MASK]", "<mask>")  # as tokenizers write it
SHOWN = 5


def mask_token(tokenizer: Any) -> str:
    """The mask as the tokenizer writes it.

    Raises:
        WeitiaoError: it has none.
    """
    found = next((mask for mask in MASKS if tokenizer.token_to_id(mask) is not None), "")
    if not found:
        raise WeitiaoError(
            say(
                "--template needs a model with a mask token, such as BERT; this tokenizer has none",
                "--template 需要带掩码 token 的模型（如 BERT），而该分词器没有",
            )
        )
    return found


def check_template(template: str) -> None:
    """Refuse a template without exactly one text, or with more than one gap.

    Raises:
        WeitiaoError: shows what one looks like.
    """
    if template.count(TEXT) != 1 or template.count(MASK) > 1:
        raise WeitiaoError(
            say(
                f"--template is '{template[-60:]}'; it must hold {TEXT} once and {MASK} once, as in "
                f"'{TEXT} It was {MASK}.'; for a model that writes on, {TEXT} alone: 'Text: {TEXT} Label:'",
                f"--template 为“{template[-60:]}”，其中 {TEXT} 与 {MASK} 应各出现一次，例如“{TEXT}总之很{MASK}。”；"
                f"生成式模型只需 {TEXT}：“文本：{TEXT} 类别：”",
            )
        )


def prompts(
    tokenizer: Any, texts: Iterable[str], template: str, max_length: int
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Each text in the template: its token ids, the place of the gap (or the last one), and the tokens before any cut.

    A prompt of more than ``max_length`` tokens loses the last ones of its text; the template and the gap stay.

    Raises:
        WeitiaoError: the template alone is longer.
    """
    before, after = template.split(TEXT)
    first, has_gap = MASK in before, MASK in template
    number = None
    if has_gap:
        mask = mask_token(tokenizer)
        number = tokenizer.token_to_id(mask)
        before, after = before.replace(MASK, mask), after.replace(MASK, mask)
    for text in texts:
        found = tokenizer.encode(before + text + after)
        ids = np.asarray(found.ids, np.int32)
        starts = np.array([start for start, _ in found.offsets])
        inside = np.array([end > start for start, end in found.offsets])  # special tokens are nowhere
        inside &= (starts >= len(before)) & (starts < len(before) + len(text))
        over = len(ids) - max_length
        if over > inside.sum():
            raise _too_long(len(ids) - int(inside.sum()), max_length)
        keep = np.ones(len(ids), bool)
        if over > 0:
            keep[np.flatnonzero(inside)[-over:]] = False
        ids = ids[keep]
        # A text may hold the mask's own letters: of all masks the template's comes first or last.
        gaps = np.flatnonzero(ids == number) if has_gap else np.array([len(ids) - 1])
        yield ids, int(gaps[0] if first else gaps[-1]), len(keep)


def _too_long(tokens: int, max_length: int) -> WeitiaoError:
    return WeitiaoError(
        say(
            f"The prompt alone has {tokens:,} tokens and max_length is {max_length:,}: raise --max-length, or show "
            "fewer --demonstrations",
            f"仅提示模板就有 {tokens:,} 个 token，而 max_length 为 {max_length:,}：请增大 --max-length，或减少 --demonstrations",
        )
    )


def word_ids(
    tokenizer: Any, verbaliser: Mapping[str, str], names: Sequence[str], template: str = MASK
) -> list[list[int]]:
    """The token ids of each class's words, in the order of ``names``; without a gap, of the tokens they begin with.

    Args:
        verbaliser: class -> its word, or several with ``|`` between; a class that is not in it is its own word.

    Raises:
        WeitiaoError: it names a class that there is not; a word is no single piece of the vocabulary; or, without a
            gap, the words of two classes begin with the same token.
    """
    if strange := sorted(set(verbaliser) - set(names)):
        raise WeitiaoError(
            say(
                f"--verbaliser names a class '{strange[0]}' that the data does not have. Classes: {', '.join(names)}",
                f"--verbaliser 中的类别“{strange[0]}”在数据中不存在。类别有：{', '.join(names)}",
            )
        )
    words = {name: [word.strip() for word in verbaliser.get(name, name).split("|")] for name in names}
    if MASK in template:
        return [[_piece(tokenizer, word, name) for word in words[name]] for name in names]
    taken: dict[int, str] = {}
    found = []
    for name in names:
        ids = [_next_token(tokenizer, template, word) for word in words[name]]
        if clash := next((taken[number] for number in ids if number in taken), ""):
            raise WeitiaoError(
                say(
                    f"--verbaliser: the words of '{clash}' and '{name}' begin with the same token "
                    f"('{tokenizer.decode(ids)}'): choose words that begin differently, {name}=...",
                    f"--verbaliser：“{clash}”与“{name}”的词以同一个 token 开头（“{tokenizer.decode(ids)}”）："
                    f"请换成开头不同的词，{name}=……",
                )
            )
        taken |= dict.fromkeys(ids, name)
        found.append(ids)
    return found


def answered(template: str, word: str) -> str:
    """A prompt with its answer behind it: a space between, but not after Chinese or white space."""
    blank = "" if template[-1:].isspace() or template[-1:] > "\u2e80" else " "
    return template + blank + word


def _next_token(tokenizer: Any, template: str, word: str) -> int:
    end = template.split(TEXT)[1] or ":"
    known = tokenizer.encode(end, add_special_tokens=False).ids
    return int(tokenizer.encode(answered(end, word), add_special_tokens=False).ids[len(known)])


def _piece(tokenizer: Any, word: str, name: str) -> int:
    ids = tokenizer.encode(word, add_special_tokens=False).ids
    pieces = [tokenizer.id_to_token(number) for number in ids]
    if len(ids) == 2 and pieces[0] == "▁":  # the mark of a word's beginning, which no gap has
        ids, pieces = ids[1:], pieces[1:]
    if len(ids) == 1 and pieces[0].strip("▁Ġ").casefold() == word.casefold():
        return int(ids[0])
    choices = ", ".join(_alike(tokenizer, word)) or say("none looks like it", "没有相近的词")
    raise WeitiaoError(
        say(
            f"--verbaliser: '{word}' (class '{name}') is not one piece of the model's vocabulary "
            f"({' '.join(pieces)}): choose another word, such as: {choices}",
            f"--verbaliser：“{word}”（类别“{name}”）不是模型词表中的单个词（{' '.join(pieces)}）：请换一个词，例如：{choices}",
        )
    )


def _alike(tokenizer: Any, word: str) -> list[str]:
    """Whole words of the vocabulary that share a letter with the word, the most alike first."""
    letters = set(word.casefold())
    whole = {
        plain: None
        for piece in tokenizer.get_vocab()
        if (plain := piece.lstrip("▁Ġ")) and plain.isalpha() and letters & set(plain.casefold())
    }
    near = difflib.get_close_matches(word, whole, SHOWN, 0.3)
    return near or sorted(whole, key=len)[:SHOWN]
