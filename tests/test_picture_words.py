"""Pictures and words: one space for both, a bridge to a frozen language model, and what either says of bad input."""

import csv
import io
import json
import shutil
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from decoders import save_llama
from PIL import Image
from test_images import bars, write_idx
from toy import make

import weitiao
from weitiao.cli import main
from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.data.encode import Encoded, Ragged
from weitiao.data.pictures import decode
from weitiao.data.readers import read_table
from weitiao.models.bridge import Bridge
from weitiao.models.decoder import open_decoder
from weitiao.models.heads import make_head
from weitiao.models.images import Images
from weitiao.models.packed import pack
from weitiao.stages._asking import Teller, prompt_of
from weitiao.tasks._digit_questions import CHINESE, ENGLISH, with_questions
from weitiao.tasks.image_text_matching import _ranks, _same

COLOURS = {"red": ("红", (220, 30, 30)), "green": ("绿", (30, 190, 60)), "blue": ("蓝", (40, 60, 220)),
           "white": ("白", (250, 250, 250)), "black": ("黑", (10, 10, 10)), "yellow": ("黄", (240, 220, 40))}  # fmt: skip
SHORT = {"precision": "fp32", "threads": 1, "show": False}


def command(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str]:
    """A command in this process: its exit code, and all it said."""
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# --- one space


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Path:
    """Forty squares of each colour, a little apart from each other, with a caption in two languages."""
    folder, random = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    with open(folder / "colours.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "en", "zh"])
        for number in range(240):
            name = list(COLOURS)[number % 6]
            zh, rgb = COLOURS[name]
            pixels = np.clip(np.array(rgb) + random.integers(-25, 26, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            writer.writerow([folder / f"{number}.png", f"{name} card", f"{zh}卡"])
    return folder


@pytest.fixture(scope="module")
def space(colours, tiny_model, tmp_path_factory) -> "weitiao.Run":
    return weitiao.finetune(
        colours / "colours.csv", output=tmp_path_factory.mktemp("runs") / "space", task="image_text_matching",
        text_model=str(tiny_model), image_size=8, width=8, num_epochs=12, learning_rate=5e-3, batch_size=24,
        shared_size=16, **SHORT,
    )  # fmt: skip


def test_pictures_are_found_by_phrases_of_both_languages(space):
    test = space.metrics["evaluation"]["test"]
    assert (
        test["kind"] == "retrieval" and test["candidates"] == 48 and test["rows"] == 96
    )  # a row each phrase
    assert test["scores"]["picture_top1"] > 0.9 and test["baseline"]["picture_top1"] == pytest.approx(1 / 48)
    languages = {each["value"]: each["score"] for each in test["slices"] if each["by"] == "language"}
    assert set(languages) == {"en", "zh"} and min(languages.values()) > 0.9
    assert {path.name for path in (space.folder / "model").iterdir()} == {
        "config.json", "model.safetensors", "head.safetensors", "weitiao.json", "text_model.json",
    }  # fmt: skip


def test_predict_gives_the_picture_of_a_phrase_and_the_phrase_of_a_picture(space, colours, tmp_path, capsys):
    code, said = command(
        capsys, "predict", space.folder, "蓝卡", colours / "1.png", "--output", tmp_path / "a.jsonl"
    )
    assert code == 0, said
    answers = lines(tmp_path / "a.jsonl")
    assert int(Path(answers[0]["answers"][0]["label"]).stem) % 6 == list(COLOURS).index("blue")
    assert answers[1]["answers"][0]["label"] in ("green card", "绿卡")
    few = tmp_path / "few"
    few.mkdir()
    for number in (0, 2, 5):
        (few / f"{number}.png").write_bytes((colours / f"{number}.png").read_bytes())
    code, said = command(capsys, "predict", space.folder, "yellow card", "--among", few)
    assert code == 0 and "5.png" in said
    code, said = command(capsys, "predict", space.folder, few / "0.png", "--among", few)
    assert code == 2 and "pictures without phrases" in said and "Traceback" not in said


def test_other_weights_of_the_text_model_are_refused(space, tmp_path):
    shutil.copytree(space.folder / "model", tmp_path / "model")
    record = tmp_path / "model" / "text_model.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "sha256": "0" * 64}))
    with pytest.raises(WeitiaoError, match="trained with other weights"):
        weitiao.load(tmp_path / "model").tokenizer  # noqa: B018


def test_the_loss_is_clips_and_equal_captions_are_no_negatives():
    torch.manual_seed(0)
    outputs = torch.nn.functional.normalize(torch.randn(5, 3, 8), dim=-1)
    targets = torch.tensor([4.0, 1.0, 9.0, 1.0, 2.0])
    expected = 0.0
    for caption in (1, 2):
        cosines = (outputs[:, 0] @ outputs[:, caption].T / 0.07).numpy().astype(np.float64)
        cosines[1, 3] = cosines[3, 1] = -np.inf
        for side in (cosines, cosines.T):
            expected += -np.diag(side - np.log(np.exp(side).sum(1, keepdims=True))).sum()
    loss = make("objectives", "symmetric_contrastive").loss_sum(outputs, targets)
    assert float(loss) == pytest.approx(expected / 4, rel=1e-5)


def test_ranks_count_what_stands_before_and_ties_against():
    cosines = np.array([[0.9, 0.1, 0.5], [0.4, 0.4, 0.3], [0.2, 0.8, 0.7]])
    assert _ranks(cosines, _same(["a", "b", "c"])).tolist() == [1, 2, 2]
    assert _ranks(cosines, _same(["a", "B", "b "])).tolist() == [1, 2, 1]


def test_the_pair_head_uses_the_training_sets_mean_once_trained():
    torch.manual_seed(0)
    head = make_head({"type": "embedding", "outputs": 0, "pooling": "none", "features": 6, "shared": 4}, 5)
    images = Images(torch.rand(3, 1, 8, 8), torch.randn(3, 2, 6) + 3)
    head.train()
    for _ in range(200):
        trained = head(torch.ones(3, 5), images, None)
    head.eval()
    assert trained.shape == (3, 3, 4)
    torch.testing.assert_close(trained.norm(dim=-1), torch.ones(3, 3))
    alone = Images(images.pixels_BCHW[:1], images.features_BKF[:1])
    torch.testing.assert_close(head(torch.ones(1, 5), alone, None), head(torch.ones(3, 5), images, None)[:1])


# --- questions


def test_a_table_of_digits_asks_and_answers_in_turn():
    rows = [{"image": f"{digit}.png", "label": str(digit)} for digit in (7, 2, 9, 4)]
    table = with_questions(read_table(rows), ["name", "even_zh", "sum", "larger"])
    assert [row["answer"] for row in table.rows] == ["seven", "是", "eleven", "the second"]
    assert [row["image_b"] for row in table.rows] == [None, None, "2.png", "9.png"]
    other = with_questions(read_table([{"image": "x.png", "label": "shoe"}] * 2), ["name"])
    assert other.rows["answer"][:] == ["shoe", "shoe"]
    few = [with_questions(read_table(rows * 9), ["name"], most=5).rows["image"][:] for _ in range(2)]
    assert len(few[0]) == 5 and few[0] == few[1]
    assert ENGLISH[18] == "eighteen" and len(CHINESE) == 10


# --- the bridge


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama") / "tiny")


def bridged(llama: Path, tokens: int = 2) -> Bridge:
    torch.manual_seed(0)
    decoder = open_decoder(llama).requires_grad_(False)
    return Bridge(decoder, features=6, size=8, tokens=tokens)


def batch_of(questions: list[list[int]], answers: list[list[int]], counts: list[int]):
    features = torch.randn(len(questions), 2, 6)
    for row, count in enumerate(counts):
        features[row, count:] = float("nan")
    rows = [np.array([*q, *a]) for q, a in zip(questions, answers, strict=True)]
    types = [np.array([0] * len(q) + [1] * len(a)) for q, a in zip(questions, answers, strict=True)]
    return replace(pack(rows, 0, types), features_BKF=features)


def test_the_bridge_is_the_decoder_over_question_pictures_and_answer(llama):
    """Against the packed pass over the same embeddings, written out text by text; and so are the gradients."""
    bridge = bridged(llama)
    questions, counts = [[5, 9], [5, 9], [7, 8, 11], [5, 9]], [1, 1, 2, 2]
    answers = [[20], [21, 22], [23], []]
    packed = batch_of(questions, answers, counts)
    found = bridge(packed)
    found.square().sum().backward()
    gradient = bridge.projector.up.weight.grad.clone()
    bridge.zero_grad()
    expected = []
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        pictures = bridge.projector(packed.features_BKF[row, : counts[row]]).flatten(0, 1)
        parts = [bridge.decoder.embed(torch.tensor(question)), pictures]
        x_TD = torch.cat([*parts, bridge.decoder.embed(torch.tensor(answer, dtype=torch.int64))])
        states = bridge.decoder(pack([np.zeros(len(x_TD), np.int64)]), inputs_TD=x_TD)
        expected.append(states[-len(answer) - 1 :])
    torch.testing.assert_close(found, torch.cat(expected), atol=2e-5, rtol=1e-4)
    torch.cat(expected).square().sum().backward()
    torch.testing.assert_close(gradient, bridge.projector.up.weight.grad, atol=1e-4, rtol=1e-3)


def test_what_was_read_in_bf16_is_not_used_in_fp32(llama):
    """Training under autocast leaves nothing behind that predictions are computed with."""
    batch = batch_of([[5, 9]], [[7]], [1])
    bridge, fresh = bridged(llama), bridged(llama)
    fresh.load_state_dict(bridge.state_dict())
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            low = bridge(batch)
        assert torch.equal(bridge(batch), fresh(batch)) and not torch.equal(low, fresh(batch))


def test_greedy_answers_are_those_that_the_likeliest_tokens_tell(llama):
    bridge = bridged(llama).eval()
    features = torch.randn(5, 1, 6)
    answers = bridge.answer(torch.tensor([5, 9]), features, {2}, 4)
    for row, (ids, sure) in enumerate(answers):
        packed = batch_of([[5, 9]], [ids], [1])
        packed.features_BKF[:, :1] = features[row]
        with torch.no_grad():
            best = bridge.decoder.logits(bridge(packed)).softmax(-1).max(-1)
        assert best.indices[: len(ids)].tolist() == ids
        probability = best.values if len(ids) < 4 else best.values[:4]
        assert sure == pytest.approx(float(probability.prod()), rel=1e-3)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """Bars instead of digits: 0 lies, 1 stands, 2 is none."""
    folder = tmp_path_factory.mktemp("idx") / "bars"
    write_idx(folder, "train", *bars(240, 1))
    write_idx(folder, "test", *bars(60, 2))
    return folder


@pytest.fixture(scope="module")
def vision(digits, tmp_path_factory) -> "weitiao.Run":
    settings = {
        "task": "image_classification",
        "width": 8,
        "num_epochs": 4,
        "learning_rate": 6e-3,
        "batch_size": 24,
    }
    return weitiao.finetune(digits, output=tmp_path_factory.mktemp("runs") / "vision", **settings, **SHORT)


@pytest.fixture(scope="module")
def reader(digits, vision, llama, tmp_path_factory) -> "weitiao.Run":
    return weitiao.finetune(
        digits, output=tmp_path_factory.mktemp("runs") / "reader", task="image_to_text", vision=str(vision.folder),
        model=str(llama), tuning="bridge", questions="name", num_epochs=20, learning_rate=1e-2, bridge_size=32,
        batch_size=24, **SHORT,
    )  # fmt: skip


def test_a_frozen_language_model_learns_to_name_what_it_is_shown(reader, llama):
    test = reader.metrics["evaluation"]["test"]
    assert test["scores"]["accuracy"] > 0.8 > test["baseline"]["accuracy"] + 0.2
    assert (
        reader.metrics["engagement"]["trained_parameters"] < 40_000
    )  # the projector's; the rest is checked as frozen
    assert {path.name for path in (reader.folder / "model").iterdir()} >= {"adapter.safetensors", "vision"}
    page = (reader.folder / "report.html").read_text("utf-8")
    assert "<img src=" in page or test["scores"]["accuracy"] == 1.0


def test_predict_answers_questions_about_files(reader, digits, tmp_path, capsys):
    images, labels = bars(3, 2)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    said = {}
    for question in ("Which digit is this?", "Is this digit even?"):
        code, out = command(
            capsys, "predict", reader.folder, tmp_path, "--ask", question, "--output", tmp_path / "a.jsonl"
        )
        assert code == 0, out
        said[question] = [each["answer"] for each in lines(tmp_path / "a.jsonl")]
    names = [ENGLISH[label] for label in labels]
    assert sum(a == b for a, b in zip(said["Which digit is this?"], names, strict=True)) >= 2
    code, out = command(capsys, "predict", reader.folder, tmp_path)
    assert code == 2 and "--ask" in out and "Traceback" not in out


def test_the_language_model_itself_is_as_it_was(reader, llama):
    before, after = open_decoder(llama).state_dict(), reader.model.backbone.decoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert set(reader.metrics["engagement"]["moved"]) == {"embeddings"}  # what enters where embeddings do


def test_in_stages_the_model_sees_the_classifiers_words_alone(vision, llama, tmp_path, capsys):
    image, label = bars(2, 2)[0][1], 1
    Image.fromarray(image).save(tmp_path / "1.png")
    flags = ("--ask", "Is this digit even?", "--language-model", llama, "--output", tmp_path / "a.jsonl")
    code, out = command(capsys, "predict", vision.folder, tmp_path / "1.png", *flags)
    assert code == 0, out
    (answer,) = lines(tmp_path / "a.jsonl")
    assert answer["seen"][0]["label"] == str(label) and isinstance(answer["answer"], str)
    sure = answer["seen"][0]["score"]
    prompt = prompt_of([("1", sure)], "Is this digit even?", [(["4"], "Is this digit even?", "yes")])
    assert prompt.splitlines() == [
        "Picture: four (100% sure)", "Question: Is this digit even?", "Answer: yes", "",
        f"Picture: one ({round(100 * sure)}% sure)", "Question: Is this digit even?", "Answer:",
    ]  # fmt: skip
    teller = Teller(str(llama))
    assert teller.answer(["Picture: one", "Picture: one"])[0] == teller.answer(["Picture: one"])[0]
    assert len(teller.told) == 1


def test_what_does_not_fit_a_bridge_is_refused(digits, vision, llama, tiny_model, tmp_path):
    settings = {"task": "image_to_text", "model": str(llama), "output": tmp_path / "no", **SHORT}
    for more, said in (
        ({}, "--vision"),
        ({"vision": str(vision.folder), "tuning": "lora"}, "can be trained with: bridge"),
        ({"vision": str(vision.folder), "tuning": "bridge", "image_size": 16}, "reads pictures of 28 x 28"),
        ({"vision": str(tiny_model), "tuning": "bridge"}, "no run of a vision encoder"),
        ({"vision": str(vision.folder), "tuning": "bridge", "questions": "nme"}, "choose among name"),
    ):
        with pytest.raises(WeitiaoError, match=said):
            weitiao.finetune(digits, **{"tuning": "bridge", **settings, **more})
    assert not (tmp_path / "no").exists()


def test_ragged_answers_come_back_as_they_were():
    encoded = Encoded(Ragged.of([[1, 2]]), features=np.zeros((1, 2, 3), np.float32))
    assert Encoded.joined([encoded, encoded]).features.shape == (2, 2, 3)


# --- sounds


def wav(samples: np.ndarray, width: int = 2, rate: int = 8000, channels: int = 1) -> bytes:
    """A WAV file of samples in -1 .. 1."""
    whole = (samples * (256**width / 2 - 1)).round().astype(np.int64) + (128 if width == 1 else 0)
    whole = np.repeat(whole[:, None], channels, 1).ravel()
    data = (whole & (256**width - 1)).astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels), file.setsampwidth(width), file.setframerate(rate)
        file.writeframes(data)
    return buffer.getvalue()


@pytest.mark.parametrize(("width", "channels"), [(1, 1), (2, 1), (2, 2), (3, 1), (4, 2)])
def test_a_tone_is_a_line_at_its_pitch_in_every_format(width, channels):
    seconds = np.arange(8000) / 8000
    rows = []
    for hertz in (400, 1500):
        pixels, was = decode(wav(0.5 * np.sin(2 * np.pi * hertz * seconds), width, channels=channels), 28, 1)
        picture = np.frombuffer(pixels, np.uint8).reshape(28, 28)
        brightest = picture.argmax(0)
        assert was == "" and np.ptp(brightest) == 0 and picture[brightest[0]].min() > 240
        mel = 2595 * np.log10(1 + hertz / 700) / (2595 * np.log10(1 + 4000 / 700))
        assert (
            abs((27 - brightest[0] + 1) / 29 - mel) < 1 / 29
        )  # bands' tops lie evenly apart, low ones at the bottom
        rows.append(int(brightest[0]))
    assert rows[0] > rows[1]


def test_a_sound_that_becomes_higher_is_a_rising_line():
    seconds = np.arange(8000) / 8000
    rising = np.sin(2 * np.pi * (300 * seconds + 1500 * seconds**2))
    picture = np.frombuffer(decode(wav(rising), 28, 3)[0], np.uint8).reshape(28, 28, 3)
    assert (np.diff(picture[:, :, 0].argmax(0)) <= 0).all() and (picture[..., 0] == picture[..., 2]).all()


@pytest.mark.parametrize("content", [b"RIFF\x10\0\0\0WAVE", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(20)])
def test_a_damaged_sound_is_a_bad_row(content, tmp_path):
    with pytest.raises(BadRow, match="can't be read as a sound"):
        decode(content, 28, 1)
    with pytest.raises(BadRow, match="there is no file"):
        decode(str(tmp_path / "absent.wav"), 28, 1)
    with pytest.raises(BadRow, match="0 to 30 can be read"):
        decode(wav(np.zeros(8000 * 31)), 28, 1)
