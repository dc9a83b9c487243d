"""Dialogues as they come: alpaca's instruction/input/output, sharegpt's conversations, OpenAI's messages, told apart.

Each becomes ``[{"role": "system" | "user" | "assistant", "content"}, ...]``. Pairs for preference tuning have two
answers to the same dialogue, ``chosen`` and ``rejected``.
"""

import json
from collections.abc import Mapping
from typing import Any

from weitiao.core.errors import BadRow
from weitiao.core.messages import say
from weitiao.data.columns import Column

DIALOGUES = (
    Column("instruction", ("instruction", "prompt", "question", "query", "指令", "提示", "问题"), False,
           "what is asked", nullable=True),
    Column("input", ("input", "context", "输入", "上下文"), False, "what the instruction is about", nullable=True),
    Column("messages", ("messages", "conversations", "conversation", "dialogue", "dialog", "对话", "消息"), False,
           "a whole dialogue", nullable=True),
    Column("system", ("system", "system_prompt", "系统提示"), False, "the system's message", nullable=True),
    Column("history", ("history", "历史"), False, "earlier turns, pairs of question and answer", nullable=True),
    Column("answer", ("output", "response", "answer", "completion", "chosen", "target", "回答", "答案", "输出", "回复"), False,
           "the answer, the better one of two", nullable=True),
    Column("rejected", ("rejected", "拒绝", "较差回答"), False, "the worse answer", nullable=True),
)  # fmt: skip
ROLES = {
    "user": "user", "human": "user", "用户": "user", "assistant": "assistant", "gpt": "assistant", "bot": "assistant",
    "chatgpt": "assistant", "model": "assistant", "助手": "assistant", "system": "system", "系统": "system",
}  # fmt: skip
Message = dict[str, str]


def dialogue(row: Mapping[str, Any], answered: bool = True) -> list[Message]:
    """The dialogue in a row, its last message the assistant's; without an answer the user's, if not ``answered``.

    Raises:
        BadRow: nothing is asked, nothing is answered, or a message has an unknown role.
    """
    messages = _turns(row.get("messages")) if row.get("messages") else _instructed(row)
    if (system := _text(row.get("system"))) and (not messages or messages[0]["role"] != "system"):
        messages.insert(0, {"role": "system", "content": system})
    answer = _text(row.get("answer"))
    if answer:
        if messages and messages[-1]["role"] == "assistant":  # the pair's answer stands in both places
            messages.pop()
        messages.append({"role": "assistant", "content": answer})
    if answered:
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        if not messages or not messages[-1]["content"].strip():
            raise BadRow("answer", say("there is no answer", "没有回答"))
    asked = [m for m in messages if m["role"] == "user" and m["content"].strip()]
    if not asked or messages[[m["role"] == "system" for m in messages].count(True)]["role"] == "assistant":
        raise BadRow("instruction", say("nothing is asked before the answer", "回答之前没有提问"))
    return messages


def rejected(row: Mapping[str, Any]) -> str:
    """The worse answer of a pair.

    Raises:
        BadRow: there is none, or it is the better one.
    """
    text = _text(row.get("rejected"))
    if not text.strip():
        raise BadRow("rejected", say("there is no rejected answer", "没有较差的回答"))
    if text == _text(row.get("answer")):
        raise BadRow("rejected", say("both answers are the same", "两个回答相同"))
    return text


def _instructed(row: Mapping[str, Any]) -> list[Message]:
    """Alpaca's fields."""
    found: list[Message] = []
    for pair in row.get("history") or ():
        pair = _json(pair)
        if isinstance(pair, list) and len(pair) == 2:
            found += [
                {"role": r, "content": str(c)} for r, c in zip(("user", "assistant"), pair, strict=True)
            ]
    parts = [part for part in (_text(row.get("instruction")), _text(row.get("input"))) if part.strip()]
    return [*found, {"role": "user", "content": "\n".join(parts)}] if parts else found


def _turns(value: Any) -> list[Message]:
    value = _json(value)
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    found = []
    for turn in value if isinstance(value, list) else [value]:
        turn = _json(turn)
        if not isinstance(turn, Mapping):
            raise BadRow("messages", say(f"{str(turn)[:40]!r} is no message", f"{str(turn)[:40]!r} 不是消息"))
        name = str(turn.get("role", turn.get("from", "")))
        if name.lower() not in ROLES:
            known = "user/human, assistant/gpt, system"
            raise BadRow(
                "messages",
                say(f"unknown role '{name[:40]}'; known: {known}", f"未知角色“{name[:40]}”；可用：{known}"),
            )
        content = turn.get("content", turn.get("value"))
        if not isinstance(content, str):
            raise BadRow("messages", say("a message has no text", "有消息没有文本"))
        found.append({"role": ROLES[name.lower()], "content": content})
    return found


def _text(value: Any) -> str:
    """A cell's text; of a message, or a list of them, the last one's."""
    value = _json(value)
    if isinstance(value, Mapping):
        value = value.get("content", value.get("value"))
    if isinstance(value, list):
        return _text(value[-1]) if value else ""
    return "" if value is None else str(value)


def _json(value: Any) -> Any:
    """What a cell holds that readers keep as JSON."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            found = json.loads(value)
        except ValueError:
            return value
        return found if isinstance(found, list | dict) and found and _is_turns(found) else value
    return value


def _is_turns(value: Any) -> bool:
    """Whether it is a message or a list of them: an answer may be JSON of its own."""
    turn = value[0] if isinstance(value, list) else value
    if isinstance(turn, str):
        return len(value) == 2
    return isinstance(turn, Mapping) and (
        {"role", "content"} <= turn.keys() or {"from", "value"} <= turn.keys()
    )
