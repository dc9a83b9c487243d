"""Words and numbers of a report: both languages side by side, everything from outside escaped."""

import html
import re
from collections.abc import Mapping
from typing import Any

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

SCORES = {
    "accuracy": ("Accuracy", "准确率"),
    "macro_f1": ("Macro F1", "宏平均 F1"),
    "micro_f1": ("Micro F1", "微平均 F1"),
    "weighted_f1": ("Weighted F1", "加权 F1"),
    "subset_accuracy": ("Whole set right", "标签集合全对率"),
    "f1": ("Entity F1", "实体 F1"),
    "precision": ("Precision", "精确率"),
    "recall": ("Recall", "召回率"),
    "auroc": ("AUROC", "AUROC"),
    "expected_calibration_error": ("Calibration error", "校准误差"),
    "log_loss": ("Log loss", "对数损失"),
    "spearman": ("Spearman", "Spearman 相关"),
    "pearson": ("Pearson", "Pearson 相关"),
    "mse": ("Mean squared error", "均方误差"),
    "bits_per_byte": ("Bits per byte", "比特/字节"),
    "preference_accuracy": ("Better answer likelier", "偏好准确率"),
    "perplexity": ("Perplexity", "困惑度"),
    "masked_accuracy": ("Masked accuracy", "掩码准确率"),
    "token_accuracy": ("Next-token accuracy", "下一词元准确率"),
    "pair_accuracy": ("Pair accuracy", "句对准确率"),
    "picture_top1": ("Picture of a phrase", "按短语找图"),
    "picture_top5": ("Picture among the first 5", "按短语找图（前 5）"),
    "phrase_top1": ("Phrase of a picture", "按图找短语"),
    "mean_reciprocal_rank": ("Reciprocal rank", "平均倒数排名"),
    "rouge_1": ("ROUGE-1", "ROUGE-1"),
    "rouge_2": ("ROUGE-2", "ROUGE-2"),
    "rouge_l": ("ROUGE-L", "ROUGE-L"),
    "bleu": ("BLEU", "BLEU"),
    "chrf": ("chrF", "chrF"),
    "distinct_1": ("Distinct-1", "Distinct-1"),
    "distinct_2": ("Distinct-2", "Distinct-2"),
    "log_likelihood": ("Log likelihood a token", "每词元对数似然"),
    "macro avg": ("Macro average", "宏平均"),
    "micro avg": ("Micro average", "微平均"),
    "weighted avg": ("Weighted average", "加权平均"),
}
SHARES = {
    "accuracy",
    "macro_f1",
    "micro_f1",
    "weighted_f1",
    "subset_accuracy",
    "f1",
    "precision",
    "recall",
    "picture_top1",
    "picture_top5",
    "phrase_top1",
}
SHARES |= {"masked_accuracy", "token_accuracy", "pair_accuracy"}
LOWER_IS_BETTER = {"bits_per_byte", "perplexity", "log_loss", "mse", "expected_calibration_error"}
TASKS = {
    "text_classification": ("Text classification", "文本分类"),
    "token_classification": ("Entity recognition", "实体识别"),
    "relation_extraction": ("Relation extraction", "关系抽取"),
    "text_matching": ("Text matching", "文本匹配"),
    "chat": ("Dialogue", "对话"),
    "summarization": ("Summarization", "摘要生成"),
    "text_generation": ("Text generation", "文本续写"),
    "image_classification": ("Image classification", "图片分类"),
    "image_text_matching": ("Pictures and words", "图文匹配"),
    "image_to_text": ("Answers about pictures", "看图回答"),
    "masked_lm": ("Masked language model", "掩码语言模型"),
    "causal_lm": ("Causal language model", "因果语言模型"),
}
SPLITS = {
    "test": ("test set", "测试集"),
    "validation": ("validation set", "验证集"),
    "train": ("training set", "训练集"),
    "held_out": ("held-out text", "留出文本"),
}
SLICES = {
    "length": ("length", "长度"),
    "language": ("language", "语言"),
    "digits": ("digits", "含数字"),
    "label": ("label", "标签"),
    "contains": ("contains", "包含"),
    "question": ("question", "问题"),
}
SLICE_VALUES = {
    "zh": ("Chinese", "中文"),
    "en": ("English", "英文"),
    "mixed": ("mixed", "混合"),
    "other": ("other", "其他"),
    "yes": ("yes", "是"),
    "no": ("no", "否"),
}


def escape(value: Any) -> str:
    """A value as HTML text: markup escaped, marks that no page may hold replaced."""
    return html.escape(CONTROL.sub("\ufffd", str(value)), quote=True)


def both(en: str, zh: str) -> str:
    """Two equivalent pieces of HTML, of which the page shows the one in the reader's language."""
    if en == zh:
        return en
    return f'<span class="en" lang="en">{en}</span><span class="zh" lang="zh">{zh}</span>'


def name_of(key: Any, names: Mapping[str, tuple[str, str]]) -> str:
    """What people call ``key``, in both languages; ``key`` itself where no name is known."""
    return both(*names[key]) if key in names else escape(str(key).replace("_", " "))


def number(score: str, value: float) -> str:
    """A score for people: shares in per cent with one decimal (two where little is left to 100), others with three."""
    if score not in SHARES:
        return f"{value:.3f}"
    return f"{100 * value:.2f}%" if 0.99 < value < 1 else f"{100 * value:.1f}%"


def interval(score: str, bounds: list[float] | None) -> str:
    """``70.8 – 75.9%``, or nothing where there is no interval."""
    if not bounds:
        return ""
    low, high = (number(score, bound) for bound in bounds)
    return f"{low.removesuffix('%')} – {high}"


def duration(seconds: float) -> str:
    """``8.2 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Bytes as ``1.35 GB`` (10^9), ``24 MB``, ``1.4 MB`` or ``86 kB``: small adapters differ below a megabyte."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.{2 if unit == 1e9 else 1 if count < 9.95e6 else 0}f} {name}"
    return f"{count / 1e3:.0f} kB"


def shorten(text: str, marks: int) -> str:
    """The first ``marks`` characters, with an ellipsis where some were cut; white space made plain."""
    text = " ".join(str(text).split())
    return text if len(text) <= marks else text[: marks - 1] + "…"
