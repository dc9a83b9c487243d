"""A language model as a bundle that writes without torch, with a certificate that it still is the same model."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weitiao.core.config import make_member
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ResultEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_folder, read_json, write_json
from weitiao.stages._decoder_parity import compare, make_certificate, refuse_bad, summary
from weitiao.tasks._prompts import ends_of, template_of

DESCRIPTION = "weitiao.json"


def find_decoder(source: str) -> Path | None:
    """The folder of a language model: a folder, one inside a run's, or a known name. None: it is something else.

    Raises:
        WeitiaoError: a name that cannot be fetched.
    """
    from weitiao.models.known import KNOWN, resolve_model

    for folder in (Path(source), Path(source) / "model"):
        if (folder / "config.json").is_file():
            return folder if is_decoder(folder) else None
    known = {*KNOWN, *(one.hub_id for one in KNOWN.values())}
    if Path(source).exists() or source not in known:
        return None
    folder = resolve_model(source).path
    return folder if is_decoder(folder) else None


def is_decoder(folder: Path) -> bool:
    """Whether a model's folder says that it is a causal language model."""
    ours = folder / "weitiao.json"
    if ours.is_file() and read_json(ours)["head"]["pooling"] == "next":
        return False  # it classifies
    config = read_json(folder / "config.json")
    names = config.get("architectures") if isinstance(config, dict) else None
    return any(str(name).endswith("ForCausalLM") for name in names or [])


def read_texts(path: str) -> list[str]:
    """The paragraphs of a text file in UTF-8; none for no path.

    Raises:
        WeitiaoError: it cannot be read, or there is no text in it.
    """
    if not path:
        return []
    try:
        texts = [part.strip() for part in Path(path).read_text(encoding="utf-8").split("\n\n")]
    except (OSError, ValueError) as error:
        raise WeitiaoError(
            say(f"{path} is no text in UTF-8: {error}", f"{path} 不是 UTF-8 文本：{error}")
        ) from None
    if not any(texts):
        raise WeitiaoError(say(f"{path} holds no text", f"{path} 中没有文本"))
    return [text for text in texts if text]


def export_decoder(
    source: Path, output: Path, *, name: str, bits: int = 32, texts: Sequence[str] = ()
) -> Iterator[Event]:
    """Write the bundle; compare; keep it only if the comparison holds.

    Args:
        source: the model's folder.
        output: the bundle's folder, replaced if it is there.
        name: what the model is called.
        bits: of a weight: 4, 8, 16 or 32.
        texts: to measure perplexity on; without any, what the model itself writes.

    Raises:
        WeitiaoError: an architecture that is not exported, or a comparison beyond the tolerance.
    """
    from weitiao.models.decoder_graph import BITS, Weights, write_decoder
    from weitiao.models.known import check_folder
    from weitiao.runtime.bundle import Bundle, seal
    from weitiao.runtime.decoder import Decoder

    if bits not in BITS:
        choices = ", ".join(map(str, BITS))
        raise WeitiaoError(say(f"bits is {bits}; choose one of {choices}", f"bits 为 {bits}，可选 {choices}"))
    check_folder(source)
    config = read_json(source / "config.json")
    with atomic_folder(output) as new:
        yield NoteEvent(say(f"Writing the graph, {bits} bits", f"正在写入计算图（{bits} 位）"))
        graph = write_decoder(Weights(source), config, new / "model.onnx", bits)
        described = _manifest(source, config, name, graph)
        _copy_tokenizer(source, new)
        decoder = Decoder(Bundle(new, described, ""))
        yield NoteEvent(say("Comparing with transformers", "正在与 transformers 比较"))
        compared = compare(decoder, source, texts)
        decoder.close()
        certificate = make_certificate(compared, bits, bool(texts))
        refuse_bad(certificate, bits)
        write_json(new / "certificate.json", certificate)
        step = {"before": {"perplexity": certificate["perplexity"]["before"]}}
        step |= {"after": {"perplexity": certificate["perplexity"]["after"]}}
        recipe = [] if bits == 32 else [{"step": graph["precision"], "bits": bits, **step}]
        (new / "README.md").write_text(_card(described, certificate, bits), encoding="utf-8")
        seal(new, described | {"recipe": recipe})
    yield NoteEvent(summary(certificate))
    yield ResultEvent(str(output), {"certificate": certificate})


