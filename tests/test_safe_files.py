"""Files and folders from strangers: refused with one clear line, nothing run, nothing crashed."""

import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from served import make_bundle

from weitiao.cli import main
from weitiao.core.errors import WeitiaoError
from weitiao.core.safe_files import check_onnx, open_tokenizer, read_safe_json, read_safetensors_header
from weitiao.models.known import check_folder
from weitiao.runtime.bundle import MANIFEST, SEAL, open_bundle, seal

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones(4, np.int64),
    "c": np.zeros((0, 3), np.float16),
}
SAFE = safetensors.numpy.save(TENSORS, {"format": "pt"})
LENGTH = struct.unpack("<Q", SAFE[:8])[0]
HEADER, DATA = json.loads(SAFE[8 : 8 + LENGTH]), SAFE[8 + LENGTH :]
Harm = Callable[[Path], Any]


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def bomb(folder: Path) -> bytes:
    return pickle.dumps(Bomb(folder.parent / "ran"))


def packed(header: Any, data: bytes = DATA) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_entry(**changes: Any) -> bytes:
    return packed({**HEADER, "a": {**HEADER["a"], **changes}})


# --- safetensors

BAD_TENSORS: dict[str, bytes] = {
    "empty": b"",
    "7 bytes": SAFE[:7],
    "a giant length": struct.pack("<Q", 2**63) + SAFE[8:],
    "a length of all bits": b"\xff" * 8 + SAFE[8:],
    "a length beyond the file": struct.pack("<Q", len(SAFE)) + SAFE[8:],
    "a length of 0": struct.pack("<Q", 0) + SAFE[8:],
    "no JSON": packed(b"not json at all"),
    "no UTF-8": packed(b'{"\xff\xfe": 1}'),
    "a list": packed([HEADER]),
    "deep nesting": packed(b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}"),
    "a name twice": packed(json.dumps(HEADER).encode()[:-1] + b', "a": ' + json.dumps(HEADER["a"]).encode() + b"}"),
    "NaN": packed(json.dumps(HEADER).encode().replace(b"[2, 3]", b"[NaN, 3]")),
    "metadata of numbers": packed({**HEADER, "__metadata__": {"a": 1}}),
    "metadata that is a list": packed({**HEADER, "__metadata__": []}),
    "a negative shape": with_entry(shape=[-2, -3]),
    "a fractional shape": with_entry(shape=[2.0, 3]),
    "a shape of booleans": with_entry(shape=[True, 6]),
    "a shape that overflows": with_entry(shape=[2**40, 2**40]),
    "a huge shape": with_entry(shape=[2**62]),
    "a thousand dimensions": with_entry(shape=[1] * 1000 + [6]),
    "an unknown type": with_entry(dtype="F31"),
    "a type that is a list": with_entry(dtype=["F32"]),
    "overlapping offsets": with_entry(data_offsets=[HEADER["b"]["data_offsets"][0], HEADER["b"]["data_offsets"][0] + 24]),
    "offsets beyond the end": with_entry(data_offsets=[len(DATA), len(DATA) + 24]),
    "offsets backwards": with_entry(data_offsets=[24, 0]),
    "negative offsets": with_entry(data_offsets=[-24, 0]),
    "three offsets": with_entry(data_offsets=[0, 24, 24]),
    "offsets as text": with_entry(data_offsets=["0", "24"]),
    "another key": with_entry(code="import os"),
    "an entry that is a number": packed({**HEADER, "a": 7}),
    "an entry without a type": packed({**HEADER, "a": {"shape": [], "data_offsets": [0, 0]}}),
    "a hole": packed(HEADER, DATA + b"1234"),
    "data cut short": SAFE[:-1],
    "a zip": b"PK\x03\x04" + SAFE,
}  # fmt: skip


