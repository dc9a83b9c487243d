"""What a user's tables know of a text's words: found, written before it, carried by the model, and left out again."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_survival import kill_at
from toy import POOLED, open_model

import weitiao
from weitiao.core.errors import WeitiaoError
from weitiao.data.encode import Encoded, Ragged
from weitiao.data.knowledge import as_content, read_knowledge
from weitiao.models.backbone import TextModel
from weitiao.training.batches import Batches

LEXICON = "茅台,股票\n上海银行,银行\n上海,地名\nETF\t基金\n发展 \t 1934814\n"
TRIPLES = "茅台,行业,白酒\n茅台,总部,贵州\netf,kind,fund\n"


@pytest.mark.parametrize(("text", "found"), [
    ("上海银行在上海", ["上海银行", "上海"]),
    ("买etf，卖ETFs", ["etf"]),
    ("茅台茅台", ["茅台"]),
    ("发展", ["发展"]),
    ("台茅", []), ("", []),
])  # fmt: skip
def test_the_longest_words_are_found_once(text, found):
    assert list(read_knowledge(LEXICON, TRIPLES).mentions(text)) == found


def test_a_note_holds_categories_and_facts_of_the_first_words():
    known = read_knowledge(LEXICON, TRIPLES)
    assert (
        known.note("茅台与上海银行的发展", 8)
        == "股票: 茅台; 银行: 上海银行; 发展; 茅台 行业 白酒; 茅台 总部 贵州"
    )
    assert known.note("茅台与上海银行的发展", 1) == "股票: 茅台; 茅台 行业 白酒"
    assert known.note("没有", 8) == ""
    assert read_knowledge("", TRIPLES).note("ETF", 8) == "etf kind fund"


@pytest.mark.parametrize(("lexicon", "triples", "said"), [
    ("nowhere.csv", "", "--lexicon: nowhere.csv cannot be read: No such file"),
    ("", "a,b\nc,d\n", "--triples: a,b"),
    (" \n\n", "", "--lexicon:  has no line such as 茅台,股票"),
])  # fmt: skip
def test_what_is_no_table_is_one_line(lexicon, triples, said):
    with pytest.raises(WeitiaoError) as caught:
        read_knowledge(lexicon, triples)
    assert said in str(caught.value)


def test_a_file_and_its_content_are_the_same(tmp_path):
    path = tmp_path / "words.csv"
    path.write_bytes(b"\xef\xbb\xbf" + LEXICON.encode())
    content = as_content(str(path), "lexicon")
    assert content == LEXICON and as_content(content, "lexicon") == LEXICON
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WeitiaoError, match="not UTF-8"):
        as_content(str(path), "lexicon")


WORDS = {"good": "praise", "card": "praise", "bad": "blame", "money": "blame"}
ROWS = [{"text": f"the {list(WORDS)[i % 4]} {i}", "label": "xy"[i % 4 > 1]} for i in range(48)]
HOW = {"max_length": 32, "precision": "fp32", "threads": 1, "show": False, "num_epochs": 1, "batch_size": 8}


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.csv"
    path.write_text("".join(f"{word},{kind}\n" for word, kind in WORDS.items()), encoding="utf-8")
    return path


def test_a_model_carries_what_it_knows(tiny_model, tmp_path, words):
    run = weitiao.finetune(ROWS, model=str(tiny_model), output=tmp_path / "run", lexicon=str(words), **HOW)
    before = run.predict(["the good", "the bad", "bank"])
    words.unlink()
    again = weitiao.load(tmp_path / "run")
    assert again.predict(["the good", "the bad", "bank"]) == before
    encoded, _ = again.outputs([{"text": "the good"}, {"text": "bank"}])
    known, plain = (again.tokenizer.encode(text).ids for text in ("[praise: good] the good", "bank"))
    assert [encoded.ids[0].tolist(), encoded.ids[1].tolist()] == [known, plain]


def test_a_bundle_knows_it_too(tiny_model, tmp_path, words):
    run = weitiao.finetune(ROWS, model=str(tiny_model), output=tmp_path / "run", lexicon=str(words), **HOW)
    weitiao.export(run, tmp_path / "bundle")
    answers = weitiao.load(tmp_path / "bundle", precision="fp32").predict(["the good", "bank"])
    for mine, theirs in zip(answers, run.predict(["the good", "bank"]), strict=True):
        assert mine["label"] == theirs["label"] and mine["score"] == pytest.approx(theirs["score"], abs=1e-4)


def test_an_ablation_trains_each_method_without_it(tiny_model, tmp_path, words):
    settings = HOW | {"model": str(tiny_model), "lexicon": str(words), "seeds": 2, "tuning": "full,head"}
    output = tmp_path / "compare"
    found = weitiao.compare(ROWS, output=output, ablate=["lexicon"], **settings)
    names = [method["name"] for method in found["methods"]]
    assert names == ["full", "full, without lexicon", "head", "head, without lexicon"]
    runs = {method["name"]: weitiao.load(output / method["runs"][0]["folder"]) for method in found["methods"]}
    assert "praise" in runs["full"].description["task_options"]["lexicon"]
    assert runs["full, without lexicon"].description["task_options"]["lexicon"] == ""
    with pytest.raises(WeitiaoError, match="--ablate triples: that is none of the settings given"):
        weitiao.compare(ROWS, output=tmp_path / "other", ablate=["triples"], **settings)


# --- as embeddings

EMBEDDED = HOW | {"knowledge_as": "embeddings", "learning_rate": 3e-3, "num_epochs": 4}


def test_marks_are_the_tokens_of_known_words():
    known = read_knowledge(LEXICON, TRIPLES)
    kinds = known.kinds
    assert list(kinds) == sorted(["股票", "银行", "地名", "基金", "", "行业 白酒", "总部 贵州", "kind fund"])
    offsets = np.array([(0, 0), (0, 1), (1, 2), (2, 3), (3, 6), (6, 7), (7, 8), (0, 0)])

    def found(most):
        return [tuple(pair) for pair in known.marks("茅台与ETF上海", offsets, most).tolist()]

    stock, fund = ("股票", "行业 白酒", "总部 贵州"), ("基金", "kind fund")
    expected = [(token, kinds[kind]) for token in (1, 2) for kind in stock] + [(4, kinds[k]) for k in fund]
    assert found(8) == [*expected, (5, kinds["地名"]), (6, kinds["地名"])]
    assert found(2) == expected
    assert known.marks("无", offsets[:2], 8).shape == (0, 2)


def test_marks_stay_in_place_where_a_letter_has_two_without_its_case():
    offsets = np.array([(0, 3), (4, 5), (6, 9)])
    marks = read_knowledge("etf,fund\nß,letter\n", "").marks("ßßß x ETF", offsets, 8)
    assert marks.tolist() == [[2, 0]]


def named(count, seed):
    """Names that no two texts share, half of them of one kind: only a lexicon tells the classes apart."""
    random = np.random.default_rng(seed)
    letters = ["".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), 6)) for _ in range(count)]
    rows = [{"text": f"the {name} bank", "label": "xy"[i % 2]} for i, name in enumerate(letters)]
    return rows, "".join(f"{name},{('fish', 'bird')[i % 2]}\n" for i, name in enumerate(letters))


@pytest.mark.parametrize("tuning", ["full", "lora", "prompt"])
def test_embeddings_of_categories_learn_what_the_texts_do_not_tell(tiny_model, tmp_path, tuning):
    rows, lexicon = named(240, 0)
    path = tmp_path / "words.csv"
    path.write_text(lexicon, encoding="utf-8")
    settings = EMBEDDED | {"model": str(tiny_model), "tuning": tuning, "lexicon": str(path), "dropout": 0.0}
    found = weitiao.compare(rows, output=tmp_path / "compare", ablate=["lexicon"], seeds=1, **settings)
    scores = {method["name"]: method["score"] for method in found["methods"]}
    assert scores[tuning] > 0.95 and scores[f"{tuning}, without lexicon"] < 0.75
    folder = tmp_path / "compare" / found["methods"][0]["runs"][0]["folder"]
    run = weitiao.load(folder)
    assert run.model.head.known.weight.shape == (2, 32) and run.model.head.known.weight.abs().max() > 0
    assert "head known" in run.metrics["engagement"]["moved"]
    path.unlink()
    texts = [row["text"] for row in rows[:40]]
    answers = [answer["label"] for answer in run.predict(texts)]
    assert np.mean([a == row["label"] for a, row in zip(answers, rows, strict=False)]) > 0.9
    assert weitiao.evaluate(folder, rows)["accuracy"] > 0.9


def test_embeddings_begin_as_nothing_and_are_those_of_their_words(tiny_model):
    encoded = Encoded(Ragged.of([[2, 7, 8, 3]]), known=Ragged.of([[1, 0, 2, 0]]))
    packed = Batches(encoded, 1, 0).batch(np.arange(1)).packed
    assert packed.known_P2.tolist() == [[1, 0], [2, 0]]
    model, plain = open_model(tiny_model, head=POOLED | {"known": 2}), open_model(tiny_model)
    with torch.no_grad():
        assert torch.equal(model(packed), plain(packed))
        model.head.known.weight[1] += 1  # of a kind that no word here has
        assert torch.equal(model(packed), plain(packed))
        model.head.known.weight[0] += torch.randn(32)
        expected = plain.backbone.embeddings.word_embeddings.weight
        expected[[7, 8]] += model.head.known.weight[0]
        torch.testing.assert_close(model(packed), plain(packed))


def test_a_model_of_transformers_takes_them_too(tiny_model):
    from weitiao.models.hub_encoder import HubEncoder

    encoded = Encoded(Ragged.of([[2, 7, 3], [2, 8, 9, 9, 3]]), known=Ragged.of([[1, 0], [3, 1]]))
    packed = Batches(encoded, 2, 0).batch(np.arange(2)).packed
    model = open_model(tiny_model, head=POOLED | {"known": 2})
    torch.nn.init.normal_(model.head.known.weight)
    hub = TextModel(HubEncoder.from_folder(tiny_model, model.config), model.head, model.config)
    with torch.no_grad():
        torch.testing.assert_close(hub.eval()(packed), model.eval()(packed), atol=1e-5, rtol=0)


def test_a_run_with_embeddings_resumes_to_the_same_weights(tiny_model, tmp_path, words):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    settings = HOW | {"data": data, "model": tiny_model, "lexicon": words, "knowledge_as": "embeddings"}
    settings |= {"checkpoint_steps": 2, "num_epochs": 2}
    del settings["show"]
    weitiao.finetune(output=tmp_path / "whole", show=False, **settings)
    flags = [str(part) for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", value)]
    kill_at("tempfile.mkdtemp", "step-00000006", 1, "finetune", *flags, "--output", tmp_path / "killed")
    weitiao.finetune(output=tmp_path / "killed", resume=True, show=False)
    mine, theirs = (load_file(tmp_path / name / "model" / "head.safetensors") for name in ("whole", "killed"))
    assert mine["known.weight"].any() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_an_update_goes_on_with_the_lexicon_that_the_model_carries(tiny_model, tmp_path, words):
    from weitiao.core.config import build
    from weitiao.stages import update

    data = [tmp_path / name for name in ("old.jsonl", "new.jsonl")]
    for path, other in zip(data, ("x", "z"), strict=True):
        rows = [json.dumps({**row, "label": row["label"].replace("x", other)}) for row in ROWS]
        path.write_text("\n".join(rows), encoding="utf-8")
    settings = EMBEDDED | {"model": str(tiny_model), "lexicon": str(words)}
    old = weitiao.finetune(data[0], output=tmp_path / "run", **settings)
    words.write_text("a,first\ncard,praise\n", encoding="utf-8")  # its kinds would have other numbers
    values = {"run": str(tmp_path / "run"), "data": str(data[1]), "num_epochs": 1, "learning_rate": 1e-6}
    list(update.run(build(update.Config, values | {"threads": 1, "most_loss": 100})))
    new = weitiao.load(tmp_path / "run" / "updates" / "1")
    assert new.description["task_options"] == old.description["task_options"]
    torch.testing.assert_close(new.model.head.known.weight, old.model.head.known.weight, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("settings", "said"), [
    ({"tuning": "head", "num_epochs": 0}, "--tuning head trains nothing below the head"),
    ({"template": "{text} It was {mask}."}, "--knowledge-as embeddings cannot go with --template"),
    ({"lexicon": "zebra,animal\nfox,animal\n"}, "No word of --lexicon or --triples is in the training texts"),
    ({"knowledge_as": "prose"}, "knowledge_as"),
])  # fmt: skip
def test_what_embeddings_cannot_be_is_said_before_training(tiny_model, tmp_path, words, settings, said):
    given = HOW | {"model": str(tiny_model), "lexicon": str(words), "knowledge_as": "embeddings"} | settings
    with pytest.raises(WeitiaoError, match=re.escape(said)):
        weitiao.finetune(ROWS, output=tmp_path / "run", **given)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_bundle_has_no_place_for_embeddings_and_says_so(tiny_model, tmp_path, words):
    settings = EMBEDDED | {"model": str(tiny_model), "lexicon": str(words), "pooling": "own"}
    run = weitiao.finetune(ROWS, output=tmp_path / "run", **settings)
    assert run.metrics["model"]["saved_logit_difference"] <= 1e-5
    assert "by Weitiao alone" in run.metrics["model"]["opens_in_transformers"]
    with pytest.raises(WeitiaoError, match="knows words by embeddings, which a bundle's graph has no place"):
        weitiao.export(run, tmp_path / "bundle")
