"""What the tasks share whose answers are texts that a language model writes.

Only what a model is to write is learnt: its answers, with their ends. A prompt that leaves no room for an answer within
``max_length`` teaches nothing; such rows are counted and listed. On held-out rows the likelihood of the true answers is
measured, and for some of the rows an answer is really written.
"""

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.sources import Resolved
from weitiao.data.encode import Encoded, Ragged
from weitiao.data.quality import FIRST_ROWS, Finding
from weitiao.evaluation.base import Predictions
from weitiao.generation.prompts import Prompts
from weitiao.generation.sampling import Sampling
from weitiao.generation.writing import Writing, write
from weitiao.tasks._prompts import keep_prompts, open_prompts
from weitiao.tasks.base import Answers, Rewrite, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from weitiao.models.backbone import TextModel

AT_ONCE = 8  # texts written side by side


@dataclass
class Written:
    """What a model says of one example: how unlikely it finds the true answer, and what it writes itself."""

    negative_log_likelihood: float = 0.0
    tokens: int = 0
    text: str | None = None
    margin: float | None = None  # of its log likelihood over that of the worse answer


@dataclass
class Generation(Task):
    """A language model that is taught to write."""

    max_new_tokens: int = option(96, "tokens of a written answer at most", "生成答案的最大词元数", least=1)
    dev_answers: int = option(
        8,
        "held-out rows for which answers are written during training",
        "训练中为多少条留出数据生成答案",
        least=1,
    )
    test_answers: int = option(
        48,
        "held-out rows for which answers are written at the end",
        "训练结束后为多少条留出数据生成答案",
        least=1,
    )

    reads = "texts"
    tunings = ("full", "lora", "dora", "ia3", "qlora")
    text_keys = ("text",)
    label_key = "answer"
    labelled = False
    chats: ClassVar[bool] = True  # it answers messages

    # --- what a member says

    @abstractmethod
    def taught(
        self, prompts: Prompts, record: dict[str, Any], max_length: int
    ) -> tuple[list[int], list[bool]]:
        """The tokens of a record and which of them are to be learnt."""

    @abstractmethod
    def asked(self, prompts: Prompts, record: dict[str, Any], max_length: int) -> list[int]:
        """The tokens of a record's prompt."""

    def references(self, record: dict[str, Any]) -> list[str]:
        """The texts that an answer is compared with."""
        return [record["answer"]]

    # --- the model

    def defaults(self) -> Mapping[str, Any]:
        own = {"model": "SmolLM2-135M-Instruct", "batch_size": 8, "max_length": 512, "learning_rate": 5e-5}
        return {**super().defaults(), **own}

    def reader(self, folder: Path) -> Prompts:
        return open_prompts(folder, self.chats)

    def keep(self, reader: Any, folder: Path) -> None:
        keep_prompts(reader, folder)

    def backbone(
        self, source: Resolved, dropout: float | None
    ) -> "tuple[nn.Module, dict[str, Any], dict[str, Tensor]]":
        from weitiao.models.backbone import open_backbone

        return open_backbone(source.path, dropout, causal=True)

    def learn(self, records: Any) -> Answers:
        """``pairs`` where each row has a worse answer beside its own, else ``tokens``."""
        return Answers("pairs" if "rejected" in records.column_names else "tokens")

    def head(self, answers: Answers, pooling: str) -> dict[str, Any]:
        return {"type": "language", "outputs": 0, "pooling": "none"}

    def objective(self, answers: Answers) -> str:
        return "dpo" if answers.kind == "pairs" else "causal_lm"

    def evaluation(self, answers: Answers) -> str:
        return "generation"

    def majority(self, records: Any, answers: Answers) -> Any:
        return None

    # --- from records to tokens

    def encode_rows(
        self, rows: list[dict[str, Any]], tokenizer: Any, max_length: int, answers: Answers | None
    ) -> Encoded:
        """Without ``answers`` the prompts alone; with them, which tokens come after which (``marks``, ``targets``)."""
        if answers is None:
            ids = [self.asked(tokenizer, row, max_length) for row in rows]
            return Encoded(Ragged.of(ids), uncut=np.array([len(one) for one in ids], np.int64))
        texts, marks, targets, uncut = [], [], [], []
        pairs = answers.kind == "pairs"
        for record in (one for row in rows for one in (self._pair(row) if pairs else (row,))):
            found, scored = self.taught(tokenizer, record, max_length)
            uncut.append(len(found))
            ids_T, scored_T = np.array(found[:max_length], np.int64), np.array(scored[:max_length], bool)
            places = np.flatnonzero(scored_T[1:])
            texts.append(ids_T)
            marks.append(places)
            targets.append(ids_T[places + 1])
        lengths = np.array(uncut, np.int64).reshape(len(rows), -1).max(1, initial=0)
        encoded = Encoded(Ragged.of(texts), Ragged.of(targets), uncut=lengths, per_example=1 + pairs)
        encoded.marks = Ragged.of(marks)
        return encoded

    def _pair(self, row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        return row, {**row, "answer": row["rejected"]}

    def check_encoded(self, encoded: Encoded, records: Any, max_length: int) -> list[Finding]:
        """Rows whose prompts leave no room for an answer.

        Raises:
            WeitiaoError: there are no others.
        """
        assert isinstance(encoded.marks, Ragged)
        full = np.flatnonzero(encoded.marks.lengths.reshape(len(encoded), -1).min(1) == 0)
        if not len(full):
            return []
        numbers = [int(records[int(row)]["row_number"]) for row in full[:FIRST_ROWS]]
        shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(full) > 5 else "")
        message = say(
            f"{len(full):,} of {len(encoded):,} prompts fill all {max_length} tokens and leave no room for an answer: "
            f"nothing is learnt from them (rows {shown}). Raise --max-length",
            f"{len(encoded):,} 条中有 {len(full):,} 条提示占满 {max_length} 个词元，没有留给答案的位置，不参与学习"
            f"（第 {shown} 行）。请增大 --max-length",
        )
        if len(full) == len(encoded):
            raise WeitiaoError(message)
        return [Finding("no_room", len(full), len(encoded), numbers, message)]

    def rewritten(self, record: dict[str, Any], rewrite: Rewrite) -> dict[str, Any]:
        raise WeitiaoError(
            say(
                "--augment rewrites texts that get a label, not dialogues",
                "--augment 只改写带标签的文本，不支持对话",
            )
        )

    # --- what the model says

    def outputs(
        self,
        model: "TextModel",
        encoded: Encoded,
        records: Any,
        reader: Any,
        *,
        brief: bool = False,
        **how: Any,
    ) -> list[Any]:
        """How likely the true answers are, of all rows that have one, and answers written for some."""
        found = [Written() for _ in range(len(encoded))]
        if encoded.targets is None:
            chosen: Sequence[int] = range(len(encoded))
        else:
            most = self.dev_answers if brief else self.test_answers
            chosen = np.linspace(0, len(encoded) - 1, min(most, len(encoded))).astype(int).tolist()
            self._score(model, encoded, found, how)
        most = min(model.backbone.shape.max_length, 1 << 20)
        rows = [(row, _record(records, row)) for row in chosen]
        prompts = [(row, self.asked(reader, record, most - 1)) for row, record in rows]
        for row, text in self.written(model, reader, [one for one in prompts if 0 < len(one[1]) < most]):
            found[row].text = text
        return found

    def _score(
        self, model: "TextModel", encoded: Encoded, found: Sequence[Written], how: Mapping[str, Any]
    ) -> None:
        """How likely the true answers are, and how much likelier than the worse ones beside them."""
        from weitiao.training.language import log_likelihoods

        assert isinstance(encoded.marks, Ragged)
        sums = log_likelihoods(model, encoded, how.get("autocast")).reshape(len(encoded), -1)
        counts = encoded.marks.lengths.reshape(len(encoded), -1)
        for row, one in enumerate(found):
            one.negative_log_likelihood, one.tokens = -float(sums[row, 0]), int(counts[row, 0])
            if encoded.per_example == 2:
                one.margin = float(sums[row, 0] - sums[row, 1])

    def written(
        self, model: "TextModel", prompts: Prompts, asked: Sequence[tuple[int, list[int]]]
    ) -> Iterator[tuple[int, str]]:
        """Greedy answers to encoded prompts, each with its row; short ones first."""
        from weitiao.models.decoding import Decoding

        if not asked:
            return
        was_training = model.training
        model.eval()
        decoding = Decoding(model.backbone)
        model.train(was_training)
        sampling, longest = Sampling(self.max_new_tokens), model.backbone.shape.max_length
        ordered = sorted(asked, key=lambda one: len(one[1]))
        for start in range(0, len(ordered), AT_ONCE):
            part = ordered[start : start + AT_ONCE]
            writings = [
                Writing(prompts.tokenizer, ids, sampling, prompts.ends, longest - len(ids)) for _, ids in part
            ]
            texts = write(decoding, [ids for _, ids in part], writings)
            yield from ((row, text.text.strip()) for (row, _), text in zip(part, texts, strict=True))

    def predictions(
        self, outputs: Sequence[Any], encoded: Encoded, records: Any, answers: Answers
    ) -> Predictions:
        rows = [row for row, output in enumerate(outputs) if output.text is not None]
        chosen = [_record(records, row) for row in rows]
        extra: dict[str, Any] = {
            "negative_log_likelihood": float(sum(output.negative_log_likelihood for output in outputs)),
            "tokens": int(sum(output.tokens for output in outputs)),
        }
        if any(output.margin is not None for output in outputs):
            extra["margins"] = np.array([output.margin for output in outputs])
        if leads := self.leads(chosen):
            extra["leads"] = leads
        texts, numbers = [self.shown(one) for one in chosen], [int(one["row_number"]) for one in chosen]
        gold, predicted = [self.references(one) for one in chosen], [outputs[row].text for row in rows]
        return Predictions(texts, numbers, [], gold, predicted, None, extra)

    def leads(self, records: Sequence[dict[str, Any]]) -> list[str]:
        """What the baseline lead-1 says of some records; nothing where it makes no sense."""
        return []

    def answers(self, outputs: Sequence[Any], encoded: Encoded, records: Any, answers: Answers) -> list[Any]:
        return [{"generated_text": output.text or ""} for output in outputs]

    def shown(self, record: dict[str, Any]) -> str:
        return str(record["text"])


def messages_of(record: dict[str, Any]) -> list[dict[str, str]]:
    """A record's dialogue, which tables keep as JSON."""
    return json.loads(record["messages"])


def _record(records: Any, row: int) -> dict[str, Any]:
    if isinstance(records, dict):  # by column
        return {key: values[row] for key, values in records.items()}
    return records[row]