def test_a_good_header_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(SAFE)
    found = read_safetensors_header(tmp_path / "a.safetensors")
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: t.shape for name, t in TENSORS.items()
    }
    assert [found[name].dtype for name in "abc"] == ["F32", "I64", "F16"]
    begin, end = found["a"][2:]
    assert DATA[begin:end] == TENSORS["a"].tobytes()


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_a_bad_header_is_one_clear_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(BAD_TENSORS[name])
    with pytest.raises(WeitiaoError, match="cut short or damaged") as error:
        read_safetensors_header(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def mutants(folder: Path, count: int, seed: int) -> int:
    """Mutated files of tensors; returns how many were accepted. What is accepted, the library opens the same."""
    draw, accepted = random.Random(seed), 0
    words = [
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"-1",
        b"1e9",
        b"null",
        b"NaN",
        b"18446744073709551616",
        b"\\u0000",
        b"\xff",
    ]
    path = folder / "mutant.safetensors"
    for _ in range(count):
        content = bytearray(SAFE)
        for _ in range(draw.choice((1, 1, 2, 4, 8))):
            place = draw.randrange(0, min(len(content), 8 + LENGTH + 4))
            match draw.randrange(5):
                case 0:
                    content[place] ^= 1 << draw.randrange(8)
                case 1:
                    content[place] = draw.randrange(256)
                case 2:
                    content[place:place] = draw.choice(words)
                case 3:
                    del content[place : place + draw.randrange(1, 9)]
                case 4:
                    content[place] = ord(draw.choice("0123456789"))
            if not content:
                break
        if draw.random() < 0.5 and len(content) > 8:  # as long as it says, so that the JSON is read
            content[:8] = struct.pack("<Q", max(0, len(content) - 8 - len(DATA)))
        path.unlink(missing_ok=True)  # writing over a file makes some file systems wait for the disk
        path.write_bytes(content)
        try:
            found = read_safetensors_header(path)
        except WeitiaoError:
            continue
        accepted += 1
        opened = safetensors.numpy.load(bytes(content))
        assert {name: tensor.shape for name, tensor in found.items()} == {
            name: t.shape for name, t in opened.items()
        }
    return accepted


def test_2000_mutated_headers_never_crash(tmp_path: Path) -> None:
    assert 0 < mutants(tmp_path, 2000, 0) < 1000  # names may change; most else is refused


@pytest.mark.soak
def test_100000_mutated_headers_never_crash(tmp_path: Path) -> None:
    assert mutants(tmp_path, 100_000, 1) > 0


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    for reader in (read_safetensors_header, check_onnx, read_safe_json, open_tokenizer):
        try:
            reader(path)
        except WeitiaoError as error:
            assert "\n" not in str(error)


# --- JSON, tokenizers


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 300 + "1" + "}" * 300, '{"a": 1, "a": 2}', "[NaN]", "", "\ufeff[]", "[1"],
)
def test_json_that_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeitiaoError, match="damaged"):
        read_safe_json(tmp_path / "a.json")


def test_brackets_in_texts_are_no_nesting(tmp_path: Path) -> None:
    value = {"a": "[" * 1000 + '\\"{' * 300, "b": [[1], {"c": "]]"}] * 200}
    (tmp_path / "a.json").write_text(json.dumps(value), encoding="utf-8")
    assert read_safe_json(tmp_path / "a.json") == value
    with pytest.raises(WeitiaoError, match="bytes"):
        read_safe_json(tmp_path / "a.json", largest=100)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "garbage",
        '{"model": {"type": "WordPiece"}}',
        '{"a":' * 5000,
        '{"version": "1.0", "model": null}',
    ],
)
def test_a_tokenizer_that_is_garbage(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeitiaoError) as error:
        open_tokenizer(tmp_path / "tokenizer.json")
    assert "\n" not in str(error.value)


# --- ONNX


def graph(nodes: list[Any], tensors: list[Any] = [], **parts: Any) -> bytes:  # noqa: B006
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, [1])], tensors
    )
    return helper.make_model(made, **parts).SerializeToString()


def external(location: str, **more: Any) -> Any:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


ADD, NODE = helper.make_node("Add", ["x", "w"], ["y"]), helper.make_node
WEIGHT = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])


def in_branch(tensor: Any) -> bytes:
    """A tensor hidden in the attribute of a node in a branch of an ``If``."""
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])
    branch = helper.make_graph([NODE("Constant", [], ["z"], value=tensor)], "b", [], [output])
    return graph([NODE("If", ["x"], ["y"], then_branch=branch, else_branch=branch)])


