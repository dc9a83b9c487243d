"""A small bilingual corpus for tests: sentences made of a few words, so that a tiny model learns something of them."""

import gzip
import json
from pathlib import Path

import numpy as np

WHO = ("the bank", "my card", "the clerk", "this account", "a customer")
DOES = ("charges", "returns", "blocks", "opens", "needs")
WHAT = ("the money", "a new card", "the fee", "my password", "two payments")
WHO_ZH, DOES_ZH, WHAT_ZH = (
    ("银行", "客户", "这张卡", "柜员"),
    ("收取", "退回", "冻结", "需要"),
    ("手续费", "新卡", "密码", "两笔付款"),
)


def sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences in both languages, in turns."""
    random = np.random.default_rng(seed)
    parts = ((WHO, DOES, WHAT, " ", "."), (WHO_ZH, DOES_ZH, WHAT_ZH, "", "。"))
    found = []
    for number in range(count):
        *words, space, end = parts[number % 2]
        found.append(
            space.join(words[i][random.integers(len(words[i]))] for i in range(3)) + f"{space}{number}{end}"
        )
    return found


def write(folder: Path, count: int = 3000) -> Path:
    """A folder with a plain file, a gzip file in GB18030 and a JSONL file; and with two that cannot be used."""
    folder.mkdir(parents=True)
    every = sentences(count)
    third = count // 3
    (folder / "a.txt").write_text("\n".join(every[:third]) + "\n", "utf-8")
    with gzip.open(folder / "b.txt.gz", "wb") as file:
        file.write(
            "\n\n".join("\n".join(every[i : i + 5]) for i in range(third, 2 * third, 5)).encode("gb18030")
        )
    records = [
        json.dumps({"text": text, "id": i}, ensure_ascii=False) for i, text in enumerate(every[2 * third :])
    ]
    (folder / "c.jsonl").write_text("\n".join([*records, records[0], "{broken"]) + "\n", "utf-8")
    (folder / "empty.txt").write_text("")
    (folder / "noise.txt").write_bytes(bytes(range(256)) * 8)
    return folder
