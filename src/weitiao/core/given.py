"""The text of a file that an option names."""

from pathlib import Path

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say


def given_text(path: str, flag: str) -> str:
    """The file's content, UTF-8, without a byte order mark.

    Raises:
        WeitiaoError: it cannot be read; the message names the option ``--flag``.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = (
            say("it is not UTF-8", "不是 UTF-8 编码")
            if isinstance(error, UnicodeDecodeError)
            else error.strerror
        )
        raise WeitiaoError(
            say(f"--{flag}: {path} cannot be read: {why}", f"--{flag}：无法读取 {path}：{why}")
        ) from None
