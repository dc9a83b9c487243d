"""Formulas for a page, as MathML: browsers set it without a script or a font of its own."""

from collections.abc import Sequence

GAP = '<mspace width="3em"/>'  # between two formulas on a line


def block(*parts: str) -> str:
    """A formula on lines of its own."""
    return f'<math display="block"><mrow>{"".join(parts)}</mrow></math>'


def name(letters: str) -> str:
    """A variable; a word stands upright."""
    return f"<mi>{letters}</mi>" if len(letters) == 1 else f'<mi mathvariant="normal">{letters}</mi>'


def sign(mark: str) -> str:
    """An operator or a bracket."""
    return f"<mo>{mark}</mo>"


def number(value: float | str) -> str:
    """A number."""
    return f"<mn>{value}</mn>"


def row(*parts: str) -> str:
    """Parts side by side that count as one."""
    return f"<mrow>{''.join(parts)}</mrow>"


def sub(base: str, below: str) -> str:
    """An index."""
    return f"<msub>{base}{below}</msub>"


def power(base: str, above: str) -> str:
    """A power."""
    return f"<msup>{base}{above}</msup>"


def fraction(above: str, below: str) -> str:
    """A fraction."""
    return f"<mfrac>{above}{below}</mfrac>"


def total(below: str) -> str:
    """A sum over something."""
    return f"<munder><mo>∑</mo>{below}</munder>"


def _minus_log(*inside: str) -> str:
    return row(sign("−"), name("log"), *inside)


def softmax() -> str:
    """p_k = e^z_k / sum_j e^z_j."""
    z = [power(name("e"), sub(name("z"), name(k))) for k in "kj"]
    return block(sub(name("p"), name("k")), sign("="), fraction(z[0], row(total(name("j")), z[1])))


def cross_entropy() -> str:
    """L = -log p_y, and its gradient p_k - [k = y]."""
    loss = row(name("L"), sign("="), _minus_log(sub(name("p"), name("y"))))
    by = fraction(row(sign("∂"), name("L")), row(sign("∂"), sub(name("z"), name("k"))))
    truth = row(sign("["), name("k"), sign("="), name("y"), sign("]"))
    return block(loss, GAP, by, sign("="), sub(name("p"), name("k")), sign("−"), truth)


def pooled_head() -> str:
    """z = W (1/T sum_t h_t) + b."""
    mean = row(fraction(number(1), name("T")), total(name("t")), sub(name("h"), name("t")))
    return block(name("z"), sign("="), name("W"), sign("·"), mean, sign("+"), name("b"))


def low_rank() -> str:
    """y = W x + (alpha / r) B A x."""
    scale = fraction(name("α"), name("r"))
    return block(
        *(name(x) for x in "y"), sign("="), name("W"), name("x"), sign("+"), scale, *(name(x) for x in "BAx")
    )


def bridge() -> str:
    """h = P(f), L = -sum_t log p(a_t | q, h, a_1 .. a_(t-1))."""
    before = sub(name("a"), row(sign("&lt;"), name("t")))
    given = row(sub(name("a"), name("t")), sign("|"), name("q"), sign(","), name("h"), sign(","), before)
    loss = row(
        name("L"), sign("="), sign("−"), total(name("t")), name("log"), name("p"), sign("("), given, sign(")")
    )
    prefix = row(name("h"), sign("="), name("P"), sign("("), name("f"), sign(")"))
    return block(prefix, GAP, loss)


def causal_lm() -> str:
    """L = -1/T sum_t log p(x_t | x_(<t)), and bits per byte."""
    earlier = sub(name("x"), row(sign("&lt;"), name("t")))
    p = row(name("p"), sign("("), sub(name("x"), name("t")), sign("|"), earlier, sign(")"))
    loss = row(
        name("L"), sign("="), sign("−"), fraction(number(1), name("T")), total(name("t")), name("log"), p
    )
    bits = row(
        _words("bits per byte", "每字节比特"),
        sign("="),
        fraction(row(name("L"), sign("·"), name("T")), _per_byte()),
    )
    return block(loss, GAP, bits)


def masked_lm() -> str:
    """L = -1/|M| sum_(t in M) log p(x_t | x without M)."""
    rest = sub(name("x"), row(sign("∖"), name("M")))
    p = row(name("p"), sign("("), sub(name("x"), name("t")), sign("|"), rest, sign(")"))
    share = fraction(number(1), row(sign("|"), name("M"), sign("|")))
    return block(
        name("L"), sign("="), sign("−"), share, total(row(name("t"), sign("∈"), name("M"))), name("log"), p
    )


def temperature() -> str:
    """p_k = e^(z_k / tau) / sum_j e^(z_j / tau)."""
    z = [power(name("e"), row(sub(name("z"), name(k)), sign("/"), name("τ"))) for k in "kj"]
    return block(sub(name("p"), name("k")), sign("="), fraction(z[0], row(total(name("j")), z[1])))


def answers_only() -> str:
    """L = -1/|A| sum_(t in A) log p(x_t | x_(<t))."""
    earlier = sub(name("x"), row(sign("&lt;"), name("t")))
    p = row(name("p"), sign("("), sub(name("x"), name("t")), sign("|"), earlier, sign(")"))
    share = fraction(number(1), row(sign("|"), name("A"), sign("|")))
    return block(
        name("L"), sign("="), sign("−"), share, total(row(name("t"), sign("∈"), name("A"))), name("log"), p
    )


def _per_byte() -> str:
    return row(name("log"), number(2), sign("·"), _words("bytes", "字节数"))


def _words(en: str, zh: str) -> str:
    """Words in a formula, in the language that the page shows."""
    return f'<mtext class="en">{en}</mtext><mtext class="zh">{zh}</mtext>'


FORMULAS: dict[str, Sequence[str]] = {
    "mnist": (softmax(), cross_entropy()),
    "pretraining": (causal_lm(), masked_lm()),
    "finetuning": (pooled_head(),),
    "efficient": (low_rank(),),
    "bridge": (bridge(),),
    "generation": (answers_only(), temperature()),
}
