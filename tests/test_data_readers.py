"""Readers: what is written reads back identical, and what is wrong is one clear error with its place."""

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.data import arrow
from weitiao.data.columns import CLASSIFICATION, PAIRS, RELATIONS, TOKENS
from weitiao.data.readers import read_splits, read_table, split_name
from weitiao.data.table import make_records

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
ROWS = [
    {"text": "物流很快，包装也好", "label": "positive"},
    {"text": 'It said "no", twice', "label": "negative"},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WEITIAO_LANG", "en")


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def as_csv(rows, delimiter=",") -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return out.getvalue()


def as_jsonl(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def cells(table) -> list[dict]:
    return [{name: row[name] for name in table.column_names} for row in table.rows]


FORMATS = {
    "a.csv": as_csv(ROWS),
    "semicolon.csv": as_csv(ROWS, ";"),
    "bar.csv": as_csv(ROWS, "|"),
    "a.tsv": as_csv(ROWS, "\t"),
    "tabs.txt": as_csv(ROWS, "\t"),
    "a.jsonl": as_jsonl(ROWS),
    "lines.json": as_jsonl(ROWS),
    "array.json": json.dumps(ROWS, indent=1),
}


@pytest.mark.parametrize("compressed", ["", ".gz"])
@pytest.mark.parametrize("name", FORMATS)
def test_each_format_reads_the_same_rows(tmp_path, name, compressed):
    table = read_table(write(tmp_path / (name + compressed), FORMATS[name]))
    assert cells(table) == ROWS
    assert table.find(CLASSIFICATION) == {"text": "text", "label": "label"}
    assert len(table.sha256) == 64 and not table.headerless


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "array.json"])
def test_encodings(tmp_path, name, encoding):
    path = write(tmp_path / name, FORMATS[name].encode(encoding))
    assert cells(read_table(path)) == ROWS
    assert read_table(path).find(CLASSIFICATION)["text"] == "text"


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_a_character_across_the_edge_of_a_block(tmp_path, encoding, monkeypatch):
    monkeypatch.setattr("weitiao.data.files.BLOCK_BYTES", 7)
    path = write(tmp_path / "a.jsonl", FORMATS["a.jsonl"].encode(encoding))
    assert cells(read_table(path)) == ROWS