def _manifest(source: Path, config: dict[str, Any], name: str, graph: dict[str, Any]) -> dict[str, Any]:
    from weitiao.models.llama import cache_shape

    return {
        "kind": "decoder",
        "name": name,
        "max_length": config["max_position_embeddings"],
        "graph": graph,
        "cache": cache_shape(config),
        "vocabulary_size": config["vocab_size"],
        "chat_template": _template(source),
        "eos_token_ids": ends_of(source),
        "base": {"model": name, "model_type": config["model_type"]},
        "recipe": [],
    }


def _template(source: Path) -> dict[str, Any] | None:
    """The chat template's fixed texts; None where there is none of that kind: texts can still be continued."""
    try:
        return template_of(source)
    except WeitiaoError:
        return None


@contextmanager
def merged(run: str) -> Iterator[Path]:
    """The folder of a run's whole language model, for a while: an adapter is merged into its base.

    Raises:
        WeitiaoError: what was tuned cannot be merged.
    """
    from weitiao.stages._predictor import Run

    trained = Run(run)
    description = trained.description
    tuning = make_member("tuning", description["tuning"], description["tuning_options"])
    tuning.merge(trained.model)
    with tempfile.TemporaryDirectory(prefix="weitiao-") as name:
        trained.model.backbone.save(Path(name))
        for path in trained.model_folder.iterdir():
            if path.suffix in (".json", ".jinja") and path.name not in (DESCRIPTION, "adapter_config.json"):
                shutil.copy(path, name)
        yield Path(name)


def is_adapter(run: str) -> bool:
    """Whether a run holds a language model as an adapter over its base."""
    folder = Path(run) / "model" if (Path(run) / "model").is_dir() else Path(run)
    if not (folder / DESCRIPTION).is_file() or (folder / "config.json").is_file():
        return False
    from weitiao.models.saving import read_description

    return read_description(folder)["head"]["type"] == "language"


def _copy_tokenizer(source: Path, new: Path) -> None:
    """``tokenizer.json`` as it is, or made by ``transformers`` from older files."""
    path = source / "tokenizer.json"
    if path.is_file():
        (new / "tokenizer.json").write_bytes(path.read_bytes())
        return
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(source).backend_tokenizer.save(str(new / "tokenizer.json"), pretty=False)


def _card(described: dict[str, Any], certificate: dict[str, Any], bits: int) -> str:
    perplexity = certificate["perplexity"]
    lines = [
        f"# {described['name']}",
        "",
        f"A language model ({described['base']['model_type']}) as a Weitiao bundle: {bits} bits a weight, "
        f"{described['max_length']:,} tokens of context. It needs numpy, onnxruntime and tokenizers.",
        "",
        "```python",
        "from weitiao.runtime import load",
        "",
        'for piece in load("FOLDER").stream("Once upon a time", max_new_tokens=50):',
        '    print(piece, end="", flush=True)',
        "```",
        "",
        "## Compared with transformers in float32",
        "",
        "| what | value |",
        "|---|---|",
        f"| largest difference of a logit | {certificate['largest_logit_difference']:.3g} |",
        f"| same greedy tokens | {certificate['same_tokens']} of {certificate['tokens']} |",
        f"| perplexity before, after | {perplexity['before']:.3f}, {perplexity['after']:.3f} "
        f"({perplexity['tokens']:,} tokens, texts {perplexity['texts']}) |",
        "",
    ]
    return "\n".join(lines)
