"""Chinese texts with personal data and with what only looks like it; where each lies is known by construction.

Made without a look at the detector: every value is built from the rules of who issues it (GB 11643, ISO/IEC 7812,
the numbering plans), written in the ways people write it, and set into sentences.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

# Lines like those of shops, banks and hotlines; {} takes a value. The first list announces it, the second does not.
ANNOUNCED = {
    "id_card": ["我的身份证号是{}", "身份证：{}", "证件号码 {}", "实名信息：身份证号{}", "办卡人证件号为{}"],
    "mobile": [
        "手机号{}",
        "我的电话是{}",
        "联系方式：{}",
        "请拨打{}找我",
        "手机：{}",
        "回电{}",
        "微信同号{}",
        "加我微信{}",
    ],
    "landline": ["座机{}", "办公室电话：{}", "家里固定电话{}", "传真是{}"],
    "bank_card": ["卡号{}", "银行卡号：{}", "请退到我的储蓄卡{}", "打款账号是{}", "建行卡 {}"],
    "email": ["邮箱{}", "发到{}就行", "E-mail：{}", "电子邮件地址是{}"],
    "passport": ["护照号{}", "护照：{}", "护照号码是{}"],
    "plate": ["车牌号{}", "我的车是{}", "车牌：{}", "停车场里那辆{}是我的"],
    "address": ["收货地址：{}", "我家住在{}", "请寄到{}", "快递送到{}", "住址是{}", "地址改成{}"],
    "name": ["姓名：{}", "收件人：{}", "联系人{}", "我叫{}", "收货人是{}", "持卡人姓名 {}"],
}
BARE = {
    "id_card": ["{}麻烦核实一下", "资料发你了 {}", "就是{}这个", "（{}）"],
    "mobile": ["{}随时打", "有问题找我{}", "王经理{}", "{}", "发短信给{}也行", "（{}）"],
    "landline": ["打{}没人接", "{}转前台", "可以打到{}"],
    "bank_card": ["钱打到{}", "{}这张卡", "余额不足 {}"],
    "email": ["{}", "抄送{}", "资料发{}，谢谢"],
    "passport": ["订票用{}", "出境证件{}"],
    "plate": ["{}挡住我了", "请{}挪一下车", "{}超速"],
    "address": ["{}，放门卫就好", "派送员到{}没找到我"],
    "name": ["客户姓名：{}", "寄件人：{}"],
}
FILLER = ["你好", "麻烦尽快处理", "这件衣服质量不错", "物流太慢了", "谢谢", "什么时候发货", "退款还没到账", "服务态度很好",
          "尺码偏小", "希望给个说法", "已经等了三天", "屏幕有划痕", "客服一直不回复", "下次还会再来"]  # fmt: skip
SURNAMES = [
    *"王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘蒋蔡余杜叶程苏魏吕丁任沈姚卢",
    "欧阳",
    "诸葛",
    "上官",
]
GIVEN = list(
    "伟芳娜敏静强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉萍红飞玲丽文波斌宇浩凯健俊帆雪倩婷欣怡梓涵子轩思远若曦"
)
REGIONS = [
    "110105",
    "310115",
    "440305",
    "330106",
    "510107",
    "420102",
    "320105",
    "610103",
    "210202",
    "500112",
    "370203",
    "650102",
]
PLACES = [("北京市", "朝阳区", "建国路"), ("上海市", "浦东新区", "张杨路"), ("广东省深圳市", "南山区", "科技园南路"),
          ("浙江省杭州市", "西湖区", "文一西路"), ("四川省成都市", "武侯区", "人民南路"), ("江苏省南京市", "鼓楼区", "中山北路"),
          ("湖北省武汉市", "洪山区", "珞喻路"), ("陕西省西安市", "雁塔区", "科技二路"), ("", "海淀区", "学院路"),
          ("天津市", "河西区", "友谊大街"), ("", "", "解放大道"), ("福建省厦门市", "思明区", "湖滨南街")]  # fmt: skip
ESTATES = ["幸福家园", "阳光小区", "翠湖花园", "金地公寓", "万科新村"]


@dataclass(frozen=True)
class Gold:
    """A text, and its personal data as ``(kind, start, end)``."""

    text: str
    spans: tuple[tuple[str, int, int], ...]


class Maker:
    """Values and texts from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self) -> Gold:
        """A message of one to five sentences: personal data, look-alikes and small talk in any order."""
        draw = self.random
        kinds = draw.choices(list(ANNOUNCED), k=draw.choice((0, 1, 1, 2, 2, 3)))
        parts = [self.personal(kind) for kind in kinds]
        parts += [(self.look_alike(), "", "") for _ in range(draw.choice((0, 1, 1, 2)))]
        parts += [(draw.choice(FILLER), "", "") for _ in range(draw.choice((0, 1, 2)))]
        draw.shuffle(parts)
        text, spans = "", []
        for place, (sentence, kind, value) in enumerate(parts):
            text += draw.choice(("，", "，", "。", "；", "\n", " ", ", ")) if place else ""
            if kind:
                start = len(text) + sentence.index("{}")
                spans.append((kind, start, start + len(value)))
                sentence = sentence.replace("{}", value)
            text += sentence
        return Gold(text or draw.choice(FILLER), tuple(spans))

    def personal(self, kind: str) -> tuple[str, str, str]:
        """A sentence with ``{}``, the kind, and a value of it."""
        sentences = ANNOUNCED[kind] if self.random.random() < 0.6 else BARE[kind]
        return self.random.choice(sentences), kind, getattr(self, kind)()

    def number(self, length: int, first: str = "0123456789") -> str:
        """Random digits."""
        return self.random.choice(first) + "".join(self.random.choices("0123456789", k=length - 1))

    def day(self, first_year: int, last_year: int) -> str:
        """A date, YYYYMMDD."""
        draw = self.random
        return f"{draw.randint(first_year, last_year)}{draw.randint(1, 12):02}{draw.randint(1, 28):02}"

    def id_card(self) -> str:
        """18 digits, a quarter of them with a wrong check digit; or the old 15; sometimes with spaces, full width."""
        draw, region = self.random, self.random.choice(REGIONS)
        if draw.random() < 0.12:
            return region + self.day(1940, 1998)[2:] + self.number(3)
        body = region + self.day(1940, 2012) + self.number(3)
        weights = [2 ** (17 - place) % 11 for place in range(17)]
        right = "10X98765432"[
            sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True)) % 11
        ]
        last = draw.choice("0123456789X".replace(right, "")) if draw.random() < 0.25 else right
        card = body + (last.lower() if draw.random() < 0.2 else last)
        style = draw.random()
        if style < 0.1:
            return f"{card[:6]} {card[6:14]} {card[14:]}"
        return wide(card) if style < 0.16 else card

    def mobile(self) -> str:
        """A mobile number, bare or grouped by spaces, dashes or dots, with the country code or not, or full width."""
        draw = self.random
        number = draw.choice(
            (
                "130",
                "135",
                "138",
                "139",
                "147",
                "150",
                "152",
                "159",
                "166",
                "173",
                "177",
                "186",
                "188",
                "198",
                "199",
            )
        )
        number += self.number(8)
        gap = draw.choice(("", "", "", " ", "-", " ", "."))
        number = gap.join((number[:3], number[3:7], number[7:]))
        number = draw.choice(("", "", "", "", "+86", "+86 ", "86-", "+86-", "(+86)", "0086 ")) + number
        return wide(number) if draw.random() < 0.07 else number

    def landline(self) -> str:
        """An area code and seven or eight digits, sometimes an extension."""
        draw = self.random
        area, length = draw.choice(
            (
                ("010", 8),
                ("021", 8),
                ("0755", 8),
                ("0571", 8),
                ("028", 8),
                ("0512", 8),
                ("0931", 7),
                ("0472", 7),
            )
        )
        number = self.number(length, "234568")
        number = draw.choice(
            (
                f"{area}-{number}",
                f"({area}){number}",
                f"（{area}）{number}",
                f"{area} {number}",
                area + number,
            )
        )
        return number + (draw.choice(("转", "-")) + self.number(3) if draw.random() < 0.15 else "")

    def bank_card(self) -> str:
        """16 or 19 digits of a known bank that pass Luhn, bare or in fours."""
        draw = self.random
        prefix, length = draw.choice((("622202", 19), ("621700", 19), ("622848", 19), ("622588", 16), ("625965", 16), ("436742", 19),
                                      ("456351", 19), ("552599", 16), ("356880", 16)))  # fmt: skip
        body = prefix + self.number(length - 1 - len(prefix))
        total = sum(
            int(digit) if place % 2 else sum(divmod(2 * int(digit), 10))
            for place, digit in enumerate(reversed(body))
        )
        card = body + str(-total % 10)
        gap = draw.choice(("", "", " ", " ", "-"))
        return gap.join(card[start : start + 4] for start in range(0, length, 4))

    def email(self) -> str:
        """An address at a mail provider or a company."""
        draw = self.random
        user = draw.choice(("zhangwei", "li.na", "wang_xm", "chen-j", "liu")) + draw.choice(
            ("", self.number(3), self.number(6))
        )
        user = self.number(9, "123456789") if draw.random() < 0.3 else user
        at = "＠" if draw.random() < 0.05 else "@"
        return (
            user
            + at
            + draw.choice(
                ("qq.com", "163.com", "126.com", "gmail.com", "mail.tsinghua.edu.cn", "foxmail.com")
            )
        )

    def passport(self) -> str:
        """The forms of ordinary passports."""
        return self.random.choice(
            (
                "E" + self.number(8),
                "G" + self.number(8),
                f"E{self.random.choice('ABCDEFGHJK')}{self.number(7)}",
            )
        )

    def plate(self) -> str:
        """Five characters after the city, or six with a new-energy car's letter."""
        draw = self.random
        start = draw.choice("京津沪渝冀豫云辽黑湘皖鲁苏浙赣鄂桂甘晋蒙陕吉闽贵粤川宁琼") + draw.choice(
            "ABCDEFGH"
        )
        start += draw.choice(("", "", "·", " ", "-"))
        if draw.random() < 0.3:
            letter = draw.choice("DF")
            return start + draw.choice(
                (
                    letter + self.number(5),
                    letter + draw.choice("ABCGHJ") + self.number(4),
                    self.number(5) + letter,
                )
            )
        tail = list(self.number(5))
        for place in draw.sample(range(5), draw.choice((0, 1, 2))):
            tail[place] = draw.choice("ABCDEFGHJKLMNPQRSTUVWXYZ")
        return start + "".join(tail)

    def address(self) -> str:
        """Province to door, or a part of it."""
        draw = self.random
        city, district, road = draw.choice(PLACES)
        text = f"{city}{district}{road}{draw.randint(1, 999)}号"
        if draw.random() < 0.6:
            text += (
                draw.choice(("", draw.choice(ESTATES)))
                + f"{draw.randint(1, 30)}{draw.choice(('号楼', '栋', '幢'))}"
            )
            text += draw.choice(("", f"{draw.randint(1, 6)}单元")) + f"{draw.randint(101, 3204)}室"
        return text

    def name(self) -> str:
        """A surname and a given name of one or two characters; sometimes a Uyghur or Kazakh name."""
        if self.random.random() < 0.04:
            return self.random.choice(("阿卜杜拉·买买提", "古丽娜尔·艾山", "迪丽热巴·吐尔逊"))
        return self.random.choice(SURNAMES) + "".join(
            self.random.choices(GIVEN, k=self.random.choice((1, 2, 2)))
        )

    def look_alike(self) -> str:
        """A sentence with a number or words that are nobody's."""
        draw, number = self.random, self.number
        month, day = draw.randint(1, 12), draw.randint(1, 28)
        makers: list[Callable[[], str]] = [
            lambda: (
                f"订单号{draw.choice(('', '：', '是', ': '))}{number(draw.choice((10, 11, 12, 15, 16, 18, 19)), '123456789')}"
            ),
            lambda: f"订单编号：1{draw.choice('3578')}{number(9)}",
            lambda: f"快递单号{draw.choice(('SF', 'YT', 'JD', 'ZTO'))}{number(13)}",
            lambda: f"运单号：{number(draw.choice((12, 13, 14, 15)), '234567')}",
            lambda: f"商品编号 {number(draw.choice((8, 10, 11, 13)), '16')}",
            lambda: f"条形码69{number(11)}",
            lambda: f"{draw.randint(2015, 2026)}年{month}月{day}日下单",
            lambda: (
                f"{draw.randint(2015, 2026)}-{month:02}-{day:02} {draw.randint(0, 23):02}:{draw.randint(0, 59):02}:08 提交的"
            ),
            lambda: f"日期{self.day(2015, 2026)}",
            lambda: f"价格{draw.choice(('¥', '￥', ''))}{draw.randint(10, 99999)}.{number(2)}元",
            lambda: f"成交额{number(draw.choice((9, 11, 12)), '123')}元",
            lambda: f"时间戳{draw.choice(('17', '16'))}{number(draw.choice((8, 11)))}",
            lambda: f"型号{draw.choice('GEXT')}{number(draw.choice((3, 5, 8)))}",
            lambda: f"货号{draw.choice('ABM')}-{number(6)}",
            lambda: f"客服热线{draw.choice(('400-', '800-'))}{number(3)}-{number(4)}",
            lambda: f"打{draw.choice(('10086', '95588', '12306', '12315', '110'))}也没用",
            lambda: f"服务器IP是{'.'.join(str(draw.randint(1, 254)) for _ in range(4))}",
            lambda: f"版本{draw.randint(1, 9)}.{draw.randint(0, 20)}.{draw.randint(0, 9999)}",
            lambda: f"书号978-7-{number(3)}-{number(5)}-{number(1)}",
            lambda: f"坐标{draw.randint(73, 135)}.{number(6)},{draw.randint(3, 53)}.{number(6)}",
            lambda: f"校验值{''.join(draw.choices('0123456789abcdef', k=40))}",
            lambda: f"坐地铁{draw.randint(1, 20)}号线到{draw.choice(('人民路', '中山路', '解放路'))}站",
            lambda: f"第{draw.randint(1, 99)}号窗口",
            lambda: f"发票号码{number(8)}，税号91{number(6)}MA{number(8)}",
            lambda: f"尺寸{draw.randint(10, 300)}x{draw.randint(10, 300)}x{draw.randint(10, 300)}毫米",
            lambda: f"重量{draw.randint(1, 50)}.{number(2)}公斤",
            lambda: f"比例{draw.randint(1, 99)}.{number(8)}%",
            lambda: f"圆周率3.{number(11)}",
            lambda: f"会员编号{number(9)}",
            lambda: f"关注@{draw.choice(('小米手机', '人民日报', 'weitiao'))}的微博",
            lambda: f"联系人{draw.choice(('是谁', '请填写完整', '不能为空', '信息有误'))}",
            lambda: draw.choice(
                (
                    "姓名不能为空",
                    "地址填错了怎么改",
                    "收货地址请写清楚",
                    "京东自营很快",
                    "新A款更好看",
                    "我是常客了",
                )
            ),
            lambda: draw.choice(
                (
                    "北京到上海多少钱",
                    "杭州市西湖区发货吗",
                    "人民路附近有店吗",
                    "知道3号发货吗",
                    "国道5号公路堵车",
                )
            ),
        ]
        return draw.choice(makers)()


def wide(text: str) -> str:
    """Full-width digits and signs."""
    return "".join(chr(ord(mark) + 0xFEE0) if "!" <= mark <= "~" else mark for mark in text)


def texts(count: int, seed: int) -> list[Gold]:
    """So many texts from a seed."""
    maker = Maker(seed)
    return [maker.text() for _ in range(count)]