def test_parquet_frame_dataset_and_list(tmp_path):
    import pandas as pd
    from datasets import ClassLabel, Dataset, Features, Value

    frame = pd.DataFrame(ROWS)
    frame.to_parquet(tmp_path / "a.parquet")
    write(tmp_path / "a.parquet.gz", (tmp_path / "a.parquet").read_bytes())
    named = Features({"text": Value("string"), "label": ClassLabel(names=["positive", "negative"])})
    numbered = Dataset.from_list([{**row, "label": place} for place, row in enumerate(ROWS)], features=named)
    numbered.to_parquet(tmp_path / "named.parquet")
    sources = [
        tmp_path / "a.parquet",
        tmp_path / "a.parquet.gz",
        tmp_path / "named.parquet",
        frame,
        numbered,
        ROWS,
    ]
    for source in sources:
        assert cells(read_table(source)) == ROWS
    assert read_table(frame).sha256 == read_table(ROWS).sha256 != read_table(ROWS[:1]).sha256
    assert read_table(frame[1:]).rows["row_number"][:] == [1]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_csv_written_by_the_csv_module_reads_back_identical(tmp_path_factory, data):
    width = data.draw(st.integers(2, 4))
    delimiter = data.draw(st.sampled_from(",;\t|"))
    rows = data.draw(st.lists(st.lists(TEXT, min_size=width, max_size=width), min_size=1, max_size=6))
    names = ["text", "label", "other", "more"][:width]
    table = [dict(zip(names, row, strict=True)) for row in rows]
    path = write(tmp_path_factory.mktemp("round") / "a.csv", as_csv(table, delimiter))
    assert cells(read_table(path, has_header=True)) == table


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({"text": TEXT, "label": st.lists(TEXT, max_size=3)}), min_size=1, max_size=6
    )
)
def test_json_reads_back_identical(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("round")
    assert cells(read_table(write(folder / "a.jsonl", as_jsonl(rows)))) == rows
    assert cells(read_table(write(folder / "a.json", json.dumps(rows)))) == rows


def test_row_numbers_are_those_of_the_file(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\n"two\nlines",a\n\nlast,b\n')
    table = read_table(path)
    assert table.rows["row_number"][:] == [2, 4]
    assert table.rows[0]["text"] == "two\nlines"
    jsonl = write(tmp_path / "a.jsonl", '{"text": "x"}\n\n{"text": "y"}\n')
    assert read_table(jsonl).rows["row_number"][:] == [1, 3]


def test_a_json_array_longer_than_a_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("weitiao.data.rowwise._CHUNK_CHARACTERS", 5)
    rows = [{"text": f"text {place} 字", "label": str(place)} for place in range(30)]
    assert cells(read_table(write(tmp_path / "a.json", json.dumps(rows, indent=2)))) == rows
    with pytest.raises(WeitiaoError, match=r"item 2 of the list \(line 2\) is not valid JSON"):
        read_table(write(tmp_path / "b.json", '[{"text": "a"},\n{"text": }]'))


# --- headers and layouts


def test_without_a_header_columns_are_found_by_place(tmp_path):
    pairs = read_table(write(tmp_path / "sts.csv", "A plane.,A plane taking off.,5.0\nA man.,A dog.,0.4\n"))
    assert pairs.headerless and len(pairs) == 2
    assert pairs.find(PAIRS) == {"text_a": "column_1", "text_b": "column_2", "label": "column_3"}
    texts = read_table(
        write(
            tmp_path / "t.csv",
            "good,这部电影非常好看，演员的表演也很到位，值得推荐给大家，特别是结尾的部分让人难忘，我还会再看\nbad,不好\n",
        )
    )
    assert texts.headerless
    assert texts.find(CLASSIFICATION) == {"text": "column_2", "label": "column_1"}
    with pytest.raises(WeitiaoError, match=r"no column for 'text'.*column_1, column_2, column_3"):
        pairs.find(CLASSIFICATION)


def test_has_header_decides(tmp_path):
    path = write(tmp_path / "a.csv", "x,y\n1,2\n")
    assert read_table(path).column_names == ["x", "y"]
    assert len(read_table(path, has_header=False)) == 2


def test_numbered_lines_fasttext_and_plain_lines(tmp_path):
    sst = read_table(write(tmp_path / "sst.txt", "0 no movement , no yuks .\n1 a stirring film\n"))
    assert cells(sst)[0] == {"label": "0", "text": "no movement , no yuks ."}
    fast = read_table(write(tmp_path / "fast.txt", "__label__体育 比赛 开始\n__label__财经 股市\n"))
    assert cells(fast)[0] == {"label": "体育", "text": "比赛 开始"}
    plain = read_table(write(tmp_path / "plain.txt", "one text\nanother 2\n"))
    assert cells(plain) == [{"text": "one text"}, {"text": "another 2"}]
    listing = read_table(write(tmp_path / "list.txt", "".join(f"{place} point\n" for place in range(1, 9))))
    assert listing.column_names == ["text"]


def test_quotes_that_are_text_in_a_tsv(tmp_path):
    table = read_table(write(tmp_path / "a.tsv", 'text\tlabel\n"Oh no\tbad\n"Yes" she said\tgood\n'))
    assert [row["text"] for row in table.rows] == ['"Oh no', '"Yes" she said']


def test_values_that_are_missing_are_named_when_wanted(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "x", "label": "a", "id": 1}\n{"text": "y", "id": null}\n')
    table = read_table(path)
    assert table.rows[1]["label"] is None
    make_records(table, {"text": "text"}, dict)
    with pytest.raises(BadRow, match=r"a\.jsonl, row 2, column 'label': there is no value"):
        make_records(table, table.find(CLASSIFICATION), dict)


def test_columns_kept(tmp_path):
    path = write(tmp_path / "a.csv", "id,text,label\n1,x,a\n")
    assert read_table(path, columns=["text", "label"]).column_names == ["text", "label"]
    with pytest.raises(WeitiaoError, match=r"no column 'txt'. Did you mean 'text'.*id, text, label"):
        read_table(path, columns={"text": "txt"})


def test_spans_in_every_writing(tmp_path):
    text, spans = (
        "浙商银行的叶老桂",
        [{"start": 0, "end": 4, "label": "company"}, {"start": 5, "end": 8, "label": "name"}],
    )
    writings = [
        {"text": text, "label": {"name": {"叶老桂": [[5, 7]]}, "company": {"浙商银行": [[0, 3]]}}},
        {"text": text, "spans": spans},
        {"text": text, "slots": [[5, 8, "name"], [0, 4, "company"]]},
        {
            "text": text,
            "entities": [
                {"start_offset": s["start"], "end_offset": s["end"], "type": s["label"]} for s in spans
            ],
        },
        {
            "tokens": list(text),
            "ner_tags": ["B-company"] + ["I-company"] * 3 + ["O", "B-name", "I-name", "I-name"],
        },
    ]
    for row in writings:
        table = read_table(write(tmp_path / "a.jsonl", as_jsonl([row])))
        columns = table.find(TOKENS)
        assert table.rows[0][columns["text"]] == text
        assert table.rows[0][columns["spans"]] == spans


def test_a_clue_row_without_entities_has_no_spans(tmp_path):
    rows = [{"text": "天气", "label": {}}, {"text": "北京", "label": {"address": {"北京": [[0, 1]]}}}]
    table = read_table(write(tmp_path / "a.jsonl", as_jsonl(rows)))
    assert [len(spans) for spans in table.rows["label"]] == [0, 1]


# --- what is wrong

WRONG = {
    "empty.csv": ("", "empty.csv is empty"),
    "blank.jsonl": ("\n \n", "blank.jsonl is empty"),
    "header.csv": ("text,label\n", "has no rows under its header"),
    "few.csv": ("text,label\nx,a\ny\n", "few.csv, row 3, column 'label': the row has 1 fields, not 2"),
    "many.csv": ("text,label\nx,a,b\n", "many.csv, row 2, column 'label': the row has 3 fields"),
    "quote.csv": (
        'text,label\nx,a\n"never closed,b\nz,c\n',
        r"row 3 \(line 3\): a quote is opened and never closed",
    ),
    "after.csv": (
        'text,label\n"x"y,a\n',
        "after.csv, row 2, column 'whole row': text follows a closing quote",
    ),
    "nul.csv": ("text,label\nx\0,a\n", r"NUL byte at offset 12 \(line 2\)"),
    "utf16.csv": ("text,label\n好,a\n".encode("utf-16"), "UTF-16"),
    "bytes.csv": (
        b"text,label\nok,a\n\xff\xff,b\n",
        r"neither UTF-8 nor GB18030: byte 0xff at offset 16 \(line 3\)",
    ),
    "syntax.jsonl": ('{"text": "x"}\n{"text": \n', "syntax.jsonl, row 2, column 'whole row': not valid JSON"),
    "scalar.jsonl": ('{"text": "x"}\n3\n', "row 2, column 'whole row': expected an object"),
    "object.json": ('{\n"a": [1]\n}', "is one JSON object, not a table"),
    "cut.json": ('[{"text": "x"},', "item 2 of the list"),
    "twice.csv": ("text,text\nx,y\n", "two columns called 'text'"),
    "a.xlsx": ("PK", "don't know how to read '.xlsx'"),
    "broken.parquet": ("PAR1", "not a whole Parquet file"),
    "mixed.jsonl": (
        '{"label": ["a"]}\n{"label": "b"}\n',
        "row 2, column 'label': 'b' is not of the column's type",
    ),
    "span.jsonl": ('{"text": "ab", "spans": [[0, 3, "x"]]}\n', r"row 1, column 'spans': the span \[0, 3\)"),
    "clue.jsonl": (
        '{"text": "北京", "label": {"a": {"京": [[0, 0]]}}}\n',
        "column 'label': characters 0 to 0 .* '北', not '京'",
    ),
    "tags.conll": ("A\tB-x\nb\tnoun\n", "tags.conll, row 2, column 'tags': 'noun' is not a BIO"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(tmp_path, name):
    content, message = WRONG[name]
    with pytest.raises(WeitiaoError, match=message) as caught:
        read_table(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("home/**/*.arrow"))


def test_wrong_paths(tmp_path):
    write(tmp_path / "reviews.csv", "text,label\nx,a\n")
    with pytest.raises(WeitiaoError, match=r"No such file: .*review.csv. Did you mean 'reviews.csv'"):
        read_table(tmp_path / "review.csv")
    with pytest.raises(WeitiaoError, match=r"is a folder"):
        read_table(tmp_path)
    whole = gzip.compress(b"text,label\n" + b"x,a\n" * 1000)
    (tmp_path / "cut.csv.gz").write_bytes(whole[:-20])
    (tmp_path / "not.csv.gz").write_bytes(b"text,label\nx,a\n")
    for name in ("cut.csv.gz", "not.csv.gz"):
        with pytest.raises(WeitiaoError, match=r"is not a whole gzip file"):
            read_table(tmp_path / name)
    with pytest.raises(WeitiaoError, match=r"Cannot read a table from a int"):
        read_table(3)


def test_bad_rows_can_be_skipped_and_are_listed(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\nx,a\nonly\n"q"z,b\ny,b,c\nw,b\n')
    table = read_table(path, skip_bad_rows=True)
    assert [row["text"] for row in table.rows] == ["x", "w"]
    assert [(bad.row, bad.column) for bad in table.bad_rows] == [(3, "label"), (4, "whole row"), (5, "label")]
    assert table.bad_rows[0].file == str(path)
    with pytest.raises(WeitiaoError, match=r"all 1 are bad. The first: .*row 2"):
        read_table(write(tmp_path / "b.csv", "text,label\nonly\n"), skip_bad_rows=True)


# --- the cache


def test_a_large_table_is_mapped_from_the_cache_and_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "SMALL_BYTES", 0)
    path = write(tmp_path / "a.csv", "text,label\n" + "x,a\n" * 11_000 + "bad\n")
    table = read_table(path, skip_bad_rows=True)
    (file,) = (tmp_path / "home" / "tables").glob("*.arrow")
    assert table.rows.cache_files == [{"filename": str(file)}]
    monkeypatch.setattr("weitiao.data.readers._open", lambda *_: pytest.fail("read the file again"))
    again = read_table(path, skip_bad_rows=True)
    assert (again.sha256, cells(again)) == (table.sha256, cells(table))
    assert [str(bad) for bad in again.bad_rows] == [str(bad) for bad in table.bad_rows] != []


def test_a_damaged_cache_entry_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "SMALL_BYTES", 0)
    path = write(tmp_path / "a.csv", "text,label\nx,a\n")
    read_table(path)
    (file,) = (tmp_path / "home" / "tables").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:-9])
    assert cells(read_table(path)) == [{"text": "x", "label": "a"}]


def test_a_cache_that_cannot_be_written_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "SMALL_BYTES", 0)
    monkeypatch.setenv("WEITIAO_HOME", str(write(tmp_path / "file", "in the way")))
    with pytest.raises(WeitiaoError, match=r"Cannot write to the cache .*WEITIAO_HOME"):
        read_table(ROWS)


