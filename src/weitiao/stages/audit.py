"""Verify or list the audit log of a service / 校验、查看服务的审计日志."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from weitiao.core.audit import AuditLog, Problem
from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError, unknown_name
from weitiao.core.events import Event, ResultEvent
from weitiao.core.messages import say

EXAMPLES = (
    "weitiao audit verify deploy/audit.db",
    "weitiao audit list deploy/audit.db --last 20",
    "WEITIAO_AUDIT_KEY=... weitiao audit verify deploy/audit.db",
)
KEY_VARIABLE = "WEITIAO_AUDIT_KEY"


@dataclass
class Config:
    """Which log, and what to do with it."""

    action: str = option("", "verify or list", "verify（校验）或 list（查看）", positional=True)
    path: str = option("", "the log's file", "日志文件", positional=True)
    last: int = option(0, "list the newest entries only (0: all)", "只列出最新的若干条（0 为全部）", least=0)
    key_file: str = option(
        "",
        f"file with the secret of a keyed log (or set {KEY_VARIABLE})",
        f"加密钥日志的密钥文件（或设置 {KEY_VARIABLE}）",
    )


def run(config: Config) -> Iterator[Event]:
    """``verify`` follows the chain from the first row to the head; ``list`` shows the entries as JSON lines.

    Raises:
        WeitiaoError: no such log; or a row was changed, removed, added or moved (the first one is named).
    """
    if config.action not in ("verify", "list"):
        raise unknown_name(say("action", "动作"), config.action, ("verify", "list"))
    if not config.path:
        raise WeitiaoError(
            say(
                f"Name the log: weitiao audit {config.action} PATH",
                f"请指定日志：weitiao audit {config.action} 路径",
            )
        )
    log = AuditLog(config.path, audit_key(config.key_file))
    if config.action == "list":
        yield ResultEvent(config.path, {"jsonl": list(log.entries(config.last))})
        return
    problems = log.verify()
    if problems:
        raise WeitiaoError(_broken(config.path, problems))
    count = sum(1 for _ in log.entries())
    yield ResultEvent(
        config.path, {"text": say(f"whole: {count:,} rows", f"完好：共 {count:,} 行"), "rows": count}
    )


def audit_key(file: str = "") -> bytes:
    """The secret of a keyed log, from a file or the environment; empty if there is none.

    Raises:
        WeitiaoError: the file cannot be read.
    """
    if not file:
        return os.environ.get(KEY_VARIABLE, "").encode()
    try:
        return Path(file).read_bytes().strip()
    except OSError as error:
        raise WeitiaoError(say(f"No key in {file}: {error}", f"{file} 中没有密钥：{error}")) from None


def _broken(path: str, problems: list[Problem]) -> str:
    first, more = problems[0], len(problems) - 1
    rest = say(f" (and {more} more)", f"（另有 {more} 处）") if more else ""
    return say(
        f"{path} is not as it was written. Row {first.number}: {first.message}{rest}",
        f"{path} 与写入时不符。第 {first.number} 行：{first.message}{rest}",
    )
