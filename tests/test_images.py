"""Pictures: IDX files, folders by class, conversion, augmentation, the two networks, and a run from data to report."""

import base64
import gzip
import io
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from test_survival import command, kill_at, resume, steps, weights

import weitiao
from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.runs import read_json
from weitiao.data.idx import read_idx
from weitiao.data.known import check_idx
from weitiao.data.pictures import decode, pgm, png_uri
from weitiao.data.readers import read_splits, read_table
from weitiao.models.backbone import open_backbone
from weitiao.models.images import Images
from weitiao.models.vision import make
from weitiao.tasks._pictures import Ground
from weitiao.training.affine import Affine

NAMES = {"train": "train", "test": "t10k"}
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 4), dtype=np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def bars(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of one bright bar on noise: 0 lies, 1 stands, 2 is none."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 60, (count, 28, 28)).astype(np.uint8)
    labels = (np.arange(count) % 3).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        at = random.integers(8, 18)
        if label < 2:
            (image if label == 0 else image.T)[at : at + 3, 4:24] = 230
    return images, labels


def write_idx(folder: Path, split: str, images: np.ndarray, labels: np.ndarray, end: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        content = idx_bytes(array)
        path = folder / f"{NAMES[split]}-{kind}-ubyte{end}"
        path.write_bytes(gzip.compress(content, mtime=0) if end else content)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idx") / "bars"
    write_idx(folder, "train", *bars(240, 1), end=".gz")
    write_idx(folder, "test", *bars(60, 2))
    return folder


SETTINGS = {
    "task": "image_classification",
    "width": 8,
    "num_epochs": 5,
    "learning_rate": 6e-3,
    "batch_size": 24,
    "precision": "fp32",
    "threads": 1,
}


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> "weitiao.Run":
    return weitiao.finetune(toy, output=tmp_path_factory.mktemp("runs") / "bars", show=False, **SETTINGS)


# --- IDX


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=4, max_side=6)), st.booleans())
def test_any_array_comes_back(tmp_path_factory, array, zipped):
    path = tmp_path_factory.getbasetemp() / f"any-idx3-ubyte{'.gz' if zipped else ''}"
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    np.testing.assert_array_equal(read_idx(path), array)


@given(st.data())
def test_a_file_cut_short_anywhere_is_one_clear_error(tmp_path_factory, data):
    zipped = data.draw(st.booleans())
    content = gzip.compress(idx_bytes(PIXELS), mtime=0) if zipped else idx_bytes(PIXELS)
    path = tmp_path_factory.getbasetemp() / f"cut-idx3-ubyte{'.gz' if zipped else ''}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(WeitiaoError) as error:
        read_idx(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_array_or_one_clear_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "noise-idx3-ubyte"
    path.write_bytes(content)
    try:
        array = read_idx(path)
    except WeitiaoError:
        return
    assert idx_bytes(array) == content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (idx_bytes(np.zeros((2, 2), np.uint8)) + b"x", "there are more"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 4), "header says 2,147,483,648 x"),
        (
            struct.pack(">HBBI", 0, 13, 1, 4) + bytes(16),
            "not an IDX file of bytes: it begins with 00 00 0d 01",
        ),
        (b"", "begins with nothing"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, content, said):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(WeitiaoError, match=re.escape(said)):
        read_idx(tmp_path / "x")


def test_the_real_mnist_has_its_hashes_and_an_altered_file_is_refused(shared_data, tmp_path):
    original = shared_data / "images" / "mnist"
    check_idx(original, "mnist")
    labels = read_idx(original / "t10k-labels-idx1-ubyte.gz").copy()
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    labels[7] = (labels[7] + 1) % 10
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(WeitiaoError, match="its SHA-256 is another"):
        check_idx(tmp_path, "mnist")


# --- folders as tables


def test_a_folder_of_idx_files_is_two_tables(toy):
    parts = read_splits(toy)
    assert {name: len(table) for name, table in parts.items()} == {"train": 240, "test": 60}
    images, labels = bars(60, 2)
    assert parts["test"].rows["label"][:4] == [str(label) for label in labels[:4]]
    assert parts["test"].rows["image"][5] == pgm(images[5])
    assert len(read_table(toy)) == 60  # as one table it is its test part


