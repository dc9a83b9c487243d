"""A short text for a long one: summaries, titles / 摘要与标题生成."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weitiao.core.config import option
from weitiao.core.errors import BadRow
from weitiao.core.messages import say
from weitiao.data.columns import Column
from weitiao.data.encode import Encoded
from weitiao.evaluation._overlap import WIDE, lead
from weitiao.generation.prompts import Prompts
from weitiao.tasks._generation import Generation
from weitiao.tasks.base import Answers, text_of

SUMMARIES = (
    Column("text", ("text", "document", "article", "content", "source", "dialogue", "abstract", "正文", "文本", "原文", "文章",
                    "内容"), help="the long text"),
    Column("answer", ("summary", "summaries", "title", "headline", "highlights", "tldr", "target", "摘要", "标题", "总结"),
           help="the short one, or a list of them"),
)  # fmt: skip
CHINESE = re.compile(f"[{WIDE}]")
INSTRUCTIONS = {
    True: "请用一句话概括下面的文本：\n{text}",
    False: "Summarize the text below in one sentence:\n{text}",
}


@dataclass
class Summarization(Generation):
    """The text is put into an instruction; if it is too long its end is cut, never the instruction or the answer."""

    max_new_tokens: int = option(64, "tokens of a summary at most", "摘要的最大词元数", least=1)
    instruction: str = option(
        "",
        "what is asked, with {text} in it (default: in the text's language)",
        "提问的文字，其中 {text} 代表文本（默认按文本语言选择）",
    )

    name = "summarization"
    columns = SUMMARIES

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        text = " ".join(map(str, row["text"])) if isinstance(row.get("text"), list) else text_of(row)
        if not text.strip():
            raise BadRow("text", say("there is no text", "没有文本"))
        record: dict[str, Any] = {"text": text}
        if "answer" in row:
            found = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
            record["answers"] = [str(one).strip() for one in found if str(one or "").strip()]
            if not record["answers"]:
                raise BadRow("answer", say("there is no summary", "没有摘要"))
            record["answer"] = record["answers"][0]
        return record

    def taught(
        self, prompts: Prompts, record: dict[str, Any], max_length: int
    ) -> tuple[list[int], list[bool]]:
        answer = {"role": "assistant", "content": record["answer"]}
        ids, scored = prompts.taught([self._message(record["text"]), answer])
        if len(ids) > max_length:
            text = self._fitting(prompts, record["text"], len(ids) - max_length)
            ids, scored = prompts.taught([self._message(text), answer])
        return ids, scored

    def asked(self, prompts: Prompts, record: dict[str, Any], max_length: int) -> list[int]:
        ids = prompts.encode([self._message(record["text"])])
        room = max_length - self.max_new_tokens
        if len(ids) > room > 0:
            text = self._fitting(prompts, record["text"], len(ids) - room)
            ids = prompts.encode([self._message(text)])
        return ids

    def references(self, record: dict[str, Any]) -> list[str]:
        return record["answers"]

    def leads(self, records: Sequence[dict[str, Any]]) -> list[str]:
        return [lead(record["text"]) for record in records]

    def answers(self, outputs: Sequence[Any], encoded: Encoded, records: Any, answers: Answers) -> list[Any]:
        return [{"summary_text": output.text or ""} for output in outputs]

    def _message(self, text: str) -> dict[str, str]:
        words = self.instruction or INSTRUCTIONS[bool(CHINESE.search(text[:200]))]
        content = words.replace("{text}", text) if "{text}" in words else f"{words}\n{text}"
        return {"role": "user", "content": content}

    def _fitting(self, prompts: Prompts, text: str, too_many: int) -> str:
        """The text without its last tokens; two more go, as its end may be cut otherwise."""
        whole = len(prompts.plain_tokenizer.encode(text, add_special_tokens=False).ids)
        return prompts.cut(text, whole - too_many - 2)
