"""The page to label on: one file, in both languages, with one script of its own and nothing loaded from elsewhere."""

import base64
import hashlib
from functools import cache
from pathlib import Path

from weitiao.core.messages import language
from weitiao.reporting.style import STYLE
from weitiao.reporting.text import both

LOOK = (
    STYLE
    + """
main { max-width: 860px; }
header .soft { margin-top: 4px; }
.track { height: 6px; border-radius: 3px; background: var(--hair); margin: 18px 0 0; overflow: hidden; }
.track i { display: block; height: 100%; width: 0; background: var(--accent); transition: width .2s; }
.facts2 { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 10px 0 0; font-size: 13px; color: var(--soft); }
#text { font-size: 22px; line-height: 1.6; min-height: 3.2em; max-height: 46vh; overflow: auto; margin: 0 0 22px;
  white-space: pre-wrap; overflow-wrap: anywhere; }
#labels { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 8px; margin: 0;
  max-height: 42vh; overflow: auto; padding: 2px; }
button { font: inherit; color: var(--ink); background: var(--sheet); border: 1px solid var(--hair); border-radius: 10px;
  padding: 9px 12px; text-align: left; cursor: pointer; display: flex; gap: 10px; align-items: baseline;
  overflow-wrap: anywhere; min-width: 0; }
button:hover:not(:disabled) { border-color: var(--accent); background: var(--wash); }
button:focus-visible, input:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
button:disabled { opacity: .45; cursor: default; }
button.guess { border-color: var(--accent); }
kbd { font: 600 12px ui-monospace, "SF Mono", Menlo, Consolas, monospace; color: var(--soft); min-width: 1em;
  text-align: center; }
.row2 { display: flex; gap: 8px; margin-top: 18px; flex-wrap: wrap; }
input { font: inherit; color: var(--ink); background: var(--paper); border: 1px solid var(--hair); border-radius: 10px;
  padding: 8px 12px; min-width: 0; }
#note { flex: 1 1 240px; }
#find { width: 100%; margin-bottom: 12px; }
#said { min-height: 1.6em; margin: 14px 0 0; font-size: 14px; color: var(--soft); }
#said.bad { color: #b3261e; font-weight: 600; }
[hidden] { display: none !important; }
@media (prefers-color-scheme: dark) { #said.bad { color: #ff8a80; } }
@media (max-width: 820px) { #text { font-size: 19px; } #labels { grid-template-columns: 1fr 1fr; } }
"""
)


@cache
def script() -> str:
    """The page's script, a file of its own beside this one."""
    return Path(__file__).with_name("page.js").read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    "Content-Security-Policy": "; ".join([
        "default-src 'none'",
        f"script-src {_hash(script())}",
        f"style-src {_hash(LOOK)}",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}  # fmt: skip


def page() -> str:
    """The page as HTML; it holds no text of the table, which its script asks for."""
    tongue = language()
    radios = "".join(
        f'<input type="radio" name="tongue" class="tongue" id="{each}"{" checked" if each == tongue else ""}>'
        for each in ("zh", "en")
    )
    toggle = '<div class="toggle"><label for="zh">中文</label><label for="en">English</label></div>'
    keys = both(
        "Keys: the mark on a label · S pass · U undo · N note · / find a label",
        "按键：标签上的字符 · S 跳过 · U 撤销 · N 备注 · / 查找标签",
    )
    buttons = "".join(
        f'<button type="button" id="{name}"><kbd>{key}</kbd><span>{both(en, zh)}</span></button>'
        for name, key, en, zh in (("pass", "S", "Pass", "跳过"), ("undo", "U", "Undo", "撤销"))
    )
    check = both("Someone else has labelled this text too.", "另一位标注者也标注过这条文本。")
    return f"""<!doctype html>
<html lang="{tongue}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Weitiao · 标注</title><style>{LOOK}</style></head>
<body>{radios}<main>
<header><div><div class="brand">微调 Weitiao</div><h1>{both("Label texts", "标注文本")}</h1>
<div class="soft" id="who"></div></div>{toggle}</header>
<div class="track"><i id="bar"></i></div><div class="facts2" id="facts"></div>
<section><p class="hint" id="check" hidden>{check}</p><div id="text" aria-live="polite"></div>
<input id="find" hidden autocomplete="off" spellcheck="false"><div id="labels"></div>
<div class="row2"><input id="note" maxlength="2000" autocomplete="off">{buttons}</div>
<p id="said" role="status"></p></section>
<footer>{keys}</footer></main><script>{script()}</script></body></html>
"""