def test_torchvisions_nested_folder_with_both_writings(tmp_path):
    images, labels = bars(6, 3)
    write_idx(tmp_path / "MNIST" / "raw", "train", images, labels)
    write_idx(tmp_path / "MNIST" / "raw", "train", images, labels, end=".gz")
    assert {name: len(table) for name, table in read_splits(tmp_path).items()} == {"train": 6}


def test_halves_that_do_not_fit(tmp_path):
    images, labels = bars(6, 3)
    write_idx(tmp_path, "train", images, labels[:5])
    with pytest.raises(WeitiaoError, match="a label for each"):
        read_splits(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(WeitiaoError, match="is alone"):
        read_splits(tmp_path)


def by_class(folder: Path, per_class: int = 3) -> Path:
    for label, shade in (("dark", 20), ("light", 220)):
        (folder / label).mkdir(parents=True)
        for number in range(per_class):
            Image.fromarray(np.full((28, 28), shade + number, np.uint8)).save(
                folder / label / f"{number}.png"
            )
    return folder


def test_a_folder_a_class_with_and_without_splits(tmp_path):
    table = read_splits(by_class(tmp_path / "plain"))["train"]
    assert table.rows["label"][:] == ["dark"] * 3 + ["light"] * 3
    assert [Path(path).name for path in table.rows["image"][:3]] == ["0.png", "1.png", "2.png"]
    by_class(tmp_path / "parts" / "train"), by_class(tmp_path / "parts" / "test", 2)
    assert {name: len(part) for name, part in read_splits(tmp_path / "parts").items()} == {
        "train": 6,
        "test": 4,
    }
    (tmp_path / "parts" / "train").rename(tmp_path / "parts" / "others")
    with pytest.raises(WeitiaoError, match="should be a split"):
        read_splits(tmp_path / "parts")


def test_the_hubs_layout_parquet_with_bytes_in_a_subfolder(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features(
        {
            "image": {"bytes": Value("binary"), "path": Value("string")},
            "label": ClassLabel(names=["no", "yes"]),
        }
    )
    (tmp_path / "mnist").mkdir()
    pictures = [pgm(image) for image in bars(4, 0)[0]]
    rows = {"image": [{"bytes": picture, "path": "x.pgm"} for picture in pictures], "label": [0, 1, 1, 0]}
    Dataset.from_dict(rows, features).to_parquet(tmp_path / "mnist" / "train-00000-of-00001.parquet")
    table = read_splits(tmp_path)["train"]
    assert table.rows["image"][:] == pictures and table.rows["label"][:] == ["no", "yes", "yes", "no"]


# --- one picture


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@given(arrays.arrays(np.uint8, (8, 8)))
def test_pixels_of_the_right_size_are_kept_as_they_are(pixels):
    for picture in (pgm(pixels), png(Image.fromarray(pixels))):
        assert decode(picture, 8, 1) == (pixels.tobytes(), "")
    page = Image.open(io.BytesIO(base64.b64decode(png_uri(pixels.tobytes(), 8, 1).split(",")[1])))
    np.testing.assert_array_equal(np.asarray(page), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_converted_and_said(mode, channels):
    grey = Image.fromarray(np.full((6, 12), 255, np.uint8))
    image = Image.fromarray(np.full((6, 12), 65535, np.uint16)) if mode == "I;16" else grey.convert(mode)
    pixels, was = decode(png(image), 8, channels)
    assert len(pixels) == 64 * channels and was == f"12x6 {mode}"
    assert set(pixels) == {255}


def test_a_picture_is_fitted_whole_and_transparent_is_white():
    wide = np.zeros((4, 8), np.uint8)
    wide[:, 6:] = 200
    square = np.frombuffer(decode(pgm(wide), 8, 1)[0], np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(square[2:6], wide)
    assert not square[:2].any() and not square[6:].any()
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert set(decode(png(clear), 8, 1)[0]) == {255}


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"P5 28 28 255\nshort", b"\x89PNG\r\n\x1a\n" + b"\0" * 40]
)
def test_what_is_no_picture_is_a_bad_row(content, tmp_path):
    with pytest.raises(BadRow, match="can't be read as a picture"):
        decode(content, 28, 1)
    with pytest.raises(BadRow, match="there is no file"):
        decode(str(tmp_path / "absent.png"), 28, 1)


# --- augmentation and networks


def test_no_amount_changes_nothing_and_each_amount_something():
    torch.manual_seed(0)
    pixels = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(Affine(0, 0, 0, 0)(pixels), pixels)
    for field in ("rotation_degrees", "shift", "scale", "shear_degrees", "elastic"):
        none = dict.fromkeys(("rotation_degrees", "shift", "scale", "shear_degrees", "elastic"), 0.0)
        made = Affine(**(none | {field: 0.1 if field in ("shift", "scale", "elastic") else 10.0}))(pixels)
        assert made.shape == pixels.shape and (made - pixels).abs().amax((1, 2, 3)).min() > 0.05, field
        assert made.min() >= 0 and made.max() <= 1


def test_amounts_are_bounds_and_the_seed_decides():
    torch.manual_seed(3)
    rotations = Affine(30, 0, 0, 0).matrices(2000)[:, 0, :2]
    angles = torch.atan2(-rotations[:, 1], rotations[:, 0]).rad2deg()
    assert angles.abs().max() <= 30 and angles.abs().max() > 29
    torch.testing.assert_close(rotations.norm(dim=1), torch.ones(2000))
    moved = Affine(0, 0.1, 0, 0).matrices(2000)[:, :, 2]
    assert 0.19 < moved.abs().max() <= 0.2  # of a picture that spans -1 .. 1
    scaled = 1 / Affine(0, 0, 0.2, 0).matrices(2000)[:, 0, 0]
    assert 0.8 <= scaled.min() < 0.81 and 1.19 < scaled.max() <= 1.2
    pixels = torch.rand(2, 1, 12, 12)
    both = [(torch.manual_seed(5), Affine(elastic=0.05)(pixels))[1] for _ in range(2)]
    assert torch.equal(*both)


CONFIGS = [("cnn", {"width": 4}), ("vit", {"width": 32, "num_layers": 2, "patch": 4})]


@pytest.mark.parametrize(("name", "sizes"), CONFIGS)
def test_views_are_the_average_over_shifts(name, sizes):
    torch.manual_seed(0)
    model, _ = make(name, {"image_size": 28, "channels": 3, "views": 5, **sizes})
    model.eval()
    pixels = torch.rand(2, 3, 28, 28)
    several = model(Images(pixels))
    model.views = 1
    shifts = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
    alone = [model(Images(torch.roll(pixels, shift, (2, 3)))) for shift in shifts]
    torch.testing.assert_close(several, torch.stack(alone).mean(0))
    assert several.shape == (2, model.shape.hidden_size)


def test_a_layer_of_the_transformer_is_that_of_torch():
    from weitiao.models.vit import Layer

    torch.manual_seed(0)
    ours, size = Layer(64, 2, 0.0), 64
    theirs = torch.nn.TransformerEncoderLayer(
        size, 2, 4 * size, 0.0, "gelu", batch_first=True, norm_first=True
    )
    pairs = {
        "norm1": "norm1", "norm2": "norm2", "up": "linear1", "down": "linear2", "output": "self_attn.out_proj",
    }  # fmt: skip
    state = {f"{pairs[key.split('.')[0]]}.{key.split('.')[1]}": value for key, value in ours.state_dict().items()
             if key.split(".")[0] in pairs}  # fmt: skip
    state |= {
        f"self_attn.in_proj_{part}": getattr(ours.queries_keys_values, part).data
        for part in ("weight", "bias")
    }
    theirs.load_state_dict(state)
    x = torch.randn(3, 5, size)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_a_picture_that_a_network_cannot_read():
    with pytest.raises(WeitiaoError, match="multiple of 4"):
        make("vit", {"image_size": 30, "channels": 1, "views": 1})


# --- a run


def test_a_run_learns_and_shows_its_errors(run, toy):
    scores = run.metrics["evaluation"]["test"]["scores"]
    assert scores["accuracy"] >= 0.9
    assert {path.name for path in (run.folder / "model").iterdir()} == {
        "config.json", "model.safetensors", "head.safetensors", "weitiao.json", "pictures.json",
    }  # fmt: skip
    assert (
        not run.metrics["evaluation"]["test"]["slices"]
        or run.metrics["evaluation"]["test"]["slices"][0]["by"] == "label"
    )
    assert weitiao.evaluate(run, toy)["accuracy"] == scores["accuracy"]
    page = (run.folder / "report.html").read_text("utf-8")
    assert "pictures/s" in page and "tokens/s" not in page
    assert "tokens_per_second" not in run.metrics["cost"]
    notes = " ".join(event["text"] for event in run.events if event["event"] == "note")
    assert "pictures held out to choose" in notes and "texts" not in notes
    card = (run.folder / "README.md").read_text("utf-8")
    assert "pipeline_tag: image-classification" in card and "language:" not in card
    assert "img-src data:" in (run.folder / "report.html").read_text("utf-8")


def test_errors_are_pictures_in_the_report_and_rows_in_the_table(toy, tmp_path):
    wrong = tmp_path / "wrong"
    shutil.copytree(toy, wrong)
    images, labels = bars(60, 2)
    write_idx(wrong, "test", images, (labels + 1) % 3)
    run = weitiao.finetune(wrong, output=tmp_path / "run", show=False, **{**SETTINGS, "num_epochs": 1})
    errors = run.metrics["evaluation"]["test"]["worst_errors"]
    assert len(errors) > 20
    row = errors[0]["row_number"]
    assert errors[0]["picture"] == png_uri(images[row - 1].tobytes(), 28, 1)
    page = (run.folder / "report.html").read_text("utf-8")
    assert page.count("<img src=") == len(errors) and errors[0]["picture"] in page
    assert "base64" not in (run.folder / "errors.csv").read_text("utf-8")


def test_dark_on_light_is_read_as_the_training_pictures_were(run, tmp_path):
    images, labels = bars(6, 5)
    for number, image in enumerate(images):
        Image.fromarray(255 - image).save(tmp_path / f"{number}.png")
    found = weitiao.predict(run, [str(tmp_path / f"{number}.png") for number in range(6)])
    assert [answer["label"] for answer in found] == [str(label) for label in labels]
    assert weitiao.load(run.folder).tokenizer.settled_mean < 64
    code, said = command("predict", run.folder, tmp_path)
    assert code == 0 and "6 pictures have the ground that the training pictures have not" in said


@pytest.mark.parametrize(("border", "inverted"), [(10.0, True), (128.0, False), (250.0, False)])
def test_only_a_clear_ground_inverts(tmp_path, border, inverted):
    (tmp_path / "pictures.json").write_text(f'{{"border_mean": {border}}}')
    light = np.full((1, 6, 6, 1), 255, np.uint8)
    light[:, 2:4, 2:4] = 0
    ground = Ground(tmp_path)
    assert (ground.settled(light) == (255 - light if inverted else light)).all()
    assert ground.inverted == inverted
    photograph = np.full((1, 6, 6, 1), 120, np.uint8)
    assert (ground.settled(photograph) == photograph).all()


def test_predict_reads_files_and_folders_and_counts_conversions(run, tmp_path):
    images, labels = bars(3, 2)
    for number, image in enumerate(images):
        Image.fromarray(image).resize((56, 56)).convert("RGB").save(tmp_path / f"{number}.png")
    found = weitiao.predict(run, [str(tmp_path / f"{number}.png") for number in range(3)])
    assert [answer["label"] for answer in found] == [str(label) for label in labels]
    code, said = command("predict", run.folder, tmp_path, tmp_path / "0.png")
    assert code == 0 and "4 of 4 pictures were converted to 28x28 L (they were 56x56 RGB)" in said
    (tmp_path / "bad.png").write_bytes(b"no picture")
    code, said = command("predict", run.folder, tmp_path)
    assert code == 2 and "can't be read as a picture" in said and "Traceback" not in said


def test_a_folder_by_class_with_bad_files_and_other_sizes(tmp_path):
    data = by_class(tmp_path / "data", 30)
    (data / "dark" / "bad.png").write_bytes(b"no picture")
    Image.fromarray(np.full((50, 40, 3), 230, np.uint8)).save(data / "light" / "large.jpg")
    settings_ = {**SETTINGS, "num_epochs": 1, "model": "vit", "width": 32, "image_size": 8, "show": False}
    with pytest.raises(WeitiaoError, match=r"row 31.*can't be read as a picture"):
        weitiao.finetune(data, output=tmp_path / "no", **settings_)
    assert not (tmp_path / "no").exists()
    run = weitiao.finetune(data, output=tmp_path / "run", skip_bad_rows=True, **settings_)
    notes = [event["text"] for event in run.events if event["event"] == "note"]
    assert any("1 bad rows skipped" in note for note in notes)
    assert any("pictures were converted to 8x8 L" in note for note in notes)
    assert run.metrics["data_findings"][-1]["code"] == "converted"


def test_what_is_for_texts_alone_is_refused(run, toy, tmp_path):
    for settings_, said in (
        ({"tuning": "lora"}, "is for models of texts"),
        ({"image_size": 30, "model": str(run.folder / "model")}, "does not read pictures of 30 x 30"),
    ):
        with pytest.raises(WeitiaoError, match=said):
            weitiao.finetune(toy, output=tmp_path / "no", show=False, **{**SETTINGS, **settings_})
    with pytest.raises(WeitiaoError, match="bundles are for models of texts"):
        weitiao.export(run, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_trained_network_is_a_beginning_too(run, toy, tmp_path):
    model = str(run.folder / "model")
    again = weitiao.finetune(
        toy,
        output=tmp_path / "again",
        show=False,
        **{**SETTINGS, "num_epochs": 1, "model": model, "tuning": "head"},
    )
    before, after = (open_backbone(r.model_folder)[0].state_dict() for r in (run, again))
    assert all(
        torch.equal(before[name], after[name])
        for name in before
        if not name.endswith(("mean", "var", "tracked"))
    )
    assert again.metrics["model"]["route"] == "folder"


def test_a_killed_run_goes_on_to_the_weights_of_an_undisturbed_one(run, toy, tmp_path):
    flags = [str(part) for key, value in SETTINGS.items() for part in (f"--{key.replace('_', '-')}", value)]
    kill_at(
        "tempfile.mkdtemp", "step-00000010", 1,
        "finetune", "--data", toy, *flags, "--checkpoint-steps", 5, "--output", tmp_path / "run",
    )  # fmt: skip
    resume(tmp_path / "run")
    assert steps(tmp_path / "run").count(1) == 1  # it did not begin anew
    assert weights(tmp_path / "run") == weights(run.folder)


def test_real_digits(shared_data, tmp_path):
    """1,200 of the real digits, one minute of a child's school: well above what a linear model gets of so few."""
    source, data = shared_data / "images" / "mnist", tmp_path / "digits"
    for split, count in (("train", 1200), ("test", 500)):
        parts = [
            read_idx(source / f"{NAMES[split]}-{kind}-ubyte.gz")[:count]
            for kind in ("images-idx3", "labels-idx1")
        ]
        write_idx(data, split, *parts)
    settings_ = {**SETTINGS, "num_epochs": 4, "learning_rate": 5e-3}
    run = weitiao.finetune(data, output=tmp_path / "run", show=False, **settings_)
    assert run.metrics["evaluation"]["test"]["scores"]["accuracy"] > 0.92
    assert read_json(run.folder / "model" / "config.json")["model_type"] == "weitiao_cnn"
