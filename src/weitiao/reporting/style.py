"""The look of a report: one accent colour, light and dark, wide and narrow, nothing loaded from elsewhere."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfbf9; --sheet: #ffffff; --ink: #1d2327; --soft: #5d676d; --hair: #e4e6e3;
  --accent: #0f766e; --wash: #0f766e1f; --over: #ffffff; --quiet: #c9cfcc;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181a; --sheet: #1b2023; --ink: #e8ebe9; --soft: #98a3a6; --hair: #2d3437;
    --accent: #4fc7b7; --wash: #4fc7b72b; --over: #0d1413; --quiet: #465053;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink); font-size: 15px; line-height: 1.6;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "PingFang SC",
    "Hiragino Sans GB", "Microsoft YaHei", "Noto Sans CJK SC", "Noto Sans SC", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1120px; margin: 0 auto; padding: 40px 32px 72px; }
.tongue { position: absolute; opacity: 0; pointer-events: none; }
#zh:checked ~ main .en, #en:checked ~ main .zh { display: none; }
.toggle { display: flex; gap: 2px; font-size: 13px; }
.toggle label { padding: 3px 11px; border-radius: 99px; cursor: pointer; color: var(--soft); }
#zh:checked ~ main label[for=zh],
#en:checked ~ main label[for=en] { background: var(--wash); color: var(--accent); }
#zh:focus-visible ~ main label[for=zh],
#en:focus-visible ~ main label[for=en] { outline: 2px solid var(--accent); }
header { display: flex; justify-content: space-between; align-items: flex-start; gap: 24px; }
h1 { font-size: 26px; line-height: 1.3; font-weight: 650; margin: 2px 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 17px; font-weight: 650; margin: 0 0 4px; }
h2 + .facts { margin-top: 12px; }
h3 { font-size: 13px; font-weight: 600; margin: 0 0 8px; color: var(--soft); }
p { margin: 0 0 12px; }
.brand { color: var(--accent); font-size: 13px; font-weight: 600; letter-spacing: .04em; }
.soft, .hint { color: var(--soft); }
.hint { font-size: 13px; max-width: 72ch; margin-bottom: 18px; }
section { background: var(--sheet); border: 1px solid var(--hair); border-radius: 14px; padding: 26px 30px;
  margin-top: 20px; min-width: 0; }
.two { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 20px; }
.two > section { margin-top: 20px; }
.inside { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 36px; }
.wide { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 1.7fr); gap: 40px; }
.hero { display: grid; grid-template-columns: minmax(0, 1.25fr) minmax(0, 1fr); gap: 48px;
  align-items: center; padding: 32px 34px; }
.big { font-size: 68px; line-height: 1.05; font-weight: 680; letter-spacing: -.03em; color: var(--accent); }
.beside { font-size: 15px; color: var(--soft); margin: 6px 0 8px; }
.beside b { color: var(--ink); font-weight: 600; }
.tiles { display: grid; grid-template-columns: 1fr 1fr; gap: 22px 28px; margin: 0; }
.tiles dt, .facts dt { color: var(--soft); font-size: 13px; }
.tiles dd { margin: 0; font-size: 23px; font-weight: 620; line-height: 1.35; }
.tiles small { display: block; font-size: 12.5px; font-weight: 400; color: var(--soft); }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 5px 20px; margin: 0;
  font-size: 14px; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: right; font-weight: 500; font-size: 12.5px; color: var(--soft);
  padding: 0 0 8px 14px; white-space: nowrap; }
td { text-align: right; padding: 6px 0 6px 14px; border-top: 1px solid var(--hair); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal;
  overflow-wrap: anywhere; }
tr.sum td { color: var(--soft); }
tr:not(.sum) + tr.sum td { border-top: 2px solid var(--hair); }
.bar { width: 34%; min-width: 90px; }
.bar i { display: block; height: 8px; border-radius: 4px; background: var(--wash); overflow: hidden; }
.bar i i { background: var(--accent); }
.scroll { overflow-x: auto; }
ol.errors, ul.plain { list-style: none; margin: 0; padding: 0; }
ol.errors li { display: grid; grid-template-columns: 52px minmax(0, 1fr) minmax(0, 340px); gap: 6px 20px;
  padding: 11px 0; border-top: 1px solid var(--hair); font-size: 14px; }
ol.errors li:first-child { border-top: 0; }
ol.errors .row { color: var(--soft); font-size: 12.5px; line-height: 1.8; }
ol.errors .words { overflow-wrap: anywhere; }
ol.errors .answer { font-size: 13px; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: 18px 14px; }
.pictures figure { margin: 0; font-size: 12.5px; line-height: 1.5; overflow-wrap: anywhere; }
.pictures img { width: 100%; max-width: 128px; image-rendering: pixelated; border-radius: 8px; display: block; }
.pictures .row { color: var(--soft); }
.answer em { font-style: normal; color: var(--soft); }
.answer b { font-weight: 600; }
ul.plain li { padding: 5px 0; border-top: 1px solid var(--hair); font-size: 14px; display: flex;
  justify-content: space-between; gap: 16px; }
ul.plain li:first-child { border-top: 0; }
ul.plain span { overflow-wrap: anywhere; }
ul.plain .n { color: var(--soft); white-space: nowrap; }
math[display=block] { font-size: 17px; margin: 12px 0 16px; }
.note { border-left: 3px solid var(--accent); padding: 2px 0 2px 14px; margin: 14px 0 0; font-size: 14px; }
details > summary { cursor: pointer; color: var(--accent); font-size: 13.5px; padding: 10px 0 6px; }
footer { color: var(--soft); font-size: 12.5px; margin-top: 28px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg.square { max-width: 440px; }
svg.matrix { max-width: 720px; min-width: 420px; margin: 0 auto; }
svg.whisk { width: 200px; display: inline-block; vertical-align: middle; }
svg text { font-size: 12px; fill: var(--ink); }
svg .axis, svg .label { fill: var(--soft); }
svg .axis { font-size: 11.5px; }
svg .strong { font-weight: 600; fill: var(--accent); }
svg .grid { stroke: var(--hair); }
svg .line { fill: none; stroke: var(--accent); stroke-width: 2.2; stroke-linejoin: round;
  stroke-linecap: round; }
svg .faint { fill: none; stroke: var(--quiet); stroke-width: 1; }
svg .dot { fill: var(--accent); }
svg .mark { fill: var(--accent); stroke: var(--sheet); stroke-width: 2; }
svg .rail { stroke: var(--hair); stroke-width: 6; stroke-linecap: round; }
svg .rail.thin { stroke-width: 2; }
svg .railed { stroke: var(--accent); stroke-width: 6; stroke-linecap: round; opacity: .55; }
svg .band { fill: var(--accent); opacity: .28; }
svg .whisker { stroke: var(--accent); stroke-width: 6; stroke-linecap: round; opacity: .3; }
svg .tick { stroke: var(--soft); stroke-width: 1.6; }
svg .level { fill: none; stroke: var(--ink); stroke-opacity: .5; stroke-dasharray: 4 4; }
svg .diagonal { stroke: var(--ink); stroke-opacity: .7; stroke-dasharray: 4 4; }
svg .fill { fill: var(--accent); fill-opacity: .75; }
svg .quiet { fill: var(--quiet); }
svg .empty { fill: var(--hair); fill-opacity: .45; }
svg .hit { fill: var(--accent); }
svg .miss { fill: var(--ink); }
svg .over { fill: var(--over); font-size: 11.5px; }
svg .count { font-size: 11.5px; }
@media (max-width: 820px) {
  main { padding: 22px 14px 48px; }
  section, .hero { padding: 20px 18px; border-radius: 12px; }
  .two, .inside, .wide, .hero { grid-template-columns: minmax(0, 1fr); gap: 22px; }
  .two { gap: 0; }
  .big { font-size: 52px; }
  .bar { min-width: 48px; width: 22%; }
  ol.errors li { grid-template-columns: 40px minmax(0, 1fr); }
  ol.errors .answer { grid-column: 2; }
  svg.whisk { width: 104px; }
  th, td { padding-left: 9px; }
}
@media print { body { background: #fff; } section { break-inside: avoid; } .toggle { display: none; } }
"""
