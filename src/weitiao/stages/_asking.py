"""Questions about pictures, answered in words: by a bridge into a language model, or in stages.

In stages a classifier says what the picture is, in words and with its confidence, and a language model that sees only
those words answers. What goes wrong at one stage goes on to the next, so both are told.
"""

from collections.abc import Sequence
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.stages._predictor import Run
from weitiao.tasks._digit_questions import ENGLISH

MOST_TOKENS = 24
Shot = tuple[Sequence[str], str, str]  # labels, a question, its answer: an example for the language model


class Teller:
    """A language model that continues texts, greedily up to the end of a line; equal texts are answered once.

    Args:
        name: of the model; see ``models.known``.

    Raises:
        WeitiaoError: there is no such language model.
    """

    def __init__(self, name: str) -> None:
        from weitiao.data.encode import load_tokenizer
        from weitiao.models.decoder import open_decoder
        from weitiao.models.decoding import Decoding
        from weitiao.models.known import resolve_model

        folder = resolve_model(name).path
        self.tokenizer, self.model = load_tokenizer(folder), Decoding(open_decoder(folder))
        self.told: dict[str, str] = {}

    def answer(self, prompts: Sequence[str]) -> list[str]:
        """What follows each prompt, up to the end of its line."""
        from weitiao.generation.sampling import Sampling
        from weitiao.generation.writing import Writing, write

        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.told]
        sampling = Sampling(max_new_tokens=MOST_TOKENS, stop=("\n",))
        for start in range(0, len(new), 16):
            part = new[start : start + 16]
            ids = [self.tokenizer.encode(prompt).ids for prompt in part]
            writings = [Writing(self.tokenizer, each, sampling, set(), MOST_TOKENS) for each in ids]
            for prompt, found in zip(part, write(self.model, ids, writings), strict=True):
                self.told[prompt] = found.text.strip()
        return [self.told[prompt] for prompt in prompts]


def in_words(label: str) -> str:
    """What a classifier's label is called: digits by their English names."""
    return ENGLISH[int(label)] if len(label) == 1 and label.isascii() and label.isdigit() else label


def prompt_of(seen: Sequence[tuple[str, float]], question: str, shots: Sequence[Shot] = ()) -> str:
    """The text that stands for some pictures: what the classifier says of each, then the question.

    Args:
        seen: a label for each picture, and how sure the classifier is of it (0 .. 1).
        shots: examples that come first.
    """
    parts = [f"{_shown([(label, 1.0) for label in labels])}\nQuestion: {asked}\nAnswer: {told}\n"
             for labels, asked, told in shots]  # fmt: skip
    return "\n".join([*parts, f"{_shown(seen)}\nQuestion: {question}\nAnswer:"])


def _shown(seen: Sequence[tuple[str, float]]) -> str:
    """``Picture: seven (99% sure)``; whole percents, so that equally clear pictures are the same text."""
    return "\n".join(f"Picture: {in_words(label)} ({round(100 * sure)}% sure)" for label, sure in seen)


def ask(
    run: Run, files: Sequence[str], question: str, together: bool, language_model: str
) -> list[dict[str, Any]]:
    """Answers to a question about each picture, or about all of them together.

    Returns:
        ``{"image", "question", "answer"}`` each; ``score`` beside from a bridge, and ``seen`` in stages: what the
        classifier said, ``{"label", "score"}`` for each picture.

    Raises:
        WeitiaoError: the run is of neither kind, or a question takes fewer pictures than were given.
    """
    groups = [list(files)] if together else [[file] for file in files]
    shown = [{"image": group[0]} if len(group) == 1 else {"images": group} for group in groups]
    if run.task.name == "image_to_text":
        if max(len(group) for group in groups) > 2:
            raise WeitiaoError(
                say(
                    "A question takes at most two pictures --together",
                    "一个问题最多同时涉及两张图片（--together）",
                )
            )
        roles = ("image", "image_b")
        items = [{**dict(zip(roles, group, strict=False)), "question": question} for group in groups]
        answers = run.predict(items)
        return [{**names, "question": question, **each} for names, each in zip(shown, answers, strict=True)]
    if run.task.name != "image_classification":
        raise WeitiaoError(
            say(
                f"--ask is for runs of image-to-text and image-classification; {run.folder} is {run.task.name}",
                f"--ask 适用于 image-to-text 与 image-classification；{run.folder} 是 {run.task.name}",
            )
        )
    found = iter(run.predict([file for group in groups for file in group]))
    seen = [[next(found) for _ in group] for group in groups]
    best = [[each if isinstance(each, dict) else each[0] for each in group] for group in seen]
    prompts = [prompt_of([(one["label"], one["score"]) for one in group], question) for group in best]
    told = Teller(language_model).answer(prompts)
    return [
        {**names, "question": question, "answer": answer, "seen": group}
        for names, answer, group in zip(shown, told, best, strict=True)
    ]
