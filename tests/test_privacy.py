"""Personal data: found where it is, left alone where it only looks like it, and in no log."""

import importlib.util
import io
import json
import logging
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import privacy_texts
from benchmarks.privacy import COUNT, SEED, score
from weitiao.core.errors import WeitiaoError
from weitiao.core.privacy import TAGS, Masking, Span, find, mask, mask_value
from weitiao.core.privacy.logs import MaskFilter, guard_logs, mask_line


def kinds(text: str) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in find(text)]


def test_5000_generated_chinese_texts() -> None:
    """The texts know where their personal data is: they were put together from it, not searched."""
    found = score(privacy_texts.texts(COUNT, SEED), find)
    assert found["recall"] >= 0.99, found["missed"][:10]
    assert found["precision"] >= 0.98, found["wrong"][:10]
    for kind, numbers in found["kinds"].items():
        assert numbers["spans"] > 300 and numbers["recall"] >= 0.97 and numbers["precision"] >= 0.95, (
            kind,
            numbers,
        )


def test_the_score_sees_what_is_missed_and_what_is_wrong() -> None:
    gold = privacy_texts.texts(200, 1)
    nothing = score(gold, lambda text: [])
    assert nothing["recall"] == 0
    everything = score(gold, lambda text: [Span("name", 0, len(text))])
    assert everything["precision"] < 0.1
    short = score(gold, lambda text: [Span(s.kind, s.start, s.end - 1) for s in find(text)])
    assert short["recall"] == 0


@pytest.mark.parametrize(
    "text, found",
    [
        ("身份证11010119900307775X", [("id_card", "11010119900307775X")]),  # the check digit is wrong
        ("身份证号错了110101199013457", [("id_card", "110101199013457")]),  # announced: whatever its digits
        ("老身份证110101900307775", [("id_card", "110101900307775")]),
        ("１３８１２３４５６７８", [("mobile", "１３８１２３４５６７８")]),
        ("138\u200b1234\u200b5678", [("mobile", "138\u200b1234\u200b5678")]),
        ("一三八零零一三八零零零", [("mobile", "一三八零零一三八零零零")]),
        ("快递单号和电话是13812345678", [("mobile", "13812345678")]),
        ("订单号：88001，联系13812345678", [("mobile", "13812345678")]),
        ("13912345678/13812345678", [("mobile", "13912345678"), ("mobile", "13812345678")]),
        ("卡号6222021234567890123", [("bank_card", "6222021234567890123")]),  # announced: Luhn is wrong
        ("护照EA1234567，通行证C12345678", [("passport", "EA1234567"), ("passport", "C12345678")]),
        ("粤B·D12345和京AD12345", [("plate", "粤B·D12345"), ("plate", "京AD12345")]),
        ("收件人：欧阳娜娜（女）", [("name", "欧阳娜娜")]),
        ("我是张伟", [("name", "张伟")]),
        ("家住幸福小区3栋2单元501", [("address", "幸福小区3栋2单元501")]),
        ("My name is Jane O'Neil-Smith.", [("name", "Jane O'Neil-Smith")]),
        ("SSN 123-45-6789", [("ssn", "123-45-6789")]),
        (
            "call (415) 555-2671 or +44 20 7946 0958",
            [("phone", "(415) 555-2671"), ("phone", "+44 20 7946 0958")],
        ),
        ("GB82 WEST 1234 5698 7654 32", [("iban", "GB82 WEST 1234 5698 7654 32")]),
        ("Passport No. 123456789", [("passport", "123456789")]),
        ("card 4111 1111 1111 1111", [("bank_card", "4111 1111 1111 1111")]),
        (
            "12 Main Street, Apt 4, Springfield, IL 62704",
            [("address", "12 Main Street, Apt 4, Springfield, IL 62704")],
        ),
        ("jane.doe [at] example.co.uk", [("email", "jane.doe [at] example.co.uk")]),
        ("wt_abcdefgh_" + "x" * 43, [("secret", "wt_abcdefgh_" + "x" * 43)]),
        ('{"phone": 13812345678}', [("mobile", "13812345678")]),
    ],
)
def test_found(text: str, found: list[tuple[str, str]]) -> None:
    assert kinds(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "订单号13812345678", "运单号 4111111111111111", "型号G12345678", "¥13812345678", "成交13812345678元",
        "0.13812345678", "2024-11-24 13:05:12", "20240307", "1.13812345678", "SN-A-13812345678-01", "知道3号发货", "地铁3号线",
        "sha 13812345678abcdef12", "550e8400-e29b-41d4-a716-446655440000", "我是程序员", "我是高中生", "联系人：客服中心",
        "order no. 13812345678", "invoice 4111111111111111", "GB82 WEST 1234 5698 7654 33", "400-800-8888",
        "version 1.2.3 build 20241124", "1,234,567.89 USD", "4111 1111 1111 1112", "330101202413457890", "打10086", "新A款",
    ],
)  # fmt: skip
def test_left_alone(text: str) -> None:
    assert kinds(text) == []


