"""Addresses: a road or an estate with a number, and what stands around it; what a label announces."""

import re
from collections.abc import Iterator

from weitiao.core.privacy.text import Span

PROVINCE = re.compile(
    r"北京|天津|上海|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|四川|贵州|云南|陕西|"
    r"甘肃|青海|台湾|内蒙古|广西|西藏|宁夏|新疆|香港|澳门"
)
NUMBER = r"[0-9A-Za-z一二三四五六七八九十百甲乙丙]{1,5}(?:-[0-9]{1,4}){0,2}"
UNIT = rf"{NUMBER}(?:号楼|号院|号|栋|幢|座|弄|单元|层|楼|室|户|房|组|铺)"
ANCHOR = re.compile(
    r"(?:(?<![线思铁网电公套半])路|大道|大街|街|巷|胡同|[东西南北中]道)(?:[东西南北中]段|[一二三四五六七八九十]段)?"
    r"[0-9]{1,5}(?:-[0-9]{1,4})?[号弄](?!线|码|机|店|牌|选手|种子|位|方|文|令|台|公告)"
    rf"|(?:小区|花园|公寓|家园|新村|社区|大厦|广场|家属院|苑|[\u4e00-\u9fff]{{2}}[府城湾庭园村里])(?:{NUMBER}期)?"
    rf"[0-9A-Z一二三四五六七八九十]{{1,4}}(?:-[0-9]{{1,4}})?(?:号楼|栋|幢|座|单元|组)"
)
TAIL = re.compile(
    rf"(?:[\u4e00-\u9fff]{{0,10}}?{UNIT})*(?:[\u4e00-\u9fff]{{0,4}}[0-9]{{3,4}}(?![0-9年月日元]))?"
)
RUN_BEFORE = re.compile(r"[\u4e00-\u9fff0-9A-Za-z]{0,30}\Z")
CUE = re.compile(
    r"(?:地址|住址|家住|住在|寄到|送到|送至|寄至|发到|寄往|位于|改成|换成|住|在|到|至|是|为|给|寄|送)"
    r"(?:是|为|在|到)?"
)
LABELLED = re.compile(
    r"(?:(?:收货|家庭|联系|居住|通讯|户籍|办公)?(?:地址|住址)|家住|住在|户籍|籍贯)(?:是|为|在|到|改成|改为|换成)?[ :]{0,3}([^，。；！？,;!?\n:]{6,60})"
)
PARTS = re.compile(r"省|市|区|县|镇|乡|村|路|街|巷|号|栋|幢|室|小区|单元|组|旗|州")
LAST_PART = re.compile(
    rf"{UNIT}(?:[0-9]{{3,4}}(?![0-9])|[0-9]+-[0-9-]+)?|省|市|区|县|镇|乡|村|路|街|巷|道|旗|州|园|苑|大厦|广场|公寓|花园"
)
ENGLISH = re.compile(
    r"(?<![0-9A-Za-z#.-])((?:[0-9]{1,6}(?:-[0-9]{1,4})?[A-Z]? (?:[NSEW]\.? |North |South |East |West )?"
    r"(?:[A-Z0-9][\w'.]* ){1,3}?"
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Way|Place|Pl|Square|Sq|Terrace|"
    r"Highway|Hwy|Parkway|Pkwy|Close|Crescent)\b\.?|P\.? ?O\.? Box [0-9]{1,6})"
    r"(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Floor|Fl|#)\.? ?[0-9A-Za-z-]{1,6})?"
    r"(?:,? [A-Z][a-z]+(?: [A-Z][a-z]+){0,2},? (?:[A-Z]{2},? )?"
    r"(?:[0-9]{5}(?:-[0-9]{4})?|[A-Z]{1,2}[0-9][0-9A-Z]? ?[0-9][A-Z]{2}))?)"
)


def address_spans(text: str) -> Iterator[Span]:
    """Chinese addresses, from the province or the word before (住在, 寄到) to the last door."""
    for anchor in ANCHOR.finditer(text):
        tail = TAIL.match(text, anchor.end())
        yield Span("address", _start(text, anchor.start()), tail.end() if tail else anchor.end())
    for match in LABELLED.finditer(text):
        ends = [part.end() for part in LAST_PART.finditer(match[1])]
        if ends and len(set(PARTS.findall(match[1][: ends[-1]]))) >= 2:
            start = match.start(1) + len(match[1]) - len(match[1].lstrip())
            yield Span("address", start, match.start(1) + ends[-1])


def _start(text: str, anchor: int) -> int:
    """Where the words before a road begin to be an address."""
    run = RUN_BEFORE.search(text, max(0, anchor - 30), anchor)
    begin = run.start() if run else anchor
    if province := PROVINCE.search(text, begin, anchor):
        return province.start()
    cues = list(CUE.finditer(text, begin, anchor))
    return min(cues[-1].end(), anchor) if cues else begin
