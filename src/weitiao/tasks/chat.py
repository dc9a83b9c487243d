"""Answers in a dialogue: instructions (alpaca), conversations (sharegpt), messages (OpenAI) / 对话与指令问答.

A pair of answers, chosen and rejected, can be learnt from by ``--objective dpo``.
"""

import json
from dataclasses import dataclass
from typing import Any

from weitiao.data.dialogues import DIALOGUES, dialogue, rejected
from weitiao.generation.prompts import Prompts
from weitiao.tasks._generation import Generation, messages_of


@dataclass
class Chat(Generation):
    """Messages in, the assistant's next one out. All its turns of a dialogue are learnt; the last one is scored."""

    name = "chat"
    columns = DIALOGUES
    text_keys = ("messages",)

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        answered = "answer" in row
        messages = dialogue(row, answered)
        record = {"text": next(m["content"] for m in reversed(messages) if m["role"] == "user")}
        if answered:
            record["answer"] = messages.pop()["content"]
        if row.get("rejected") is not None:
            record["rejected"] = rejected(row)
        return {**record, "messages": json.dumps(messages, ensure_ascii=False)}

    def taught(
        self, prompts: Prompts, record: dict[str, Any], max_length: int
    ) -> tuple[list[int], list[bool]]:
        return prompts.taught([*messages_of(record), {"role": "assistant", "content": record["answer"]}])

    def asked(self, prompts: Prompts, record: dict[str, Any], max_length: int) -> list[int]:
        return prompts.encode(messages_of(record))
