"""A language model that can be asked, whatever it is: a run, a model's name or folder, or an exported bundle."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.generation.constraints import Pattern, Vocabulary, constraint
from weitiao.generation.prompts import Prompt, Prompts
from weitiao.generation.sampling import Sampling
from weitiao.generation.writing import Scores, Writing, Written, stream, write

AT_ONCE = 8  # texts written side by side


class Talker:
    """Asks a model.

    Attributes:
        prompts: its tokenizer and template.
        max_length: tokens it reads and writes in all.
        task: the run's task, which knows how it is asked; None for a model that was not trained here.
        batches: whether it writes several texts at once.
    """

    def __init__(
        self, prompts: Prompts, max_length: int, vocabulary_size: int, task: Any, batches: bool
    ) -> None:
        self.prompts, self.max_length, self.vocabulary_size = prompts, max_length, vocabulary_size
        self.task, self.batches = task, batches

    def scores(self, places: int) -> Scores:
        """What gives the scores for texts of at most so many tokens."""
        raise NotImplementedError

    def encoded(self, prompt: Prompt, system: str = "", raw: bool = False) -> list[int]:
        """The tokens of what a user typed: as the run's task asks; a message where there is a template; else the text.

        Raises:
            WeitiaoError: it leaves no room for an answer.
        """
        ids = self.prompts.encode(prompt) if raw else self._asked(prompt, system)
        self.prompts.check_room(ids, self.max_length)
        return ids

    def constraint(self, choices: Sequence[str], regex: str, schema: Any) -> Pattern | None:
        """See ``generation.constraints.constraint``."""
        vocabulary = Vocabulary(self.prompts.tokenizer, self.vocabulary_size)
        return constraint(vocabulary, self.prompts.ends, choices=choices, regex=regex, schema=schema)

    def pieces(self, ids: list[int], sampling: Sampling, pattern: Pattern | None = None) -> Iterator[str]:
        """An answer as it is written."""
        return stream(
            self.scores(len(ids) + sampling.max_new_tokens), ids, self._writing(ids, sampling, pattern)
        )

    def texts(
        self, prompts: Sequence[list[int]], sampling: Sampling, pattern: Pattern | None = None, beams: int = 1
    ) -> Iterator[Written]:
        """Answers to encoded prompts, in their order.

        Raises:
            WeitiaoError: beams together with what they don't go with.
        """
        if beams > 1:
            yield from (self._searched(ids, sampling, pattern, beams) for ids in prompts)
            return
        size = AT_ONCE if self.batches else 1
        for start in range(0, len(prompts), size):
            part = prompts[start : start + size]
            places = max(map(len, part)) + sampling.max_new_tokens
            yield from write(
                self.scores(places), part, [self._writing(ids, sampling, pattern) for ids in part]
            )

    def _searched(self, ids: list[int], sampling: Sampling, pattern: Pattern | None, beams: int) -> Written:
        from weitiao.generation.beams import search

        plain = Sampling(sampling.max_new_tokens)
        if pattern is not None or sampling != plain or not self.batches:
            raise WeitiaoError(
                say(
                    "--beams goes with no sampling, stop text or constraint, and not with a bundle: leave them out",
                    "--beams 不能与采样、停止文本、约束或部署包同用：请去掉它们",
                )
            )
        most = min(sampling.max_new_tokens, self.max_length - len(ids))
        found = search(self.scores(0), ids, beams=beams, most=most, ends=self.prompts.ends)[0][0]
        text = self.prompts.tokenizer.decode(found, skip_special_tokens=True)
        return Written(text, found, "end" if len(found) < most else "length")

    def _writing(self, ids: list[int], sampling: Sampling, pattern: Pattern | None) -> Writing:
        most = self.max_length - len(ids)
        match = None if pattern is None else pattern.start()
        return Writing(self.prompts.tokenizer, ids, sampling, self.prompts.ends, most, match)

    def _asked(self, prompt: Prompt, system: str) -> list[int]:
        if isinstance(prompt, str) and self.task is not None and not system:
            from weitiao.runtime.items import record_of

            return self.task.asked(self.prompts, record_of(self.task, prompt, 1), self.max_length)
        if isinstance(prompt, str) and self.prompts.template is not None:
            before = [{"role": "system", "content": system}] if system else []
            prompt = [*before, {"role": "user", "content": prompt}]
        return self.prompts.encode(prompt)


class _InTorch(Talker):
    def __init__(self, decoder: Any, prompts: Prompts, task: Any) -> None:
        from weitiao.models.decoding import Decoding

        shape = decoder.shape
        super().__init__(prompts, shape.max_length, shape.vocab_size, task, True)
        self.decoding = Decoding(decoder)

    def scores(self, places: int) -> Scores:
        return self.decoding


class _Bundled(Talker):
    def __init__(self, decoder: Any) -> None:
        super().__init__(decoder.prompts, decoder.max_length, decoder.vocabulary_size, None, False)
        self.decoder = decoder

    def scores(self, places: int) -> Scores:
        return self.decoder.scores(min(places, self.max_length))


def open_talker(name: str, threads: int = 0) -> Talker:
    """The language model of a name.

    Raises:
        WeitiaoError: there is none, or it does not write.
    """
    from weitiao.runtime.bundle import is_bundle

    if is_bundle(name):
        from weitiao.runtime import load

        decoder = load(name, threads=threads)
        if not hasattr(decoder, "scores"):
            raise _writes_nothing(name)
        return _Bundled(decoder)
    from weitiao.core.device import set_threads
    from weitiao.models.saving import DESCRIPTION

    set_threads(threads)
    if any((folder / DESCRIPTION).exists() for folder in (Path(name), Path(name) / "model")):
        from weitiao.stages._predictor import Run

        run = Run(name)
        if run.description["head"]["type"] != "language":
            raise _writes_nothing(name)
        return _InTorch(run.model.backbone, run.tokenizer, run.task)
    from weitiao.models.decoder import open_decoder
    from weitiao.models.known import check_folder, resolve_model
    from weitiao.stages._export_decoder import is_decoder
    from weitiao.tasks._prompts import open_prompts

    folder = (
        Path(name) / "model" if (Path(name) / "model" / "config.json").is_file() else resolve_model(name).path
    )
    check_folder(folder)
    if not is_decoder(folder):
        raise _writes_nothing(name)
    return _InTorch(open_decoder(folder), open_prompts(folder), None)


def _writes_nothing(name: str) -> WeitiaoError:
    return WeitiaoError(
        say(
            f"{name} is no language model and writes nothing. Use: weitiao predict {name}",
            f"{name} 不是语言模型，不能生成文本。请用：weitiao predict {name}",
        )
    )
