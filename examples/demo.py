"""The demonstration behind ``make demo``: fine-tune one bilingual model on real Chinese and English texts.

Chinese: titles of scientific papers -> 13 research fields (CSL). English: questions to a bank -> 77 intents (banking77).
Both lie in ``examples/data`` with their licences. Sized for two cores and six minutes.
"""

import csv
import gzip
import json
import random
import sys
from collections import defaultdict
from pathlib import Path

from weitiao.api import finetune
from weitiao.core.messages import say

ROOT = Path(__file__).resolve().parent
DATA, OUTPUT = ROOT / "data", ROOT.parent / "runs" / "demo"
ROWS = {"train": {"zh": 2400, "en": 3080}, "test": {"zh": 600, "en": 770}}
UNSEEN = (
    "一种面向遥感影像的深度学习变化检测方法",
    "明代江南市镇的商业与社会变迁",
    "My card was swallowed by the machine, what now?",
    "How long does a transfer from abroad take?",
)


def rows(split: str) -> list[dict[str, str]]:
    """Both data sets in one table: ``text``, ``label``."""
    with gzip.open(DATA / "csl" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        chinese = [json.loads(line) for line in file]
    with gzip.open(DATA / "banking77" / f"{split}.csv.gz", "rt", encoding="utf-8") as file:
        english = [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(file)]
    zh, en = ROWS[split]["zh"], ROWS[split]["en"]
    return evenly(chinese, zh) + evenly(english, en)


def evenly(table: list[dict[str, str]], wanted: int) -> list[dict[str, str]]:
    """About ``wanted`` rows, as many of each label as there are."""
    by_label = defaultdict(list)
    for row in random.Random(7).sample(table, len(table)):
        by_label[row["label"]].append({"text": row["text"], "label": row["label"]})
    return [row for label in sorted(by_label) for row in by_label[label][: -(-wanted // len(by_label))]]


def main() -> int:
    """Fine-tune, show the report, predict a few unseen texts, say what to try next."""
    print(say("Fine-tuning multilingual-e5-small on Chinese paper titles and English bank questions ...",
              "在中文论文标题与英文银行问句上微调 multilingual-e5-small ……"))  # fmt: skip
    run = finetune(
        data=rows("train"), test_data=rows("test"), task="text_classification", output=OUTPUT,
        num_epochs=3, batch_size=32, learning_rate=1e-4, max_length=64, overwrite=True, start="probe",
    )  # fmt: skip
    print(say("\nUnseen texts:", "\n未见过的文本："))
    for text, answer in zip(UNSEEN, run.predict(UNSEEN), strict=True):
        print(f"  {answer['score']:.2f}  {answer['label']:<28} {text}")
    folder = OUTPUT.relative_to(ROOT.parent)
    print(say("\nNext:", "\n接下来可以试："))
    print(f"  xdg-open {folder}/report.html")
    print(f'  .venv/bin/weitiao predict {folder} "物流管理中的最优路径问题" "I want to close my account"')
    print(f"  .venv/bin/weitiao evaluate {folder} --data {folder}/data/test.parquet")
    print(
        "  .venv/bin/weitiao finetune --data examples/data/finre --task relation-extraction --tuning lora \\"
    )
    print("      --output runs/finre")
    return 0


if __name__ == "__main__":
    sys.exit(main())
