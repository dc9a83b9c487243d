"""Texts that go on: a model learns to continue as the texts of a table do / 文本续写：学习续写表中的文本.

With a second column the first is a beginning, of which nothing is learnt, and the second what follows it.
"""

from dataclasses import dataclass
from typing import Any

from weitiao.core.errors import BadRow
from weitiao.core.messages import say
from weitiao.data.columns import TEXT_NAMES, Column
from weitiao.generation.prompts import Prompts
from weitiao.tasks._generation import Generation
from weitiao.tasks.base import text_of

CONTINUATIONS = (
    Column("text", ("prompt", "提示", *TEXT_NAMES), help="the text, or its beginning"),
    Column(
        "answer", ("completion", "continuation", "续写", "output"), False, "what follows it", nullable=True
    ),
)


@dataclass
class TextGeneration(Generation):
    """No template. Of a whole text the first half is the prompt when continuations are written for it."""

    name = "text_generation"
    columns = CONTINUATIONS
    chats = False

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        text = text_of(row)
        if not text.strip():
            raise BadRow("text", say("there is no text", "没有文本"))
        return {"text": text, "answer": row["answer"] or ""} if "answer" in row else {"text": text}

    def taught(
        self, prompts: Prompts, record: dict[str, Any], max_length: int
    ) -> tuple[list[int], list[bool]]:
        return prompts.continued(record["text"], record.get("answer", ""))

    def asked(self, prompts: Prompts, record: dict[str, Any], max_length: int) -> list[int]:
        return prompts.encode(self._beginning(record))

    def references(self, record: dict[str, Any]) -> list[str]:
        return [record["answer"] or record["text"][len(self._beginning(record)) :]]

    def _beginning(self, record: dict[str, Any]) -> str:
        text = record["text"]
        return text if record.get("answer") or "answer" not in record else text[: (len(text) + 1) // 2]
