"""What a language model's folder says of how it is asked: tokenizer, chat template, the tokens that end an answer.

A template is Jinja, rendered in a sandbox as ``transformers`` does, and only to find the fixed texts it is made of
(``generation.chat``). A model that has none gets a plain one, which is written into the folder of what is trained.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file, read_json
from weitiao.data.encode import load_tokenizer
from weitiao.generation.chat import derive, plain
from weitiao.generation.prompts import Prompts

TEMPLATE_FILE = "chat_template.jinja"
SETTINGS, ENDS = "tokenizer_config.json", "generation_config.json"


def open_prompts(folder: Path, chat: bool = False) -> Prompts:
    """The prompts of the model in a folder.

    Args:
        chat: it is to answer messages, so that one without a template gets a plain one.

    Raises:
        WeitiaoError: the tokenizer cannot be read, or the template is of a kind that is not supported.
    """
    tokenizer, ends = load_tokenizer(folder), ends_of(folder)
    template = template_of(folder)
    if template is None and chat:
        template = plain(_end_text(tokenizer, ends))[1]
    return Prompts(tokenizer, template, ends)


def keep_prompts(prompts: Prompts, folder: Path) -> None:
    """Write into a model's folder what makes others ask it in the same way."""
    if not (folder / "tokenizer.json").exists():
        prompts.save(str(folder / "tokenizer.json"))
    if prompts.template is not None and _source(folder) is None:
        jinja, texts = plain(_end_text(prompts.tokenizer, prompts.ends))
        if texts == prompts.template:
            with atomic_file(folder / TEMPLATE_FILE) as file:
                file.write(jinja)


def ends_of(folder: Path) -> list[int]:
    """The tokens that end an answer: those of ``generation_config.json``, else of ``config.json``."""
    for name in (ENDS, "config.json"):
        path = folder / name
        found = (read_json(path) if path.is_file() else {}).get("eos_token_id")
        if found is not None:
            return list(found) if isinstance(found, list) else [int(found)]
    return []


def template_of(folder: Path) -> dict[str, Any] | None:
    """The fixed texts of a folder's chat template; None where it has none.

    Raises:
        WeitiaoError: it has one that is more than fixed texts around messages.
    """
    source = _source(folder)
    if source is None:
        return None
    found = derive(_renderer(source, _special_texts(folder)))
    if found is None:
        raise WeitiaoError(
            say(
                f"{folder}: its chat template is more than fixed texts around messages, and only those are supported. "
                f"Put a simpler one into {TEMPLATE_FILE}",
                f"{folder}：其对话模板不只是消息前后的固定文本，暂不支持。请在 {TEMPLATE_FILE} 中换用更简单的模板",
            )
        )
    return found


def _source(folder: Path) -> str | None:
    if (folder / TEMPLATE_FILE).is_file():
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    found = settings.get("chat_template")
    if isinstance(found, list):  # several by name
        found = {one["name"]: one["template"] for one in found}.get("default")
    return found or None


def _special_texts(folder: Path) -> dict[str, str]:
    """``bos_token``, ``eos_token`` ... as templates know them."""
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    named = {key: value for key, value in settings.items() if key.endswith("_token") and value}
    return {key: value["content"] if isinstance(value, dict) else str(value) for key, value in named.items()}


def _renderer(source: str, special: dict[str, str]) -> Callable[[list[dict[str, str]], bool], str]:
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    template = environment.from_string(source)

    def render(messages: list[dict[str, str]], generation: bool) -> str:
        return template.render(messages=messages, add_generation_prompt=generation, **special)

    return render


def _end_text(tokenizer: Any, ends: Any) -> str:
    return tokenizer.id_to_token(min(ends)) or "" if ends else ""