def nested_graphs(depth: int) -> bytes:
    """A graph in a node of a graph in a node ..., written by hand: the library refuses to."""

    def field(number: int, content: bytes) -> bytes:
        length, size = b"", len(content)
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    inner = b""
    for _ in range(depth):
        inner = field(1, field(5, field(6, inner)))
    return field(7, inner)


BAD_GRAPHS: dict[str, bytes] = {
    "empty": b"",
    "text": b"this is not a model at all, but text",
    "no graph": b"\x08\x08" * 8,
    "cut short": graph([ADD], [WEIGHT])[:-3],
    "data outside the folder": graph([ADD], [external("../../etc/passwd")]),
    "data at an absolute path": graph([ADD], [external("/etc/passwd")]),
    "data in a folder": graph([ADD], [external("sub/w.data")]),
    "data with a backslash": graph([ADD], [external("..\\w.data")]),
    "data without a name": graph([ADD], [external("")]),
    "data in the folder above": graph([ADD], [external("..")]),
    "data that is missing": graph([ADD], [external("none.data")]),
    "data in a link": graph([ADD], [external("link.data")]),
    "data beyond the end": graph([ADD], [external("w.data", offset=0, length=5)]),
    "a negative offset": graph([ADD], [external("w.data", offset=-4, length=4)]),
    "an offset that is no number": graph([ADD], [external("w.data", offset="x")]),
    "data of an attribute in a branch": in_branch(external("../w.data")),
    "an operator of another library": graph([NODE("Run", ["x"], ["y"], domain="evil.ops")]),
    "an import of another library": graph([ADD], [WEIGHT], opset_imports=[helper.make_opsetid("evil.ops", 1)]),
    "a function of another library": graph(
        [ADD], [WEIGHT],
        functions=[helper.make_function("evil.ops", "F", ["x"], ["y"], [NODE("Neg", ["x"], ["y"])], [helper.make_opsetid("", 17)])],
    ),
    "graphs in graphs": nested_graphs(120),
    "a pickle": pickle.dumps([1, 2, 3, "x" * 100]),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder for a graph, with data beside it, a link to other data, and data outside."""
    folder = tmp_path / "in" / "model"
    folder.mkdir(parents=True)
    (folder / "w.data").write_bytes(b"1234")
    (folder.parent / "w.data").write_bytes(b"1234")
    (folder / "link.data").symlink_to(folder.parent / "w.data")
    return folder


@pytest.mark.parametrize("name", BAD_GRAPHS)
def test_a_bad_graph_is_one_clear_line(place: Path, name: str) -> None:
    (place / "model.onnx").write_bytes(BAD_GRAPHS[name])
    with pytest.raises(WeitiaoError) as error:
        check_onnx(place / "model.onnx")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_good_graphs_pass(place: Path) -> None:
    good = (
        graph([ADD], [WEIGHT]),
        graph([ADD], [external("w.data", offset=0, length=4)]),
        graph([NODE("Gelu", ["x"], ["y"], domain="com.microsoft")]),
        in_branch(WEIGHT),
        nested_graphs(5),
    )
    for content in good:
        (place / "model.onnx").write_bytes(content)
        check_onnx(place / "model.onnx")


def test_every_cut_and_many_flips_of_a_graph_never_crash(place: Path) -> None:
    content, path, draw = (
        graph([ADD], [external("w.data", offset=0, length=4)]),
        place / "model.onnx",
        random.Random(0),
    )
    cases = [content[:length] for length in range(len(content))]
    for _ in range(1000):
        flipped = bytearray(content)
        flipped[draw.randrange(len(flipped))] = draw.randrange(256)
        cases.append(bytes(flipped))
    refused = 0
    for case in cases:
        path.unlink(missing_ok=True)  # writing over a file makes some file systems wait for the disk
        path.write_bytes(case)
        try:
            check_onnx(path)
        except WeitiaoError:
            refused += 1
    assert refused > len(content)


# --- whole folders


def text(name: str, content: str) -> Harm:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def replaced_by_link(name: str, target: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return harm


def only_pickle(name: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(bomb(folder))

    return harm


MODEL_HARMS: dict[str, Harm] = {
    **{f"{name} alone": only_pickle(name) for name in ("pytorch_model.bin", "model.pt", "model.pkl", "model.ckpt", "model.pth")},
    "a pickle named .safetensors": lambda folder: (folder / "model.safetensors").write_bytes(bomb(folder)),
    "a giant header": lambda folder: (folder / "model.safetensors").write_bytes(BAD_TENSORS["a giant length"]),
    "overlapping tensors": lambda folder: (folder / "model.safetensors").write_bytes(BAD_TENSORS["overlapping offsets"]),
    "a nested header": lambda folder: (folder / "model.safetensors").write_bytes(BAD_TENSORS["deep nesting"]),
    "a head with a negative shape": lambda folder: (folder / "head.safetensors").write_bytes(BAD_TENSORS["a negative shape"]),
    "a configuration nested deeply": text("config.json", '{"model_type": ' + "[" * 200_000),
    "a configuration that is a list": text("config.json", "[]"),
    "a configuration that is no JSON": text("config.json", "{model_type: bert}"),
    "a configuration with doubled keys": text("config.json", '{"model_type": "bert", "model_type": "gpt2"}'),
    "other JSON nested deeply": text("special_tokens_map.json", "{" * 1000),
    "a tokenizer that is garbage": text("tokenizer.json", "garbage"),
    "shards outside": text("model.safetensors.index.json", '{"weight_map": {"a": "../model.safetensors"}}'),
    "shards at an absolute path": text("model.safetensors.index.json", '{"weight_map": {"a": "/etc/passwd"}}'),
    "an index that is a list": text("model.safetensors.index.json", "[]"),
    "an index without a map": text("model.safetensors.index.json", '{"weight_map": 3}'),
    "weights that are a link to outside": replaced_by_link("model.safetensors", "/etc/passwd"),
    "a link to nowhere": replaced_by_link("config.json", "/nowhere"),
    "a link to a device": lambda folder: (folder / "extra.json").symlink_to("/dev/zero"),
    "a pipe": lambda folder: os.mkfifo(folder / "extra.json"),
    "a graph that reads other files": lambda folder: (folder / "model.onnx").write_bytes(BAD_GRAPHS["data outside the folder"]),
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "model.safetensors").write_bytes(SAFE)
    return folder


@pytest.mark.parametrize("name", MODEL_HARMS)
def test_a_hostile_model_folder_is_one_clear_line(model: Path, name: str) -> None:
    check_folder(model)
    MODEL_HARMS[name](model)
    with pytest.raises(WeitiaoError) as error:
        check_folder(model)
    assert "\n" not in str(error.value) and str(model) in str(error.value)
    assert not (model.parent / "ran").exists()


def test_the_hub_s_own_links_are_let_through(model: Path, tmp_path: Path) -> None:
    """A snapshot in the hub's cache is links to ``../../blobs``."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(model.iterdir()):
        (blobs / str(number)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    check_folder(snapshot)


def edited(**changes: Any) -> Harm:
    def harm(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        del manifest[SEAL]  # or the change would be refused whatever it is
        (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}), encoding="utf-8")

    return harm


def renamed(name: str) -> Harm:
    """The manifest lists the model under another name."""

    def harm(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        manifest["files"][name] = manifest["files"].pop("model.onnx")
        manifest["graph"]["file"] = name
        del manifest[SEAL]
        (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")

    return harm


def resealed(name: str, content: Callable[[Path], bytes] | bytes) -> Harm:
    """A file added or replaced by somebody who knows how to write a manifest that fits."""

    def harm(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        (folder / name).write_bytes(content(folder) if callable(content) else content)
        keep = ("format", "version", "files", "code_version", "created")
        seal(folder, {key: value for key, value in manifest.items() if key not in keep})

    return harm


BUNDLE_HARMS: dict[str, Harm] = {
    **{f"{name} in it": resealed(name, bomb) for name in ("model.bin", "weights.pt", "state.pkl", "a.joblib", "a.npy")},
    "a file outside": renamed("../model.onnx"),
    "a file at an absolute path": renamed("/etc/passwd"),
    "a file with a backslash": renamed("..\\model.onnx"),
    "a file named ..": renamed(".."),
    "a name with a zero byte": renamed("model\0.onnx"),
    "a file not listed": text("extra.py", "import os"),
    "a changed file": text("tokenizer.json", "{}"),
    "a linked file": replaced_by_link("model.onnx", "/etc/passwd"),
    "a linked manifest": replaced_by_link(MANIFEST, "/etc/passwd"),
    "a manifest nested deeply": text(MANIFEST, '{"files": ' + "[" * 200_000),
    "a manifest that is a list": text(MANIFEST, "[]"),
    "a manifest that is garbage": text(MANIFEST, "\x00\x01"),
    "another format": edited(format="torch"),
    "another version": edited(version=2),
    "files that are a list": edited(files=[]),
    "a graph that is text": edited(graph="model.onnx"),
    "a kind of its own": edited(kind="pickle"),
    "no answers": edited(answers=None),
    "a task of its own": edited(task="../../evil"),
    "a tokenizer that is garbage": resealed("tokenizer.json", b"garbage"),
    "a graph that is garbage": resealed("model.onnx", b"garbage" * 10),
    "a graph that is a pickle": resealed("model.onnx", bomb),
    "a graph that reads other files": resealed("model.onnx", BAD_GRAPHS["data outside the folder"]),
    "a graph that reads an absolute path": resealed("model.onnx", BAD_GRAPHS["data at an absolute path"]),
    "an operator of another library": resealed("model.onnx", BAD_GRAPHS["an operator of another library"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BUNDLE_HARMS)
def test_a_hostile_bundle_is_one_clear_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path / "home"))
    folder = make_bundle(tmp_path / "bundle")
    BUNDLE_HARMS[name](folder)
    assert main(["predict", str(folder), "good"]) == 2
    heard = capsys.readouterr()
    assert heard.out == "" and heard.err.startswith("weitiao: ") and heard.err.count("\n") == 1
    assert not (tmp_path / "ran").exists()


def test_the_bundle_itself_is_good(tmp_path: Path) -> None:
    assert open_bundle(make_bundle(tmp_path / "bundle")).name == "bundle"


@pytest.mark.parametrize("format, top", [("zip", ""), ("gztar", "reviews"), ("tar", "")])
def test_an_archive_of_a_bundle_predicts_as_the_bundle_does(
    tmp_path: Path, format: str, top: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path / "home"))
    folder = make_bundle(tmp_path / "deploy" / "reviews")
    root = folder.parent if top else folder
    archive = shutil.make_archive(str(tmp_path / "packed"), format, root, top or None)
    answers = []
    for source in (folder, archive, archive):
        assert main(["predict", str(source), "good"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] == answers[2] and "label" in answers[0]
    assert len(list((tmp_path / "home" / "archives").iterdir())) == 1


@pytest.mark.parametrize("name", ["a pickle in it", "a way out", "no bundle", "no archive"])
def test_a_hostile_archive_of_a_bundle_is_one_clear_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path / "home"))
    folder = make_bundle(tmp_path / "bundle")
    if name == "a pickle in it":
        resealed("model.bin", bomb)(folder)
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    with zipfile.ZipFile(archive, "w" if name == "no bundle" else "a") as opened:
        opened.writestr("../out.txt" if name == "a way out" else "extra.txt", "x")
    if name == "no archive":
        archive.write_bytes(b"x" * 1000)
    assert main(["predict", str(archive), "good"]) == 2
    heard = capsys.readouterr().err
    assert heard.startswith("weitiao: ") and heard.count("\n") == 1
    assert not (tmp_path / "ran").exists() and not list(tmp_path.rglob("out.txt"))


def test_the_pickles_in_these_tests_would_do_harm(tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    code = f"import pickle; pickle.loads({bomb(tmp_path / 'x')!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "ran").is_dir()


def test_more_than_30_hostile_cases() -> None:
    assert len(MODEL_HARMS) + len(BUNDLE_HARMS) >= 40
