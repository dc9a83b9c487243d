"""What a user's tables know of a text's words: found, written before it, carried by the model, and left out again."""

import pytest

import weitiao
from weitiao.core.errors import WeitiaoError
from weitiao.data.knowledge import as_content, read_knowledge

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
    answers = weitiao.load(tmp_path / "bundle").predict(["the good", "bank"])
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
