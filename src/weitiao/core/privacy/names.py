"""Names of people after a label: 姓名：张三丰, 联系人李娜, 我叫王小明; "my name is Jane Doe"."""

import re
from collections.abc import Iterator

from weitiao.core.privacy.text import Span

SINGLE = frozenset(
    "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦尤许何吕施张孔曹严华金魏陶姜戚谢邹喻柏水窦章云苏潘葛奚范彭郎鲁韦昌马苗凤花方俞"
    "任袁柳酆鲍史唐费廉岑薛雷贺倪汤滕殷罗毕郝邬安常乐于时傅皮卞齐康伍余元卜顾孟平黄穆萧尹姚邵湛汪祁毛禹狄米贝明臧计伏"
    "成戴谈宋茅庞熊纪舒屈项祝董梁杜阮蓝闵席季麻强贾路娄危江童颜郭梅盛林刁钟徐邱骆高夏蔡田樊胡凌霍虞万支柯昝管卢莫经房裘"
    "缪干解应宗丁宣邓郁单杭洪包诸左石崔吉龚程嵇邢裴陆荣翁荀羊惠甄曲封储靳段焦巴牧隗谷车侯宓蓬全班仰秋仲伊宫宁仇栾甘厉戎祖"
    "武符刘景詹束龙叶幸司黎薄印宿白蒲邰从鄂索赖卓蔺屠蒙池乔阴胥能苍双闻莘党翟谭贡劳逄姬申扶堵冉宰郦雍桑桂濮牛寿通边扈燕"
    "冀浦尚农温别庄晏柴瞿阎充慕连茹习艾鱼容向古易慎戈廖庾终暨居衡步都耿满弘匡国文寇广禄阙东欧殳沃利蔚越夔隆师巩厍聂晁勾敖"
    "融冷訾辛阚那简饶空曾毋沙乜养鞠须丰巢关蒯相查后荆红游竺权逯盖益桓公仉督岳帅缑亢况郈有琴归海晋楚闫法汝鄢涂钦商牟佘佴伯"
    "赏墨哈谯笪年爱阳佟言福肖覃邝亓苟佐丘仝代付冼危卿原司鹿覃"
)
DOUBLE = [
    "欧阳",
    "司马",
    "上官",
    "诸葛",
    "夏侯",
    "东方",
    "皇甫",
    "尉迟",
    "公孙",
    "慕容",
    "令狐",
    "宇文",
    "长孙",
    "司徒",
    "司空",
    "端木",
    "百里",
    "呼延",
    "轩辕",
    "南宫",
    "西门",
    "独孤",
    "申屠",
    "太史",
]
LABEL = re.compile(
    r"(?:姓 ?名|联系人|收件人|收货人|寄件人|发件人|开户人|户名|持卡人|经办人|申请人|投保人|被保险人|法人代表|法定代表人|入住人|取件人|真实姓名|"
    r"我叫|名叫|叫做|名字(?:是|叫)|(?P<weak>本人|我是|患者|车主|乘客|负责人|法人|签名))"
    r"(?P<colon> ?(?:是|为|叫)? ?[:=]? ?)"
)
MINORITY = re.compile(r"[\u4e00-\u9fff]{1,8}(?:[·•・][\u4e00-\u9fff]{1,8}){1,3}")
RUN = re.compile(r"[\u4e00-\u9fff]{0,12}")
FOLLOWS = re.compile(
    r"电话|手机|联系|地址|身份|住[在址]|的(?=[\u4e00-\u9fff])|性别|邮箱|生日|在[\u4e00-\u9fff]|是[\u4e00-\u9fff]|和[\u4e00-\u9fff]|"
    r"与[\u4e00-\u9fff]|请|您|你|我|先生|女士|小姐|同学|老师|经理|要[\u4e00-\u9fff]|想[\u4e00-\u9fff]|办理|已|于[\u4e00-\u9fff]|"
    r"从[\u4e00-\u9fff]|到[\u4e00-\u9fff]|证件|车牌|护照|邮编|银行|开户|卡号|收|因|将|申请|来自|出生|今年|男|女|微信|单位|公司"
)
SURELY_FOLLOWS = re.compile(
    r"电话|手机|联系|地址|身份|住[在址]|性别|邮箱|先生|女士|因[\u4e00-\u9fff]|将|申请|今年|现|愿"
)
NO_NAMES = re.compile(
    r"高[中级铁三一二]|程序|黄金|金[卡牌额融]|常[客见规]|明[天明年]|路[人过]|公[司民务共]|经[理常过销济]|国[内外家人]|有[人点些的]|时[间]|"
    r"全[部国家]|白[领天]|能[不]|通[过知]|平[台时]|广[东西州告]|东[北]|海[外南]|文[件员]|利[息]|解[决]|应[该届]|安[全卓]|"
    r"方[便法]|单[位身亲]|管[理]|计[划算]|商[家户]|法[人律定]|师[傅]|别[人的]|从[事来]|相[关]|关[于注]|后[来面查]|"
    r"通[话信]|薄[看里就中上]|查[询找看]|项[目]|越来|平板|华为|水军|强迫|白[买送花]|颜值|路易|幸福|时[很候速有就]|言[论]|年[轻]|和[你他她]"
)


def name_spans(text: str) -> Iterator[Span]:
    """Chinese names after a label. After a label that often precedes other words, more must fit."""
    for label in LABEL.finditer(text):
        start = label.end()
        if minority := MINORITY.match(text, start):
            yield Span("name", start, minority.end())
            continue
        run = RUN.match(text, start)
        assert run is not None  # it may be empty
        end = start + _length(run[0])
        if end == start or NO_NAMES.match(text, start):
            continue
        ends_here = end == run.end()
        if text[end - 1] in "的了吗呢着们时里吧" or (
            label["weak"] and text[end - 1] in "粉迷控人员军症党族客者"
        ):
            continue
        weak = label["weak"] and not any(mark in label["colon"] for mark in ":=")
        if not weak or ends_here or SURELY_FOLLOWS.match(text, end):
            yield Span("name", start, end)


def _length(run: str) -> int:
    """How many of a run of Chinese characters are a name that it begins with: 0, or 2 to 4."""
    surname = 2 if run[:2] in DOUBLE else 1 if run[:1] in SINGLE else 0
    if not surname or len(run) == surname:
        return 0
    if len(run) == surname + 1 or FOLLOWS.match(run, surname + 1):
        return surname + 1
    return surname + 2


ENGLISH_LABEL = re.compile(
    r"(?:\b[Mm]y name is|\b[Ii] am called|\b(?:[Nn]ame|[Cc]ontact|[Rr]ecipient|[Cc]ustomer|[Pp]atient|[Cc]ardholder|"
    r"[Aa]pplicant|[Ss]igned|[Aa]ttn)\b ?[:=]|\b(?:Mr|Mrs|Ms|Dr|Prof)\.?(?= [A-Z])) ?"
    r"((?:(?:O')?[A-Z][a-z]+(?:['-][A-Z]?[a-z]+)*|[A-Z]\.)"
    r"(?: (?:(?:O')?[A-Z][a-z]+(?:['-][A-Z]?[a-z]+)*|[A-Z]\.|van|de|von)){0,3})"
)
