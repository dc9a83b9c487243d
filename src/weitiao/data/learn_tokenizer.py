"""Tokenizers learnt from a corpus: BPE, Unigram, WordPiece.

BPE (Sennrich et al. 2016) and Unigram (Kudo 2018) are learnt over bytes, so they write any text and lose nothing.
No space parts words in Chinese: runs of Chinese are cut at punctuation only, pieces of several characters are learnt
where they are frequent. WordPiece (Schuster and Nakajima 2012) is as BERT has it, each Chinese character a word.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KINDS = ("bpe", "unigram", "wordpiece")
MOST_BYTES = 8_000_000  # of the corpus, spread over it: more changes hardly a piece and takes minutes
ENCODER = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
DECODER = {"eos_token": "<|endoftext|>", "bos_token": "<|im_start|>", "pad_token": "<|im_end|>"}
# Runs of Chinese of at most 12 characters: longer ones are rare as pieces and slow to learn from.
CHINESE = r"[\u4e00-\u9fff\u3400-\u4dbf]{1,12}"
TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def learn(kind: str, texts: Iterable[str], size: int, decoder: bool) -> "Tokenizer":
    """A tokenizer of at most ``size`` pieces, with the special tokens of an encoder (BERT's) or of a decoder.

    Raises:
        WeitiaoError: ``size`` leaves no room for pieces beside bytes and special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = list((DECODER if decoder else ENCODER).values())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    least = len(special) + (0 if kind == "wordpiece" else len(alphabet))
    if size <= least:
        raise WeitiaoError(
            say(
                f"--tokenizer-size {size} is too small: bytes and special tokens take {least}",
                f"--tokenizer-size {size} 太小：字节与特殊词元已占 {least} 个",
            )
        )
    common: dict[str, Any] = {"vocab_size": size, "special_tokens": special, "show_progress": False}
    trainer: Any
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        if decoder:
            common["special_tokens"] = special = [*special, "[UNK]"]
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**common, limit_alphabet=max(size // 2, 100))
    else:
        tokenizer = Tokenizer(models.BPE() if kind == "bpe" else models.Unigram())
        tokenizer.pre_tokenizer = _bytes(pre_tokenizers)
        tokenizer.decoder = decoders.ByteLevel()
        make = trainers.BpeTrainer if kind == "bpe" else trainers.UnigramTrainer
        trainer = make(**common, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    if not decoder:
        ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
        )
    return tokenizer


def _bytes(pre: Any) -> Any:
    """Digits one by one, runs of Chinese apart from their neighbours, the rest as GPT-2 cuts it; then bytes."""
    from tokenizers import Regex

    return pre.Sequence(
        [
            pre.Digits(individual_digits=True),
            pre.Split(Regex(CHINESE), "isolated"),
            pre.ByteLevel(add_prefix_space=False),
        ]
    )


def spread(texts: Iterable[str], total_bytes: int) -> Iterator[str]:
    """Of texts of about ``total_bytes``, so many that ``MOST_BYTES`` are left, evenly spread."""
    share = min(MOST_BYTES / max(total_bytes, 1), 1.0)
    for number, text in enumerate(texts):
        if int((number + 1) * share) > int(number * share):
            yield text


def save(tokenizer: "Tokenizer", folder: Path, length: int, decoder: bool) -> None:
    """Write ``tokenizer.json`` and its settings, so that ``AutoTokenizer`` opens the folder."""
    tokenizer.save(str(folder / "tokenizer.json"))
    inputs = ["input_ids", "attention_mask"] if decoder else ["input_ids", "token_type_ids", "attention_mask"]
    special: dict[str, Any] = dict(DECODER if decoder else ENCODER)
    card = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "model_input_names": inputs,
    }
    card |= {"clean_up_tokenization_spaces": False}
    if decoder:
        card["chat_template"] = TEMPLATE
    write_json(folder / "tokenizer_config.json", card | special)
    write_json(folder / "special_tokens_map.json", special)
