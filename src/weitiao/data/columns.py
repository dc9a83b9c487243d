"""Which column of a table holds what: found by name, or given by the user."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weitiao.core.errors import WeitiaoError, nearest, unknown_name
from weitiao.core.messages import say


@dataclass(frozen=True)
class Column:
    """What a task wants of a table: a role, and the column names that usually play it (first match wins)."""

    role: str
    aliases: tuple[str, ...]
    required: bool = True
    help: str = ""
    nullable: bool = False  # a cell may hold nothing


TEXT_NAMES = (
    "text", "sentence", "review", "content", "title", "query", "utterance", "comment", "document", "question",
    "文本", "句子", "评论", "评价", "内容", "正文", "标题", "新闻", "问题", "语句",
)  # fmt: skip
LABEL_NAMES = (
    "label", "labels", "category", "class", "intent", "sentiment", "topic", "relation", "target", "rating",
    "标签", "类别", "分类", "类型", "情感", "正负面", "意图", "主题",
)  # fmt: skip
TEXT = Column("text", TEXT_NAMES, help="the text")
LABEL = Column("label", LABEL_NAMES, help="the label; a list of labels where several can be true")
CLASSIFICATION = (TEXT, LABEL)
GROUP = "group"  # the role of a column that no task reads: which group an example is of
PAIRS = (
    Column(
        "text_a",
        ("text_a", "a", "sentence1", "sentence_1", "sentence_a", "text1", "text_1", "question1", "query1",
         "premise", "query", "句子1", "句子a", "文本1", "文本a", "问题1"),
        help="the first text of the pair",
    ),
    Column(
        "text_b",
        ("text_b", "b", "sentence2", "sentence_2", "sentence_b", "text2", "text_2", "question2", "query2",
         "hypothesis", "document", "句子2", "句子b", "文本2", "文本b", "问题2"),
        help="the second text of the pair",
    ),
    Column(
        "label",
        ("label", "labels", "score", "similarity", "similarity_score", "is_duplicate", "gold_label",
         "标签", "相似度", "得分", "分数"),
        help="the class of the pair, or its similarity as a number",
    ),
)  # fmt: skip
RELATIONS = (
    TEXT,
    Column("head", ("head", "subject", "subj", "entity1", "e1", "头实体", "实体1", "主语", "主体"),
           required=False, help="the first entity; not needed where the text marks it, <e1>so</e1>"),
    Column("tail", ("tail", "object", "obj", "entity2", "e2", "尾实体", "实体2", "宾语", "客体"),
           required=False, help="the second entity; not needed where the text marks it, <e2>so</e2>"),
    Column("label", ("relation", "predicate", "label", "关系", "关系类型", "标签"), help="the relation"),
)  # fmt: skip
IMAGES = (
    Column("image", ("image", "img", "picture", "photo", "file", "path", "filename", "图片", "图像", "照片", "文件", "路径"),
           help="the picture: its path, or the bytes of its file"),
    LABEL,
)  # fmt: skip
CAPTIONS = (
    IMAGES[0],
    Column("text", ("text", "caption", "description", "en", "english", "name", "title", "label",
                    "文本", "说明", "描述", "标题", "名称", "英文"),
           help="what the picture shows, in words"),
    Column("text_b", ("text_b", "caption_zh", "zh", "chinese", "name_zh", "caption_b", "中文", "中文说明", "中文名称"),
           required=False, nullable=True, help="the same in another language"),
)  # fmt: skip
PICTURE_QUESTIONS = (
    IMAGES[0],
    Column("image_b", ("image_b", "image2", "image_2", "second_image", "图片2", "第二张图片"), required=False,
           nullable=True, help="a second picture that the question is about too"),
    Column("question", ("question", "query", "ask", "prompt", "instruction", "问题", "提问"), required=False,
           nullable=True, help="what is asked of the picture"),
    Column("label", ("answer", "response", "label", "caption", "text", "答案", "回答", "标签"), help="the answer, in words"),
)  # fmt: skip
TOKENS = (
    TEXT,
    Column("spans", ("spans", "slots", "entities", "label", "labels", "实体", "标注"), help="the entities"),
)
# Parts of the token formats that readers turn into a text and its spans.
TOKEN_NAMES, TAG_NAMES = ("tokens", "words"), ("tags", "ner_tags")
SPLIT_NAMES = ("split", "数据集")
_SPLIT = re.compile(
    r"(?:(?P<train>train|training|训练集?)|(?P<validation>dev|valid|validation|validate|val|eval|验证集?|开发集?)"
    r"|(?P<test>test|测试集?))(?:-\d+-of-\d+)?"
)
_SPLIT_AT_END = re.compile(r"(?:.*[^a-z])?" + _SPLIT.pattern, re.DOTALL)

KNOWN_NAMES = frozenset(
    name
    for columns in (CLASSIFICATION, PAIRS, RELATIONS, TOKENS, IMAGES)
    for column in columns
    for name in (column.role, *column.aliases)
) | frozenset((*TOKEN_NAMES, *TAG_NAMES, *SPLIT_NAMES))

_POSITIONAL = re.compile(r"column_\d+")


def split_name(name: str, at_end: bool = False) -> str:
    """``train``, ``validation`` or ``test`` for a usual name of it (``at_end``: ending so), else ""."""
    found = (_SPLIT_AT_END if at_end else _SPLIT).fullmatch(name.strip().lower())
    return next((split for split, text in found.groupdict().items() if text), "") if found else ""


def clean(name: str) -> str:
    """A column name as it is compared: no byte order mark, no space around it, no case."""
    return name.replace("\ufeff", "").strip().casefold()


def match(name: str, names: Sequence[str]) -> str | None:
    """The one of ``names`` that is ``name``, exactly or else when both are cleaned."""
    if name in names:
        return name
    return next((column for column in names if clean(column) == clean(name)), None)


def check_column(name: str, names: Sequence[str], file: str) -> str:
    """The table's own spelling of a column the user named.

    Raises:
        WeitiaoError: there is no such column; the message lists those there are.
    """
    found = match(name, names)
    if found is None:
        close = nearest(name, names)
        hint = say(f" Did you mean '{close}'?", f"是不是“{close}”？") if close else ""
        raise WeitiaoError(
            say(
                f"{file} has no column '{name}'.{hint} Its columns: ",
                f"{file} 没有列“{name}”。{hint}它的列有：",
            )
            + ", ".join(names)
        )
    return found


def find_columns(
    names: Sequence[str],
    wanted: Sequence[Column],
    given: Mapping[str, str] | None,
    file: str,
    lengths: Sequence[float] | None = None,
) -> dict[str, str]:
    """The column of each role: the one given, else the first alias there is.

    Args:
        names: the table's columns.
        wanted: the roles; those not required may be missing from the answer.
        given: role -> column, from the user.
        file: the table's name, for messages.
        lengths: mean characters of each column, where the table has no header: then required roles are taken
            by position if there are as many columns as roles, and of a text and a label the longer is the
            text.

    Raises:
        WeitiaoError: a given column or role does not exist, or a required role has no column.
    """
    given = dict(given or {})
    roles = [column.role for column in wanted]
    for role in given:
        if role not in roles:
            raise unknown_name(say("column role", "列角色"), role, roles)
    found = {role: check_column(name, names, file) for role, name in given.items()}
    free = [name for name in names if name not in found.values()]
    for column in wanted:
        name = next((hit for alias in column.aliases if (hit := match(alias, free)) is not None), None)
        if column.role not in found and name is not None:
            found[column.role] = name
            free.remove(name)
    missing = [column for column in wanted if column.required and column.role not in found]
    if missing and lengths is not None and all(_POSITIONAL.fullmatch(name) for name in names):
        found |= _by_position(
            free, [column.role for column in missing], dict(zip(names, lengths, strict=True))
        )
        missing = [column for column in missing if column.role not in found]
    if missing:
        raise _no_column(missing[0], names, file)
    return {role: found[role] for role in roles if role in found}


def _by_position(free: list[str], roles: list[str], lengths: Mapping[str, float]) -> dict[str, str]:
    if len(free) != len(roles):
        return {}
    if set(roles) == {"text", "label"}:
        text = max(free, key=lambda name: lengths[name])
        return {"text": text, "label": next(name for name in free if name != text)}
    return dict(zip(roles, free, strict=True))


def _no_column(column: Column, names: Sequence[str], file: str) -> WeitiaoError:
    looked, there = ", ".join(column.aliases[:6]), ", ".join(names)
    return WeitiaoError(
        say(
            f"{file} has no column for '{column.role}' (looked for {looked}, ...). Its columns: {there}. "
            f"Say which one it is: {column.role}=<column>",
            f"{file} 里找不到“{column.role}”对应的列（找过 {looked} 等）。它的列有：{there}。"
            f"请指明：{column.role}=<列名>",
        )
    )