def test_a_bad_row_late_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "SMALL_BYTES", 0)
    path = write(tmp_path / "a.csv", "text,label\n" + "x,a\n" * 25_000 + "bad\n")
    with pytest.raises(BadRow, match=r"row 25002"):
        read_table(path)
    assert not list((tmp_path / "home" / "tables").iterdir())


def test_records_carry_row_numbers_and_name_the_users_column(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "SMALL_BYTES", 0)
    table = read_table(write(tmp_path / "a.csv", "评论,label\nx,1\ny,no\nz,3\n"))
    columns = table.find(CLASSIFICATION)

    def example(row):
        if not row["label"].isdigit():
            raise BadRow("label", "not a number")
        return {"text": row["text"], "label": int(row["label"]), "spans": []}

    with pytest.raises(BadRow, match=r"a\.csv, row 3, column 'label': not a number"):
        make_records(table, columns, example)
    records, bad = make_records(table, columns, example, skip_bad_rows=True)
    assert (
        records["row_number"][:] == [2, 4]
        and records["label"][:] == [1, 3]
        and records["spans"][:] == [[], []]
    )
    assert [one.row for one in bad] == [3] and records.cache_files
    text_error = pytest.raises(BadRow, match=r"column '评论'")
    with text_error:
        make_records(table, columns, lambda row: (_ for _ in ()).throw(BadRow("text", "no")))


