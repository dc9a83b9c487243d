"""A label for a text: two, many, or several at once / 文本分类：二分类、多分类、多标签."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from weitiao.core.config import option
from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.messages import say
from weitiao.data.cloze import MASK, check_template, mask_token, prompts, word_ids
from weitiao.data.columns import CLASSIFICATION
from weitiao.data.encode import Encoded, Ragged, encode_texts, uncut_length
from weitiao.data.knowledge import Knowledge, as_content, read_knowledge
from weitiao.evaluation.base import Predictions
from weitiao.tasks.base import Answers, Task, class_targets, label_of, ranked, sigmoid, softmax, text_of


@dataclass
class TextClassification(Task):
    """Pooled hidden state -> linear -> softmax, or a sigmoid a label."""

    multi_label: bool = option(
        False, "a text can have several labels, or none", "一条文本可有多个标签，也可没有"
    )
    label_separator: str = option(
        "|",
        "what separates the labels in a cell, with --multi-label",
        "单元格内多个标签的分隔符（配合 --multi-label）",
    )
    template: str = option(
        "",
        "ask a language model's own head instead: a prompt with {text} and a gap, '{text} It was {mask}.'",
        "改由语言模型自己的头作答：含 {text} 与空格 {mask} 的提示模板，如“{text}总之很{mask}。”",
    )
    verbaliser: dict[str, str] = option(
        {},
        "words for the gap by class, positive=good|great,negative=bad (default: the classes' names)",
        "各类别在空格处的词：正面=好|棒,负面=差（默认用类别名）",
    )
    lexicon: str = option(
        "",
        "table of words and their categories: those in a text are written before it",
        "词典（词与类别）：文本中出现的词及其类别会写在文本之前",
    )
    triples: str = option(
        "",
        "table of triples (head, relation, tail): what is known of a text's words is written before it",
        "三元组表（头实体、关系、尾实体）：关于文本中实体的知识会写在文本之前",
    )
    knowledge_as: str = option(
        "text",
        "how a model learns what the tables know: as text, or as learned embeddings added to those of the words",
        "词典与三元组的知识如何交给模型：写成文本，或作为可学习的向量加到相应词的词向量上",
        choices=("text", "embeddings"),
    )
    known_words: int = option(
        8, "how many words of a text are looked up at most", "每条文本最多查找几个词", least=1, most=100
    )
    top: int = option(1, "how many labels to return for a text", "每条文本返回几个标签", least=1)

    name = "text_classification"
    columns = CLASSIFICATION

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        record: dict[str, Any] = {"text": text_of(row)}
        if "label" in row:
            value = row["label"]
            if self.multi_label:
                parts = value if isinstance(value, list) else str(value or "").split(self.label_separator)
                record["label"] = sorted({str(part).strip() for part in parts if str(part).strip()})
            elif isinstance(value, list):
                way = say("it is a list: pass --multi-label", "这是一个列表：请加上 --multi-label")
                raise BadRow("label", way)
            else:
                record["label"] = label_of(row)
        return record

    @cached_property
    def _knowledge(self) -> Knowledge | None:
        return read_knowledge(self.lexicon, self.triples) if self.lexicon or self.triples else None

    @property
    def embeds_knowledge(self) -> bool:
        """Whether the model has learned embeddings for what the user's tables know."""
        return self.knowledge_as == "embeddings" and bool(self.lexicon or self.triples)

    @property
    def _embedded(self) -> Knowledge | None:
        """The user's tables, where they are not written into the text."""
        return self._knowledge if self.embeds_knowledge else None

    def _known(self, text: str) -> str:
        """The text as the model reads it: what the user's tables know of its words stands first, never cut off."""
        known = None if self.embeds_knowledge else self._knowledge
        note = known.note(text, self.known_words) if known else ""
        return f"[{note}] {text}" if note else text

    def carried(self) -> dict[str, Any]:
        tables = (("lexicon", self.lexicon), ("triples", self.triples))
        return {name: as_content(value, name) for name, value in tables if value}

    def learn(self, records: Any) -> Answers:
        labels = records["label"]
        if self.multi_label:
            return Answers("labels", sorted({name for label in labels for name in label}))
        return Answers("classes", sorted(set(labels)))

    def encode_rows(
        self, rows: list[dict[str, Any]], tokenizer: Any, max_length: int, answers: Answers | None
    ) -> Encoded:
        if self.template:
            return self._cloze(rows, tokenizer, max_length, answers)
        tables = self._embedded
        texts = [self._known(row["text"]) for row in rows]
        encodings = list(encode_texts(tokenizer, texts, max_length, offsets=tables is not None))
        encoded = Encoded(
            Ragged.of(e.ids for e in encodings), uncut=np.array([uncut_length(e) for e in encodings])
        )
        if tables is not None:
            offsets = (np.array(e.offsets, np.int64).reshape(-1, 2) for e in encodings)
            pairs = zip(texts, offsets, strict=True)
            encoded.known = Ragged.of(tables.marks(t, o, self.known_words).ravel() for t, o in pairs)
        if answers is not None:
            encoded.targets = self._targets(rows, answers)
        return encoded

    def _cloze(
        self, rows: list[dict[str, Any]], tokenizer: Any, max_length: int, answers: Answers | None
    ) -> Encoded:
        found = list(
            prompts(tokenizer, (self._known(row["text"]) for row in rows), self.template, max_length)
        )
        return Encoded(
            Ragged.of(ids for ids, _, _ in found),
            self._targets(rows, answers) if answers is not None else None,
            marks=np.array([[gap] for _, gap, _ in found], np.int64).reshape(-1, 1),
            uncut=np.array([length for _, _, length in found], np.int64),
        )

    def check(self, answers: Answers, tokenizer: Any) -> None:
        if not self.template:
            return
        if self._embedded:
            raise WeitiaoError(
                say(
                    "--knowledge-as embeddings cannot go with --template: take --knowledge-as text",
                    "--knowledge-as embeddings 不能与 --template 同用：请改用 --knowledge-as text",
                )
            )
        check_template(self.template)
        if answers.kind != "classes":
            raise WeitiaoError(
                say("--template cannot go with --multi-label", "--template 不能与 --multi-label 同用")
            )
        if MASK in self.template:
            mask_token(tokenizer)
        word_ids(tokenizer, self.verbaliser, answers.names, self.template)

    def check_encoded(self, encoded: Encoded, records: Any, max_length: int) -> list[Any]:
        if encoded.known is not None and not len(encoded.known.values):
            raise WeitiaoError(
                say(
                    "No word of --lexicon or --triples is in the training texts: there is nothing to learn of them",
                    "训练文本中没有出现 --lexicon 或 --triples 里的任何词，无从学习",
                )
            )
        return super().check_encoded(encoded, records, max_length)

    def start(self, head: Any, beside: Any, backbone: Any, tokenizer: Any, answers: Answers) -> None:
        if self._embedded:
            from weitiao.models.words import check_width

            check_width(backbone)
        if not self.template:
            return super().start(head, beside, backbone, tokenizer, answers)
        from weitiao.models.cloze import start_cloze, start_next

        words = word_ids(tokenizer, self.verbaliser, answers.names, self.template)
        if MASK in self.template:
            start_cloze(head, beside, backbone.embeddings.word_embeddings.weight, words)
        else:
            start_next(head, backbone.output_VD, words)

    def backbone(self, source: Any, dropout: float | None) -> Any:
        from weitiao.models.backbone import open_backbone

        writes = bool(self.template) and MASK not in self.template
        return open_backbone(source.path, dropout, causal=writes)

    def _targets(self, rows: list[dict[str, Any]], answers: Answers) -> np.ndarray:
        if answers.kind == "classes":
            return class_targets(rows, answers)
        number = {name: i for i, name in enumerate(answers.names)}
        targets = np.zeros((len(rows), len(number)), np.int64)
        for i, row in enumerate(rows):
            targets[i, [number[name] for name in row["label"]]] = 1
        return targets

    def head(self, answers: Answers, pooling: str) -> dict[str, Any]:
        if self.template and MASK not in self.template:
            return {"type": "marker", "outputs": len(answers.names), "pooling": "next", "marks": 1}
        if self.template:
            return {"type": "cloze", "outputs": len(answers.names), "pooling": "gap"}
        kind = {"type": "pooled", "outputs": len(answers.names), "pooling": pooling}
        return kind | {"known": len(self._embedded.kinds)} if self._embedded else kind

    def predictions(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> Predictions:
        logits = np.stack(outputs)
        if answers.kind == "labels":
            probabilities = sigmoid(logits)
            predicted: Any = (probabilities > 0.5).astype(np.int64)
        else:
            probabilities = softmax(logits)
            predicted = logits.argmax(1)
        gold = encoded.targets
        return Predictions(
            records["text"], records["row_number"], answers.names, gold, predicted, probabilities
        )

    def answers(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> list[Any]:
        if answers.kind == "labels":
            found = []
            for p in (sigmoid(logits) for logits in outputs):
                found.append(
                    [{"label": answers.names[i], "score": float(p[i])} for i in np.argsort(-p) if p[i] > 0.5]
                )
            return found
        return [ranked(softmax(logits), answers.names, self.top) for logits in outputs]
