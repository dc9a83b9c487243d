"""The card of a bundle: what it is, how to use it, what it cost, and the certificate, in both languages."""

from collections.abc import Mapping
from typing import Any


def bundle_card(
    manifest: Mapping[str, Any], certificate: Mapping[str, Any], sizes: Mapping[str, int], table: str = ""
) -> str:
    """``README.md`` of a bundle.

    Args:
        sizes: bytes by file name.
        table: what a compression measured, as a Markdown table; the forms then need not be the trained model.
    """
    name, base = manifest["name"], manifest.get("base", {}).get("name", "")
    answers = manifest["answers"]
    names = ", ".join(answers["names"][:20]) + (" ..." if len(answers["names"]) > 20 else "")
    whole = sum(sizes.values()) / 1e6
    steps = " + ".join(entry["step"] for entry in manifest["recipe"])
    compression = [f"## Compression / 压缩: {steps}", "", table, ""]
    lines = [
        f"# {name}",
        "",
        f"A Weitiao bundle: predicts without torch. Task `{manifest['task']}`, from `{base}`, {whole:.1f} MB, "
        f"texts up to {manifest['max_length']} tokens.",
        "",
        f"Weitiao（微调）部署包：无需 torch 即可预测。任务 `{manifest['task']}`，基座 `{base}`，{whole:.1f} MB，"
        f"文本最长 {manifest['max_length']} 个词元。",
        "",
        *([f"Labels / 标签：{names}", ""] if names else []),
        "```",
        f'weitiao predict {name} "..."',
        "```",
        "",
        *(compression if table else []),
        "## Certificate / 一致性证书",
        "",
        *(_compressed(certificate) if table else _exact(certificate)),
        "",
        "| form / 形式 | against / 对照 | largest difference / 最大差异 | same decisions / 判定一致 "
        "| changed rows / 改变的行 |",
        "|---|---|---|---|---|",
    ]
    for entry in certificate["compared"]:
        changed = ", ".join(str(one["row"]) for one in entry["changed"][:20])
        more = " ..." if len(entry["changed"]) > 20 else ""
        lines.append(
            f"| {entry['name']} | {entry['against']} | {entry['largest_difference']:.2g} "
            f"| {100 * entry['agreement']:.2f} % | {changed}{more} |"
        )
    return "\n".join([*lines, ""])


def _exact(certificate: Mapping[str, Any]) -> list[str]:
    rows, tolerance = certificate["rows"], certificate["tolerance"]
    return [
        f"{rows} held-out rows went through each form of the model; what must agree may differ by {tolerance:g} and "
        "has to decide the same.",
        "",
        f"{rows} 条留出数据经过模型的每种形式；必须一致者，输出相差不得超过 {tolerance:g}，且判定须相同。",
    ]


def _compressed(certificate: Mapping[str, Any]) -> list[str]:
    """What compression cost, in decisions: those of the form in fp32 that comes first."""
    rows = certificate["rows"]
    graph = next(entry for entry in certificate["compared"] if entry["name"].endswith(" fp32"))
    same = f"{100 * graph['agreement']:.2f} %"
    return [
        f"The compressed model decides as the trained one on {same} of {rows} held-out rows, which no step has seen; "
        "compression may cost some. The HTTP service has to decide as the compressed graph on every row.",
        "",
        f"在各步骤均未见过的 {rows} 条留出数据上，压缩后的模型与训练模型的判定一致率为 {same}；压缩可能改变少量判定。"
        "HTTP 服务必须与压缩后的计算图在每一条上判定相同。",
    ]
