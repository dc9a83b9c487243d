"""Talk with a language model / 与语言模型对话."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ResultEvent, TextEvent
from weitiao.core.messages import say
from weitiao.stages._sampled import Asking

EXAMPLES = (
    "weitiao chat runs/chat",
    "weitiao chat SmolLM2-135M-Instruct --temperature 0.7 --seed 1",
    'echo "What is a digit?" | weitiao chat deploy/chat',
)


@dataclass
class Config(Asking):
    """With whom, and how answers are chosen."""


def run(config: Config) -> Iterator[Event]:
    """Read lines, answer each as it is written; ``/reset`` forgets, ``/quit`` or the end of input ends."""
    if not config.run:
        raise WeitiaoError(say("Name a model: weitiao chat RUN", "请指定模型：weitiao chat 目录"))
    from weitiao.stages._talker import open_talker

    sampling = config.sampling()
    talker = open_talker(config.run, config.threads)
    if talker.prompts.template is None:
        raise WeitiaoError(
            say(
                f'{config.run} has no chat template and continues texts only: weitiao generate {config.run} "text"',
                f'{config.run} 没有对话模板，只能续写文本：weitiao generate {config.run} "文本"',
            )
        )
    talk = _Dialogue(talker, config.system)
    if sys.stdin.isatty():
        yield NoteEvent(say("/reset forgets what was said, /quit ends.", "/reset 清空对话，/quit 结束。"))
    turns = 0
    for line in _lines():
        if line == "/quit":
            break
        if line == "/reset":
            talk.forget()
            yield NoteEvent(say("Forgotten.", "已清空。"))
            continue
        if line.startswith("/"):
            yield NoteEvent(
                say(f"Unknown: {line}. There are /reset and /quit", f"没有 {line}。可用：/reset、/quit"),
                "warning",
            )
            continue
        turns += 1
        yield from talk.answer(line, sampling)
    yield ResultEvent("", {"turns": turns})


class _Dialogue:
    """What was said. The oldest turns are forgotten where the context would be full."""

    def __init__(self, talker: Any, system: str) -> None:
        self.talker = talker
        self.system = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, str]] = []

    def forget(self) -> None:
        self.messages = []

    def answer(self, text: str, sampling: Any) -> Iterator[Event]:
        """One turn: the answer in pieces. Ctrl-C ends the answer, not the dialogue."""
        self.messages.append({"role": "user", "content": text})
        try:
            ids = self._fitting(min(sampling.max_new_tokens, self.talker.max_length // 4))
        except WeitiaoError as error:
            self.messages.pop()
            yield NoteEvent(str(error), "warning")
            return
        found: list[str] = []
        try:
            for piece in self.talker.pieces(ids, sampling):
                found.append(piece)
                yield TextEvent(piece)
        except KeyboardInterrupt:
            pass
        yield TextEvent("", last=True)
        self.messages.append({"role": "assistant", "content": "".join(found)})

    def _fitting(self, room: int) -> list[int]:
        """The tokens of the dialogue, with room for an answer."""
        while True:
            ids = self.talker.prompts.encode([*self.system, *self.messages])
            if len(ids) + room <= self.talker.max_length or len(self.messages) == 1:
                self.talker.prompts.check_room(ids, self.talker.max_length)
                return ids
            del self.messages[:2]


def _lines() -> Iterator[str]:
    """What is typed, with its history; or the lines of a file or a pipe."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (editing and history, where there are any)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if line:
            yield line
