"""The style of a report: colours of labels by their place, dark and light, and on paper."""

from __future__ import annotations

_COLOURS = (
    "#8a97a6",
    "#3d7cc9",
    "#e8a21d",
    "#9a5fc7",
    "#2f9e8f",
    "#d64b5f",
    "#7a8f2a",
    "#c96f2b",
    "#5460a8",
    "#a34a86",
)
_LABELS = "".join(f".l{at}{{fill:{colour}}}.b{at}{{background:{colour}}}" for at, colour in enumerate(_COLOURS))
LIGHT = {
    "page": "#fff",
    "ink": "#1c2430",
    "soft": "#5b6675",
    "line": "#dde2e8",
    "card": "#f5f7f9",
    "there": "#4f8a6b",
    "absent": "#e9edf1",
    "warn": "#7a4a00",
    "warn-page": "#fff4dd",
    "curve": "#3d7cc9",
}
_CHARTS = """svg .word{fill:var(--ink)}
.grid{stroke:var(--line)}.mark{stroke:var(--ink);stroke-opacity:.55;stroke-dasharray:2 3}.dot{fill:var(--ink)}
svg .number{fill:var(--page);text-anchor:middle;font-weight:650}
.said{fill:var(--soft)}.there{fill:var(--there)}.absent{fill:var(--absent)}
.curve{fill:none;stroke:var(--curve);stroke-width:2}.area{fill:var(--curve);fill-opacity:.18}
"""
# Of the picture of a report: no variables, and fonts by name, those first that Linux machines have.
_FONTS = "'DejaVu Sans','Noto Sans','Liberation Sans','Open Sans',Ubuntu,Roboto,Arial,sans-serif"
_PICTURE = (
    f"text{{font-family:{_FONTS};font-size:11px;fill:var(--soft)}}"
    """.ink{fill:var(--ink)}.warn{fill:var(--warn)}.warn-page{fill:var(--warn-page)}.line{stroke:var(--line)}
text.title{font-size:24px;font-weight:700}text.answer{font-size:26px;font-weight:700}
.rest{font-size:15px;font-weight:400;fill:var(--soft)}
text.head{font-size:17px;font-weight:700}text.row{font-size:13px}text.small{font-size:12px}text.word{font-size:10.5px}
"""
)

CSS = (
    f":root{{color-scheme:light dark;{';'.join(f'--{name}:{colour}' for name, colour in LIGHT.items())}}}"
    """
@media (prefers-color-scheme:dark){:root{--page:#12161c;--ink:#e6eaf0;--soft:#97a3b3;--line:#2b333e;--card:#1a2028;
--there:#5fae86;--absent:#242b35;--warn:#f0cf8e;--warn-page:#2c2413;--curve:#6ea8ee}}
@media print{:root{--page:#fff;--ink:#000;--soft:#444;--line:#ccc;--card:#fff;--there:#4f8a6b;--absent:#eee;--warn:#000;
--warn-page:#fff;--curve:#3d7cc9}section,tr{break-inside:avoid}main{max-width:none}}
*{box-sizing:border-box;print-color-adjust:exact;-webkit-print-color-adjust:exact}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1040px;margin:0 auto;padding:28px 20px 40px}
h1{font-size:25px;margin:0;overflow-wrap:anywhere}h2{font-size:17px;margin:0 0 10px}
section{margin:30px 0 0}.facts,.small,footer{color:var(--soft)}.facts{margin:4px 0 12px}.small,footer{font-size:13px}
.small{margin:6px 0 0}.notice,.note{background:var(--warn-page);color:var(--warn);padding:9px 13px;border-radius:7px;
font-size:13px;margin:0;border:1px solid transparent}.note{margin-top:10px}
.answer{font-size:27px;font-weight:650;margin:0 0 10px;line-height:1.25}.answer span{font-size:15px;font-weight:400;
color:var(--soft)}
.bar{display:flex;height:22px;border-radius:6px;overflow:hidden;background:var(--absent)}.bar i{display:block}
.keys{list-style:none;display:flex;flex-wrap:wrap;gap:4px 20px;padding:0;margin:10px 0 0}.keys .none{color:var(--soft)}
.keys em{font-style:normal;font-variant-numeric:tabular-nums;font-weight:600}
b[class^=b]{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px}
.chart{overflow-x:auto}svg{display:block;width:100%;min-width:660px;height:auto}
svg text{font:11px system-ui,-apple-system,"Segoe UI",sans-serif;fill:var(--soft)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{text-align:left;padding:5px 12px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:500;color:var(--soft);font-size:13px}td:first-child,.words td:nth-child(3){white-space:nowrap}
.moments td:nth-child(-n+4){white-space:nowrap}
.words td:nth-child(2){width:100%;overflow-wrap:anywhere}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:10px 36px;margin-top:8px}
.sources{font-size:13px;color:var(--soft);padding-left:18px;margin:10px 0 0}.sources code{overflow-wrap:anywhere}
@media (max-width:640px){.moments td:nth-child(4),.moments th:nth-child(4){display:none}}
code{font:12.5px ui-monospace,monospace}footer{margin-top:36px;border-top:1px solid var(--line);padding-top:10px}
footer p{margin:6px 0}
""" + _CHARTS + _LABELS
)


def picture_css() -> str:
    """The style of a report as one picture: light."""
    text = _CHARTS + _PICTURE + _LABELS
    for name, colour in LIGHT.items():
        text = text.replace(f"var(--{name})", colour)
    return text
