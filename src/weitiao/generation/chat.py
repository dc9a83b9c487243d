"""Chat templates without a template language: what stands before and after a message of each role.

Most templates put messages one after the other, each between fixed texts. ``derive`` finds those texts by rendering a
few dialogues with the model's own template, and makes sure that they rebuild others; ``render`` needs nothing but them.
``plain`` is a template for a model that has none.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say

ROLES = ("system", "user", "assistant")
Render = Callable[[list[dict[str, str]], bool], str]
"""``render(messages, with_generation_prompt)``: the model's own template."""


def pieces(
    template: Mapping[str, Any] | None, messages: Sequence[Mapping[str, str]]
) -> list[tuple[str, bool]]:
    """The text that a model reads for a dialogue, in pieces ``(text, is_content)``; the assistant's turn comes last.

    Args:
        template: ``{"default", "system", "user", "assistant", "generation", "trim"}``; each role has the texts
            ``[before, after]``, ``default`` stands first where no message of the system does.

    Raises:
        WeitiaoError: no template, no message, an unknown role, or a content that is no text.
    """
    if not template:
        raise WeitiaoError(
            say(
                "This model has no chat template: give it a text instead of messages",
                "该模型没有对话模板：请直接给文本，而不是消息列表",
            )
        )
    if not messages:
        raise WeitiaoError(say("There is no message to answer", "没有可回答的消息"))
    found = [piece for turn in turns(template, messages) for piece in turn]
    return [*found, (template["generation"], False)]


def turns(template: Mapping[str, Any], messages: Sequence[Mapping[str, str]]) -> list[list[tuple[str, bool]]]:
    """The pieces of each message: what stands before it, its content, what stands after it.

    Raises:
        WeitiaoError: an unknown role, or a content that is no text.
    """
    found: list[list[tuple[str, bool]]] = []
    for number, message in enumerate(messages, 1):
        role, content = _checked(message, number)
        before, after = template[role]
        turn = [(before, False), (content.strip() if template["trim"] else content, True), (after, False)]
        found.append([(template["default"], False), *turn] if number == 1 and role != "system" else turn)
    return found


def _checked(message: Mapping[str, str], number: int) -> tuple[str, str]:
    role = message.get("role") if isinstance(message, Mapping) else None
    content = message.get("content") if isinstance(message, Mapping) else None
    if role not in ROLES or not isinstance(content, str):
        what = f"role '{str(role)[:40]}'" if role not in ROLES else f"a {type(content).__name__} as content"
        raise WeitiaoError(
            say(
                f"Message {number} has {what}; it needs a role ({', '.join(ROLES)}) and a text as content",
                f"第 {number} 条消息无效（{what}）：需要 role（{'、'.join(ROLES)}）和文本 content",
            )
        )
    return role, content


def render(template: Mapping[str, Any] | None, messages: Sequence[Mapping[str, str]]) -> str:
    """The same in one text."""
    return "".join(text for text, _ in pieces(template, messages))


def plain(end: str) -> tuple[str, dict[str, Any]]:
    """A template for a model that has none, whose answers end with the text ``end``: as Jinja, and its fixed texts."""
    texts: dict[str, Any] = {
        "default": "",
        "system": ["", "\n\n"],
        "user": ["User:\n", "\n\n"],
        "assistant": ["Assistant:\n", f"{end}\n\n"],
        "generation": "Assistant:\n",
        "trim": True,
    }
    parts = []
    for role in ROLES:
        before, after = (json.dumps(text) for text in texts[role])
        test = "if" if role == ROLES[0] else "elif"
        parts.append(
            f"{{% {test} m['role'] == '{role}' %}}{{{{ {before} + m['content'] | trim + {after} }}}}"
        )
    loop = "{% for m in messages %}" + "".join(parts) + "{% endif %}{% endfor %}"
    ask = json.dumps(texts["generation"])
    return loop + f"{{% if add_generation_prompt %}}{{{{ {ask} }}}}{{% endif %}}", texts


def derive(own: Render) -> dict[str, Any] | None:
    """The fixed texts of a template, or None where it isn't made in this way."""
    try:
        template = _found(own)
        return template if all(_same(own, template, dialogue) for dialogue in _trials()) else None
    except Exception:  # a template may refuse whatever it likes, and then it isn't one of these
        return None


def _found(own: Render) -> dict[str, Any]:
    marks = ["Mark0", "Mark1", "Mark2"]

    def parts(*roles: str) -> list[str]:
        """The texts before, between and after the contents of a dialogue."""
        text = own([{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=False)], False)
        found = []
        for mark in marks[: len(roles)]:
            before, _, text = text.partition(mark)
            found.append(before)
        return [*found, text]

    start, user_end = parts("user")
    _, answer_start, answer_end = parts("user", "assistant")
    user_start = parts("user", "assistant", "user")[2].removeprefix(answer_end)
    system_start, system_end, _ = parts("system", "user")
    asked = [{"role": "user", "content": marks[0]}]
    padded = own([{"role": "user", "content": f" {marks[0]} "}], False)
    return {
        "default": start.removesuffix(user_start),
        "system": [system_start, system_end.removesuffix(user_start)],
        "user": [user_start, user_end],
        "assistant": [answer_start.removeprefix(user_end), answer_end],
        "generation": own(asked, True).removeprefix(own(asked, False)),
        "trim": f" {marks[0]} " not in padded,
    }


def _trials() -> list[list[dict[str, str]]]:
    contents = ["你好！", "a {{b}} {% c %}\n\nd", "  spaces  ", "42", "last"]
    turns = [
        {"role": role, "content": text}
        for role, text in zip(["user", "assistant"] * 3, contents, strict=False)
    ]
    system = {"role": "system", "content": "Be brief."}
    return [turns[:1], turns[:3], turns, [system, *turns[:1]], [system, *turns]]


def _same(own: Render, template: Mapping[str, Any], dialogue: list[dict[str, str]]) -> bool:
    return own(dialogue, True) == render(template, dialogue)
