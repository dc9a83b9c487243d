"""The card of a bundle: what it is, how to use it, and the certificate, in both languages."""

from collections.abc import Mapping
from typing import Any


def bundle_card(manifest: Mapping[str, Any], certificate: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """``README.md`` of a bundle.

    Args:
        sizes: bytes by file name.
    """
    name, base = manifest["name"], manifest.get("base", {}).get("name", "")
    answers = manifest["answers"]
    names = ", ".join(answers["names"][:20]) + (" ..." if len(answers["names"]) > 20 else "")
    whole = sum(sizes.values()) / 1e6
    rows, tolerance = certificate["rows"], certificate["tolerance"]
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
        "## Certificate / 一致性证书",
        "",
        f"{rows} held-out rows went through each form of the model; what must agree may differ by {tolerance:g} and "
        "has to decide the same.",
        "",
        f"{rows} 条留出数据经过模型的每种形式；必须一致者，输出相差不得超过 {tolerance:g}，且判定须相同。",
        "",
        "| form / 形式 | largest difference / 最大差异 | same decisions / 判定一致 | changed rows / 改变的行 |",
        "|---|---|---|---|",
    ]
    for entry in certificate["compared"]:
        changed = ", ".join(str(one["row"]) for one in entry["changed"][:20])
        more = " ..." if len(entry["changed"]) > 20 else ""
        lines.append(
            f"| {entry['name']} | {entry['largest_difference']:.2g} | {100 * entry['agreement']:.2f} % "
            f"| {changed}{more} |"
        )
    return "\n".join([*lines, ""])
