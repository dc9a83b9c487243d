"""Add and list the API keys of a service / 添加、列出服务的 API 密钥."""

from collections.abc import Iterator
from dataclasses import dataclass

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError, unknown_name
from weitiao.core.events import Event, NoteEvent, ResultEvent
from weitiao.core.messages import say
from weitiao.service import keyfile

EXAMPLES = (
    "weitiao keys add --file keys.toml --name ops --roles predict,metrics --tenant acme --models 'reviews,acme-*'",
    "weitiao keys list --file keys.toml",
    "# keys.toml:",
    *(f"#   {line}".rstrip() for line in keyfile.EXAMPLE.splitlines()),
)


@dataclass
class Config:
    """The file of keys, and what a new key may do."""

    action: str = option("", "add or list", "add（添加）或 list（列出）", positional=True)
    file: str = option("keys.toml", "the file of keys", "密钥文件")
    name: str = option("", "whose key it is", "密钥归谁使用")
    roles: list[str] = option(
        ["predict"], "what it may do: predict, metrics, admin", "权限：predict、metrics、admin"
    )
    tenant: str = option(
        "", "the tenant whose models it sees (none: all models)", "所属租户（不填则可见全部模型）"
    )
    models: list[str] = option(
        [], "the models of a new tenant, * for any letters", "新租户的模型，* 代表任意字符"
    )
    per_minute: int = option(
        0, "requests a minute at most (0: no limit)", "每分钟最多请求数（0 为不限）", least=0
    )
    per_day: int = option(0, "requests a day at most (0: no limit)", "每日最多请求数（0 为不限）", least=0)
    expires: str = option("", "the first day it no longer works, as 2030-01-31", "失效日期，如 2030-01-31")


def run(config: Config) -> Iterator[Event]:
    """``add`` shows the new key once, and stores its argon2 hash; ``list`` shows what each key may do.

    Raises:
        WeitiaoError: an unknown action or role, a file that cannot be read, a tenant without models.
    """
    if config.action == "list":
        yield ResultEvent(config.file, {"text": table(keyfile.read(config.file))})
    elif config.action == "add":
        if not config.name:
            raise WeitiaoError(say("Say whose key it is: --name ops", "请说明密钥归谁使用：--name ops"))
        allowed = tuple(config.roles), config.tenant, tuple(config.models)
        limits = config.per_minute, config.per_day, config.expires
        key = keyfile.add(config.file, config.name, *allowed, *limits)
        yield NoteEvent(
            say(
                f"Added to {config.file}. The key is shown this once and stored nowhere:",
                f"已加入 {config.file}。密钥只显示这一次，不会保存：",
            )
        )
        yield ResultEvent(config.file, {"text": key})
    else:
        raise unknown_name(say("action", "动作"), config.action, ("add", "list"))


def table(file: keyfile.KeyFile) -> str:
    """One line a key: id, name, roles, tenant, limits, expiry; never its hash."""
    lines = []
    for key in file.keys.values():
        facts = [key.id, key.name, ",".join(key.roles), key.tenant or say("all models", "全部模型")]
        if key.requests_per_minute:
            facts.append(
                say(f"{key.requests_per_minute:g} a minute", f"每分钟 {key.requests_per_minute:g} 次")
            )
        if key.requests_per_day:
            facts.append(say(f"{key.requests_per_day:,} a day", f"每日 {key.requests_per_day:,} 次"))
        if key.expires:
            facts.append(say(f"until {key.expires}", f"{key.expires} 失效"))
        lines.append("  ".join(facts))
    return "\n".join(lines) or say("no keys", "没有密钥")
