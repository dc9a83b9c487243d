"""A tokenizer with fewer pieces, from the JSON of ``tokenizers``: which must stay, and the new file."""

from collections.abc import Iterable
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say

SPACE = "▁"  # what stands for a space in Unigram pieces


def pieces_of(spec: dict[str, Any]) -> dict[str, int]:
    """Every piece of the model and every added token, with its id.

    Raises:
        WeitiaoError: the tokenizer is of a kind that is not trimmed.
    """
    model = spec["model"]
    kind = model.get("type", "BPE" if "merges" in model else "WordPiece")
    if kind not in ("Unigram", "WordPiece", "BPE"):
        raise WeitiaoError(
            say(
                f"A {kind} tokenizer cannot be trimmed: only Unigram, WordPiece and BPE can. Leave out 'vocabulary'",
                f"{kind} 分词器无法裁剪：仅支持 Unigram、WordPiece 与 BPE。请去掉 vocabulary 这一步",
            )
        )
    if kind == "Unigram":
        found = {piece: number for number, (piece, _) in enumerate(model["vocab"])}
    else:
        found = dict(model["vocab"])
    return found | {token["content"]: token["id"] for token in spec["added_tokens"]}


def indispensable(spec: dict[str, Any]) -> set[str]:
    """The pieces without which some text would become unknown that is not so now.

    Special tokens, single characters and bytes; and of a character that has no piece of its own (as a beginning or, in
    WordPiece, as a continuation), every piece that holds it.
    """
    model, pieces = spec["model"], pieces_of(spec)
    special = {token["content"] for token in spec["added_tokens"]} | {str(model.get("unk_token"))}
    prefix = model.get("continuing_subword_prefix") or ""
    if "merges" not in model and "unk_id" not in model:  # WordPiece
        prefix = prefix or "##"

    def parts(piece: str) -> list[str]:
        if prefix and piece.startswith(prefix):
            return [prefix + character for character in piece.removeprefix(prefix)]
        return [piece[:1], *(prefix + character for character in piece[1:])]

    kept = set()
    for piece in pieces:
        smaller = parts(piece)
        if piece in special or len(smaller) == 1 or _is_byte(piece) or any(p not in pieces for p in smaller):
            kept.add(piece)
    if model.get("unk_id") is not None:
        kept.add(model["vocab"][model["unk_id"]][0])
    return kept & pieces.keys()


def _is_byte(piece: str) -> bool:
    """``<0x0A>``: one byte of a character that has no piece."""
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def with_margin(spec: dict[str, Any], kept: set[str], share: float) -> set[str]:
    """``kept`` and, for texts not seen yet, the likeliest further pieces of the characters that ``kept`` is made of.

    Args:
        share: how many, as a share of ``kept``.
    """
    model, wanted = spec["model"], int(share * len(kept))
    letters = {character for piece in kept if len(piece) > 1 for character in piece}
    if model.get("unk_id") is not None:
        ranked = [piece for piece, _ in sorted(model["vocab"], key=lambda entry: -entry[1])]
    else:  # vocabularies of these kinds are written with the frequent pieces first
        ranked = sorted(model["vocab"], key=model["vocab"].__getitem__)
    extra = (piece for piece in ranked if piece not in kept and letters.issuperset(piece))
    return kept | {piece for piece, _ in zip(extra, range(wanted), strict=False)}


def closed(spec: dict[str, Any], kept: set[str]) -> set[str]:
    """``kept`` and, in BPE, all that its pieces are merged from."""
    merges = _merges(spec["model"])
    if not merges:
        return kept
    halves: dict[str, list[tuple[str, str]]] = {}
    for left, right in merges:
        halves.setdefault(left + right, []).append((left, right))
    found, open_ = set(kept), list(kept)
    while open_:
        for pair in halves.get(open_.pop(), ()):
            open_ += [half for half in pair if half not in found]
            found |= set(pair)
    return found


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    for merge in model.get("merges", ()):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        found.append((left, right))
    return found


def trimmed(spec: dict[str, Any], kept: set[str]) -> tuple[dict[str, Any], list[int]]:
    """The tokenizer's JSON with these pieces alone, in their old order, and the old id of each new one.

    Added tokens are among ``kept``; they get the ids that their places give them.
    """
    pieces = pieces_of(spec)
    old_ids = sorted({pieces[piece] for piece in kept})
    new_id = {old: new for new, old in enumerate(old_ids)}
    model = dict(spec["model"])
    if model.get("unk_id") is not None:
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new_id]
        model["unk_id"] = new_id[model["unk_id"]]
    else:
        entries = sorted(model["vocab"].items(), key=lambda entry: entry[1])
        model["vocab"] = {piece: new_id[number] for piece, number in entries if number in new_id}
    if "merges" in model:
        model["merges"] = [
            merge
            for merge, (left, right) in zip(model["merges"], _merges(model), strict=True)
            if {left, right, left + right} <= kept
        ]
    new = {**spec, "model": model}
    new["added_tokens"] = [{**token, "id": new_id[token["id"]]} for token in spec["added_tokens"]]
    new["post_processor"] = _renumbered(spec["post_processor"], new_id, pieces)
    if new.get("padding"):
        new["padding"] = {**new["padding"], "pad_id": new_id[new["padding"]["pad_id"]]}
    return new, old_ids


def _renumbered(part: Any, new_id: dict[int, int], pieces: dict[str, int]) -> Any:
    """A post-processor with the new ids of its special tokens: lists of ``ids``, and ``[token, id]`` pairs."""
    if isinstance(part, dict):
        return {
            key: [new_id[number] for number in value] if key == "ids" else _renumbered(value, new_id, pieces)
            for key, value in part.items()
        }
    if isinstance(part, list):
        if len(part) == 2 and isinstance(part[0], str) and pieces.get(part[0]) == part[1]:
            return [part[0], new_id[part[1]]]
        return [_renumbered(item, new_id, pieces) for item in part]
    return part


def used_pieces(tokenizer: Any, texts: Iterable[str], ids: Iterable[int]) -> set[str]:
    """The pieces that texts are cut into, and those of some ids."""
    from weitiao.data.encode import encode_texts

    found = set(ids)
    for encoding in encode_texts(tokenizer, texts, 1 << 30):
        found.update(encoding.ids)
    return {tokenizer.id_to_token(number) for number in found} - {None}
