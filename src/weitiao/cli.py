"""The command line: argv -> a stage's Config -> ``stage.run(config)``, whose events are shown as they come.

Commands are the files of ``stages/``; flags are the fields of their Config. ``weitiao --help`` imports none.
"""

import argparse
import errno
import importlib
import os
import sys
from typing import Any

from weitiao.core import catalogue
from weitiao.core.errors import WeitiaoError, unknown_name
from weitiao.core.messages import say

USAGE_ERROR = 2


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0, 2 for what the user can mend, 130 for Ctrl-C before a run began.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _main(argv)
    except WeitiaoError as error:
        print(f"weitiao: {error}", file=sys.stderr)
        return USAGE_ERROR
    except BrokenPipeError:  # `weitiao ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit must not fail too
        return 0
    except OSError as error:
        print(f"weitiao: {_of_system(error)}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(say("weitiao: stopped.", "weitiao: 已停止。"), file=sys.stderr)
        return 130


def _of_system(error: OSError) -> str:
    """What the system refused, and the way out."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return say(
            "the disk is full: free some space and go on with --resume",
            "磁盘已满：请腾出空间，再用 --resume 继续",
        )
    what = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return say(f"the system refused: {what}", f"系统拒绝了操作：{what}")


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if argv[0] in ("-V", "--version"):
        from weitiao.core.version import __version__

        print(f"weitiao {__version__}")
        return 0
    name = catalogue.canonical(argv[0])
    if not catalogue.is_own("stages", name) and name not in catalogue.members("stages"):
        raise unknown_name(say("command", "命令"), argv[0], catalogue.members("stages"))
    stage = importlib.import_module(f"weitiao.stages.{name}")
    values = parse(stage, argv[1:])
    from weitiao.core.config import build
    from weitiao.reporting.terminal import show

    return show(stage.run(build(stage.Config, values)))


def overview() -> str:
    """The text of ``weitiao --help``."""
    what = "Weitiao (微调): fine-tune language models on an ordinary machine."
    lines = [
        say(what, "微调：在普通机器上微调语言模型。"),
        "",
        say("usage: weitiao COMMAND [options]", "用法：weitiao 命令 [选项]"),
        "",
    ]
    for name in catalogue.members("stages"):
        en, _, zh = catalogue.summary("stages", name).partition(" / ")
        lines.append(f"  {name.replace('_', '-'):<12}{say(en, zh or en)}")
    lines += [
        "",
        say("example:", "示例："),
        "  weitiao finetune --data reviews.csv --task text-classification --output runs/reviews",
        f'  weitiao predict runs/reviews "{say("The parcel came quickly", "物流很快，包装也好")}"',
        "",
        say("weitiao COMMAND --help shows a command's options.", "weitiao 命令 --help 显示命令的全部选项。"),
    ]
    return "\n".join(lines)


def parse(stage: Any, argv: list[str]) -> dict[str, Any]:
    """The values given on the command line, over those of a recipe file where one is named.

    Only what was given is returned, so that defaults keep their one home in the Config.
    """
    from weitiao.core.config import imply, member_options, options, read_yaml

    own = options(stage.Config)
    given = _peek(argv, own)
    ours = "recipe" in own  # a stage may have a recipe of its own kind
    recipe = read_yaml(given["recipe"]) if given.get("recipe") and not ours else {}
    flags = {word[2:].partition("=")[0].replace("-", "_"): "" for word in argv if word.startswith("--")}
    chosen = imply(stage.Config, {**flags, **recipe, **given})
    parser = make_parser(stage, {**own, **member_options(stage.Config, chosen)})
    values = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None and v != []}
    if not ours:
        values.pop("recipe", None)
    return {**recipe, **values}


def make_parser(stage: Any, fields: dict[str, Any]) -> argparse.ArgumentParser:
    """An argument parser for a stage: one flag a field."""
    name = stage.__name__.rsplit(".", 1)[-1].replace("_", "-")
    en, _, zh = catalogue.summary("stages", name).partition(" / ")
    parser = _Parser(
        prog=f"weitiao {name}",
        description=say(en, zh or en),
        epilog=say("example:", "示例：") + "\n  " + "\n  ".join(stage.EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for key, field in fields.items():
        meta = field.metadata
        text = say(meta["en"], meta["zh"]).replace("%", "%%")
        choices = meta["choices"] or (catalogue.members(meta["family"]) if meta["family"] else ())
        if choices:
            text += " (" + ", ".join(choice.replace("_", "-") for choice in choices) + ")"
        default = field.default
        if isinstance(default, str | int | float) and not isinstance(default, bool) and default != "":
            text += say(f" [default: {default}]", f" [默认：{default}]").replace("%", "%%")
        if meta["positional"]:
            many = "list" in str(field.type)
            parser.add_argument(key, nargs="*" if many else "?", help=text)
        elif field.type in (bool, "bool"):
            parser.add_argument(_flag(key), action=argparse.BooleanOptionalAction, help=text)
        else:
            parser.add_argument(_flag(key), metavar=key.rsplit("_", 1)[-1].upper(), help=text)
    if "recipe" not in fields:
        parser.add_argument(
            "--recipe", metavar="YAML", help=say("read settings from a file", "从文件读取设置")
        )
    return parser


class _Parser(argparse.ArgumentParser):
    """argparse, with Weitiao's own one-line errors."""

    def error(self, message: str) -> Any:
        from weitiao.core.errors import nearest

        known = [flag for action in self._actions for flag in action.option_strings]
        if message.startswith("unrecognized arguments: "):
            wrong = message.split(": ", 1)[1].split()[0]
            close = nearest(wrong.split("=")[0], known)
            hint = say(f" Did you mean {close}?", f"是不是 {close}？") if close else ""
            raise WeitiaoError(
                say(f"Unknown option {wrong}.{hint} See: ", f"没有选项 {wrong}。{hint}参见：")
                + f"{self.prog} --help"
            )
        raise WeitiaoError(f"{message}. " + say(f"See: {self.prog} --help", f"参见：{self.prog} --help"))


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _peek(argv: list[str], own: dict[str, Any]) -> dict[str, str]:
    """The family members and the recipe that argv chooses, found before the parser can be built."""
    wanted = {_flag(key): key for key, field in own.items() if field.metadata["family"]}
    wanted["--recipe"] = "recipe"
    found = {}
    for number, word in enumerate(argv):
        flag, sign, value = word.partition("=")
        if flag in wanted:
            found[wanted[flag]] = value if sign else (argv[number + 1] if number + 1 < len(argv) else "")
    return found


if __name__ == "__main__":
    sys.exit(main())