# --- splits of a source


def test_split_names():
    assert [split_name(name) for name in ("dev", "val", "Test", "训练集", "oos_test")] == [
        "validation", "validation", "test", "train", "",
    ]  # fmt: skip
    assert split_name("stsa.binary.train", at_end=True) == "train"
    assert split_name("train-00000-of-00001", at_end=True) == "train"
    assert split_name("latest", at_end=True) == ""


def test_a_folder_and_a_split_column(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(WeitiaoError, match=r"has no table called train, dev or test"):
        read_splits(folder)
    write(folder / "x_train.csv", as_csv(ROWS))
    write(folder / "x_dev.jsonl.gz", as_jsonl(ROWS[:1]))
    assert {name: len(table) for name, table in read_splits(folder).items()} == {"train": 2, "validation": 1}
    write(folder / "y_train.csv", as_csv(ROWS))
    with pytest.raises(WeitiaoError, match=r"two files for the split 'train'"):
        read_splits(folder)
    rows = [{"split": split, **ROWS[0]} for split in ("train", "val", "oos_test", "train")]
    assert {name: len(table) for name, table in read_splits(rows).items()} == {
        "train": 2, "validation": 1, "oos_test": 1,
    }  # fmt: skip
    assert list(read_splits(ROWS)) == ["train"]


# --- the real files

REAL = {
    "text/csl_category_train.jsonl.gz": (8000, CLASSIFICATION, ("text", "label")),
    "text/banking77_train.csv.gz": (10003, CLASSIFICATION, ("text", "category")),
    "text/online_shopping_10_cats.csv.gz": (62774, CLASSIFICATION, ("review", "label")),
    "text/stsa.binary.train.txt.gz": (6920, CLASSIFICATION, ("text", "label")),
    "text/smp2019_nlu.jsonl.gz": (2579, CLASSIFICATION, ("text", "intent")),
    "finance/fin_news_dated.csv.gz": (2400, CLASSIFICATION, ("正文", "正负面")),
    "lexicons/cold_dev.csv.gz": (6431, CLASSIFICATION, ("TEXT", "label")),
    "text/snips.jsonl.gz": (14484, TOKENS, ("text", "slots")),
    "ner_relation/cluener_train.jsonl.gz": (10748, TOKENS, ("text", "label")),
    "ner_relation/weibo2_train.conll.gz": (1350, TOKENS, ("text", "spans")),
    "ner_relation/wnut17_train.conll.gz": (3394, TOKENS, ("text", "spans")),
    "ner_relation/FinRE_train.jsonl.gz": (13486, RELATIONS, ("text", "head", "tail", "relation")),
    "ner_relation/semeval2010_8_train.jsonl.gz": (8000, RELATIONS, ("text", "relation")),
    "pairs/atec_train.jsonl.gz": (39346, PAIRS, ("a", "b", "label")),
    "pairs/zh_stsb_train.csv.gz": (5749, PAIRS, ("column_1", "column_2", "column_3")),
    "pairs/en_stsb_test.csv.gz": (1379, PAIRS, ("column_1", "column_2", "column_3")),
}


@needs_data
@pytest.mark.parametrize("name", REAL)
def test_real_files_read_as_they_are(name):
    rows, wanted, columns = REAL[name]
    table = read_table(SHARED / name)
    assert len(table) == rows
    assert tuple(table.find(wanted).values()) == columns


@needs_data
def test_real_splits_and_the_headerless_news():
    sizes = {name: len(table) for name, table in read_splits(SHARED / "text/clinc150.jsonl.gz").items()}
    assert sizes == {
        "train": 15000, "validation": 3000, "test": 4500, "oos_val": 100, "oos_train": 100, "oos_test": 1000,
    }  # fmt: skip
    assert set(read_splits(SHARED / "text/snips.jsonl.gz")) == {"train", "validation"}
    news = read_table(SHARED / "text/ag_news_test.csv.gz")
    assert news.headerless and len(news) == 7600
    assert news.find(CLASSIFICATION, {"text": "column_3", "label": "column_1"})["label"] == "column_1"


def test_a_tables_own_row_numbers_do_not_take_the_place_of_ours(tmp_path):
    path = tmp_path / "errors.csv"
    path.write_text("row_number,text,label\n7,good,a\n9,bad,b\n", encoding="utf-8")
    table = read_table(path)
    assert table.column_names == ["row_number (own)", "text", "label"]
    assert list(table.rows["row_number (own)"]) == ["7", "9"] and list(table.rows["row_number"]) == [2, 3]