def test_a_tag_speaks_the_text_s_language_and_keeps_the_length() -> None:
    assert mask("电话13812345678。") == "电话<手机号:11>。"
    assert mask("tel 13812345678.") == "tel <MOBILE:11>."
    assert mask("电话13812345678", lengths=False) == "电话<手机号>"
    assert len({tag for tags in TAGS.values() for tag in tags}) == 2 * len(TAGS)


def test_masking_twice_is_masking_once() -> None:
    for one in privacy_texts.texts(500, 7):
        once = mask(one.text)
        assert mask(once) == once and (not one.spans or once != one.text)


@given(st.text(alphabet=st.sampled_from("0123456789+-() .@aExX省市路号张三姓名：京·１\u200b\n"), max_size=60))
def test_any_text_gives_spans_in_order_without_overlaps(text: str) -> None:
    end = 0
    for span in find(text):
        assert end <= span.start < span.end <= len(text)
        end = span.end
    assert mask(mask(text)) == mask(text)


@pytest.mark.parametrize(
    "piece", ["a", "1", "1 ", "1-", "中", "张三路", "A1 ", "@", "a.b@", "EUR 1,", "(", "姓名", "住在", "省市"]
)
def test_no_text_takes_quadratic_time(piece: str) -> None:
    """200,000 characters: a pattern that goes back and forth would take hours."""
    mask(piece * (200_000 // len(piece)))
    mask_line(piece * (200_000 // len(piece)) + "%zz\\uzz")


def test_values_of_json_are_masked_wherever_they_stand() -> None:
    value = {
        "张": ["13812345678", 13812345678, {"13912345678": True}],
        "n": 42,
        "x": None,
        "f": 1.5,
        "id": 1700000000000,
    }
    hidden = json.dumps(mask_value(value), ensure_ascii=False)
    assert "138" not in hidden and "139" not in hidden
    assert mask_value({"n": 42, "x": None, "f": 1.5, "id": 1700000000000, "b": True}) == {
        "n": 42, "x": None, "f": 1.5, "id": 1700000000000, "b": True}  # fmt: skip


def test_presidio_is_optional_and_further_finders_give_way() -> None:
    def names(text: str) -> list[Span]:
        return [Span("PERSON", 0, 4), Span("PERSON", 5, 16)]

    assert Masking(presidio="off").mask("Jane 13812345678") == "Jane <MOBILE:11>"
    assert Masking(finders=(names,)).mask("Jane 13812345678") == "<PERSON:4> <MOBILE:11>"
    if importlib.util.find_spec("presidio_analyzer") is None:
        with pytest.raises(WeitiaoError, match="pip install presidio-analyzer"):
            Masking(presidio="on")


def test_presidio_s_finds_join_ours_where_it_is_installed() -> None:
    pytest.importorskip("presidio_analyzer")
    import spacy
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    from weitiao.core.privacy.presidio import Presidio

    class Blank(SpacyNlpEngine):
        """spaCy without a trained model: Presidio's patterns work all the same."""

        def load(self) -> None:
            self.nlp = {"en": spacy.blank("en")}

    engine = Blank(models=[{"lang_code": "en", "model_name": "blank"}])
    engine.load()
    presidio = Presidio(AnalyzerEngine(nlp_engine=engine, supported_languages=["en"]), least_score=0.4)
    text = "ip 10.20.30.40, card 4111 1111 1111 1111, tel 13812345678"
    assert (
        Masking(finders=(presidio.find,)).mask(text)
        == "ip <IP_ADDRESS:11>, card <BANK_CARD:19>, tel <MOBILE:11>"
    )


# --- logs


def canaries(count: int, seed: int = 5) -> list[str]:
    """Values of every kind that a generator knows, each unlike the others."""
    maker = privacy_texts.Maker(seed)
    kinds = ("id_card", "mobile", "bank_card", "email", "passport", "plate")
    found: dict[str, None] = {}
    while len(found) < count:
        found[getattr(maker, kinds[len(found) % len(kinds)])()] = None
    return list(found)


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger whose handler writes all that a record carries, guarded."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("weitiao.test.privacy")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    factory = logging.getLogRecordFactory()
    guard_logs()
    yield logger, stream
    logging.setLogRecordFactory(factory)
    logger.removeHandler(handler)
    for one in logging.getLogger().handlers:
        for guard in [guard for guard in one.filters if isinstance(guard, MaskFilter)]:
            one.removeFilter(guard)


def test_1000_canaries_stay_out_of_the_logs(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = log
    secrets, draw = canaries(1000), random.Random(3)
    for number, secret in enumerate(secrets):
        match number % 5:
            case 0:
                logger.info("客户说：%s，请处理", secret)
            case 1:
                logger.warning(f"row {number}: {secret}")
            case 2:
                logger.info({"text": secret, "n": number})
            case 3:
                cut = draw.randint(1, len(secret) - 1)  # joined only in the line
                logger.info("%s%s", secret[:cut], secret[cut:])
            case 4:
                try:
                    raise ValueError(f"cannot read {secret}")
                except ValueError:
                    logger.exception("failed")
    written = stream.getvalue()
    assert [secret for secret in secrets if secret in written] == []
    assert written.count("\n") > 1000 and "Traceback" in written


def test_extra_fields_stacks_and_later_handlers_are_masked(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, _ = log
    lines: list[str] = []

    class Json(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.dumps(vars(record), default=str, ensure_ascii=False) + self.format(record))

    late = Json()
    logger.addHandler(late)
    try:
        logger.info("late %s", "13812345678")
        late.addFilter(MaskFilter())
        guard_logs()
        logger.info(
            "x",
            extra={"user": {"电话": ["13812345678"]}, "object": ValueError("13812345678")},
            stack_info=True,
        )
    finally:
        logger.removeHandler(late)
    assert len(lines) == 2 and "13812345678" not in "".join(lines)


def test_the_access_log_keeps_its_shape_and_loses_the_query() -> None:
    line = ("10.0.0.1:1", "POST", "/predict/a%2013812345678?text=%E5%BC%A0%2013912345678", "1.1", 200)
    record = logging.LogRecord("uvicorn.access", 20, "", 1, '%s - "%s %s HTTP/%s" %d', line, None)
    assert MaskFilter().filter(record)
    assert record.getMessage() == '10.0.0.1:1 - "POST /predict/a <MOBILE:11> HTTP/1.1" 200'


@pytest.mark.parametrize(
    "line",
    [
        "GET http://a/predict/138%201234%205678?x=1 200",
        "POST /?q=138+1234+5678%21",
        'said {"text": "\\u5f20\\u4e09 138\\uff11\\uff12\\uff13\\uff145678"}',
        "a %E4%BA%AC%41%2DF12345 b",
    ],
)
def test_other_encodings_hide_nothing_from_the_logs(line: str) -> None:
    hidden = mask_line(line)
    assert "5678" not in hidden and "F12345" not in hidden
    assert mask_line("100%25 of \\u5f20 is left %s 50% %zz") == "100%25 of \\u5f20 is left %s 50% %zz"


def test_arguments_that_do_not_fit_lose_no_record() -> None:
    record = logging.LogRecord("a", 20, "", 1, "%d %d", ("13812345678",), None)
    assert MaskFilter().filter(record)
    assert "13812345678" not in record.getMessage() and "MOBILE" in record.getMessage()
