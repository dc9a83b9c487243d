"""Tiny bundles for the service's tests, made without torch: a bag of embeddings under a linear head, as ONNX."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from weitiao.core.runs import atomic_folder
from weitiao.runtime.bundle import seal

WIDTH = 16
CHARACTERS = [chr(code) for code in range(33, 127) if not chr(code).isupper()] + list("物流很快包装也好差评")


def make_bundle(
    folder: Path,
    labels: tuple[str, ...] = ("bad", "good"),
    *,
    seed: int = 0,
    task: str = "text_classification",
    embedding: bool = True,
    burden: int = 0,
    **manifest: Any,
) -> Path:
    """A bundle whose weights follow from ``seed``. Replaces a bundle that is there, in one step.

    Args:
        burden: matrix products of 2 MFLOP that each text costs and nothing comes of, so that a server can be busy.
    """
    tokenizer = tiny_tokenizer()
    options = {"text_matching": {"encoder": "cross", "answer": "class"}}.get(task, {})
    token = task == "token_classification"
    with atomic_folder(folder) as new:
        tokenizer.save(str(new / "tokenizer.json"))
        onnx.save(graph(tokenizer.get_vocab_size(), len(labels), seed, token, burden), new / "model.onnx")
        whole = {
            "kind": "predictor",
            "name": folder.name,
            "task": task,
            "task_options": options,
            "answers": {"kind": "classes", "names": list(labels), "low": 0.0, "high": 1.0},
            "max_length": 64,
            "head": {"type": "token" if token else "pooled", "outputs": len(labels), "pooling": "mean"},
            "graph": {
                "file": "model.onnx",
                "precision": "fp32",
                "inputs": ["input_ids", "attention_mask"],
                "output": "outputs",
            },
        }
        if embedding:
            whole["graph"]["embedding"] = "embedding"
        seal(new, whole | manifest)
    return folder


def graph(vocabulary: int, outputs: int, seed: int, token: bool = False, burden: int = 0) -> onnx.ModelProto:
    """``outputs``: logits of the mean embedding (of each token, where ``token``); ``embedding``: that mean, unit length."""
    random = np.random.default_rng(seed)
    weights = {
        "table": random.standard_normal((vocabulary, WIDTH)).astype(np.float32),
        "head": random.standard_normal((WIDTH, outputs)).astype(np.float32),
        "last": np.array([2], np.int64),
        "one": np.array([1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "input_ids"], ["vectors"]),
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "last"], ["wide"]),
        node("Mul", ["vectors", "wide"], ["kept"]),
        node("ReduceSum", ["kept", "one"], ["sum"], keepdims=0),
        node("ReduceSum", ["mask", "one"], ["count"], keepdims=1),
        node("Div", ["sum", "count"], ["mean"]),
        node("LpNormalization", ["mean"], ["embedding"], axis=-1, p=2),
        node("MatMul", ["vectors" if token else "mean", "head"], ["logits" if burden else "outputs"]),
    ]
    if burden:
        square = random.standard_normal((1024, 1024)).astype(np.float32)
        weights |= {
            "up": square[:WIDTH],
            "square": square / 32,
            "down": np.zeros((1024, outputs), np.float32),
        }
        nodes.append(node("MatMul", ["mean", "up"], ["b0"]))
        for number in range(burden):
            nodes.append(node("MatMul", [f"b{number}", "square"], [f"a{number}"]))
            nodes.append(node("Tanh", [f"a{number}"], [f"b{number + 1}"]))
        nodes += [
            node("MatMul", [f"b{burden}", "down"], ["nothing"]),
            node("Add", ["logits", "nothing"], ["outputs"]),
        ]
    shape = ["B", "L"]
    made = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, shape)
            for name in ("input_ids", "attention_mask")
        ],
        [
            helper.make_tensor_value_info(
                "outputs", TensorProto.FLOAT, [*shape, outputs] if token else ["B", outputs]
            ),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", WIDTH]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def tiny_tokenizer() -> Tokenizer:
    """Words of characters, with ``[CLS]`` and ``[SEP]`` around a text."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *CHARACTERS, *(f"##{char}" for char in CHARACTERS)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer
