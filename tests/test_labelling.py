"""Labelling: wrong labels found, the page's server, answers on the disk, agreement, the loop, tables by hand."""

import csv
import http.client
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from weitiao.core.errors import WeitiaoError
from weitiao.labelling import agreement, noise
from weitiao.labelling.learner import Learner, accuracy
from weitiao.labelling.page import HEADERS, page
from weitiao.labelling.project import Given, Journal, Project
from weitiao.labelling.server import HEADER, Server
from weitiao.labelling.session import Scored, Session, Settings, Texts
from weitiao.labelling.tables import take_back, write_batch
from weitiao.selection.margin import Margin
from weitiao.training.probe import held_out_probabilities, solve

LABELS = ["好", "bad"]


def blobs(rows: int = 60, seed: int = 0, apart: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds of points: features float32 [N, 3] and their class."""
    random = np.random.default_rng(seed)
    classes_N = np.arange(rows) % 2
    return (random.normal(size=(rows, 3)) + apart * classes_N[:, None]).astype(np.float32), classes_N


def session(folder: Path, annotator: str = "me", rows: int = 60, **settings) -> Session:
    x_NF, _ = blobs(rows)
    shown = [f"文本 text {place}" for place in range(rows)]
    texts = Texts([place + 2 for place in range(rows)], shown, [{"text": text} for text in shown])
    project = Project(folder)
    project.settle({"data": "t.csv", "sha256": "1", "labels": LABELS})
    chosen = Settings(Margin(), "margin", **{"retrain_every": 5, **settings})
    test = Scored(*blobs(40, 1))
    return Session(project, project.journal(annotator), texts, LABELS, Learner(x_NF, 2), chosen, test)


def right(place: int) -> str:
    return LABELS[place % 2]


def work(one: Session, count: int) -> list[int]:
    """Answer rightly, as the page would; the rows in the order they came."""
    rows = []
    for _ in range(count):
        item = one.state()["item"]
        rows.append(item["row"])
        one.answer(item["row"], right(one.texts.place[item["row"]]))
    return rows


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


# --- wrong labels


def test_no_row_is_judged_by_a_head_that_saw_its_label():
    """A head that saw them would give every row its own label; here the labels have nothing to do with the rows."""
    random = np.random.default_rng(0)
    x_NF, y_N = random.normal(size=(40, 60)).astype(np.float32), np.arange(40) % 2
    *_, p_NC = held_out_probabilities(x_NF, y_N, 2, folds=4, penalty=0.01)
    assert np.allclose(p_NC.sum(1), 1)
    assert (p_NC.argmax(1) == y_N).mean() < 0.8
    seen = solve(x_NF, y_N, 2, penalty=0.01).probabilities(x_NF)
    assert (seen.argmax(1) == y_N).all()


def test_corrupted_labels_come_first():
    x_NF, y_N = blobs(200)
    bad = np.random.default_rng(1).permutation(200)[:40]
    given_N = y_N.copy()
    given_N[bad] = 1 - given_N[bad]
    *_, p_NC = held_out_probabilities(x_NF, given_N, 2, penalty=10.0)
    found = noise.find(p_NC, given_N)
    assert np.isin(found.order[:40], bad).mean() > 0.9
    assert (found.suggested_N[bad] == y_N[bad]).mean() > 0.9
    assert 30 <= found.wrong <= 50
    assert np.isin(np.flatnonzero(found.confident_N), bad).mean() > 0.9


def test_the_confident_joint_is_that_of_the_paper():
    """Thresholds, counts and their scaling, written out from the paper's equations 1 and 2."""
    random = np.random.default_rng(4)
    p_NC, labels_N = random.dirichlet([0.4] * 3, size=120), random.integers(0, 3, 120)
    t_C = np.array([p_NC[labels_N == j, j].mean() for j in range(3)])
    joint_CC, off = np.zeros((3, 3)), set()
    for row in range(120):
        over = [j for j in range(3) if p_NC[row, j] >= t_C[j]]
        if over:
            j = max(over, key=lambda j: p_NC[row, j])
            joint_CC[labels_N[row], j] += 1
            if j != labels_N[row]:
                off.add(row)
    scaled_CC = joint_CC / joint_CC.sum(1, keepdims=True) * np.bincount(labels_N)[:, None]
    found = noise.find(p_NC, labels_N)
    assert set(np.flatnonzero(found.confident_N).tolist()) == off
    assert found.wrong == pytest.approx(
        scaled_CC.sum() - np.trace(scaled_CC), abs=3
    )  # cleanlab rounds each cell
    assert found.order.tolist() == np.argsort(p_NC[np.arange(120), labels_N], kind="stable").tolist()


def test_a_class_without_a_row_is_no_error():
    x_NF, y_N = blobs(40)
    *_, p_NC = held_out_probabilities(x_NF, y_N * 2, 3)  # class 1 has none
    found = noise.find(p_NC, y_N * 2)
    assert set(found.suggested_N.tolist()) <= {0, 2}


# --- agreement


def test_kappa_equals_scikit_learn():
    random = np.random.default_rng(0)
    a, b = (random.choice(["x", "y", "z"], 50, p=[0.6, 0.3, 0.1]).tolist() for _ in range(2))
    assert agreement.cohen_kappa(list(zip(a, b, strict=True))) == pytest.approx(cohen_kappa_score(a, b))
    assert agreement.cohen_kappa([("x", "x")] * 3) is None
    assert agreement.cohen_kappa([]) is None


def test_alpha_equals_krippendorffs_own_example():
    """Krippendorff 2011, example C: four observers, twelve units, gaps, five values; nominal alpha 0.743."""
    table = {
        "a": "1 2 3 3 2 1 4 1 2 . . .", "b": "1 2 3 3 2 2 4 1 2 5 . 3",
        "c": ". 3 3 3 2 3 4 2 2 5 1 .", "d": "1 2 3 3 2 4 4 1 2 5 1 .",
    }  # fmt: skip
    by = {name: {u: v for u, v in enumerate(line.split()) if v != "."} for name, line in table.items()}
    assert agreement.krippendorff_alpha(by) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_by_hand():
    """Ten units, two observers, 01 data (Krippendorff 2011, example A): alpha 0.095."""
    a, b = list("0100000010"), list("1110010000")
    by = {"a": dict(enumerate(a)), "b": dict(enumerate(b))}
    assert agreement.krippendorff_alpha(by) == pytest.approx(0.095, abs=5e-4)
    found = agreement.report(by)["pairs"][0]
    assert (found["texts"], found["alike"]) == (10, 0.6)
    assert found["differences"][0] == ["0", "1", 3]
    assert agreement.krippendorff_alpha({"a": {1: "x"}, "b": {2: "x"}}) is None


# --- answers on the disk


def test_every_answer_is_a_line_at_once_and_undo_is_one_too(tmp_path):
    journal = Journal.open(tmp_path, "li")
    journal.add(Given(2, "好", "备注"))
    journal.add(Given(3, ""))
    journal.add(Given(4, "bad"))
    assert journal.undo().row == 4
    lines = [json.loads(line) for line in journal.path.read_text("utf-8").splitlines()]
    assert [line.get("undo", False) for line in lines] == [False, False, False, True]
    again = Journal.open(tmp_path, "li")
    assert again.done == journal.done
    assert again.labels == {2: "好"}
    assert again.answers[2].note == "备注"


def test_a_line_cut_short_by_a_crash_is_left_out_and_not_joined_to_the_next(tmp_path):
    journal = Journal.open(tmp_path, "li")
    journal.add(Given(2, "好"))
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + whole[: len(whole) // 2])
    again = Journal.open(tmp_path, "li")
    assert again.labels == {2: "好"}
    again.add(Given(3, "bad"))
    assert Journal.open(tmp_path, "li").labels == {2: "好", 3: "bad"}


def test_labels_of_another_table_are_refused(tmp_path):
    Project(tmp_path / "p").settle({"data": "a.csv", "sha256": "1", "labels": ["x"]})
    with pytest.raises(WeitiaoError, match=r"holds labels of a\.csv, whose content is not that of b\.csv"):
        Project(tmp_path / "p").settle({"data": "b.csv", "sha256": "2", "labels": ["x"]})
    added = Project(tmp_path / "p").settle({"data": "a.csv", "sha256": "1", "labels": ["y"]})
    assert added["labels"] == ["x", "y"]
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "thesis.doc").touch()
    with pytest.raises(WeitiaoError, match="holds no labelling project"):
        Project(tmp_path / "q").settle({"data": "b.csv", "sha256": "2", "labels": ["x"]})
    with pytest.raises(WeitiaoError, match="letters, digits"):
        Project(tmp_path / "p").journal("../li")


# --- the loop


def test_a_session_goes_on_where_it_was(tmp_path):
    first = work(session(tmp_path), 12)
    again = session(tmp_path)
    assert set(again.journal.answers) == set(first)
    rest = work(again, 48)
    assert sorted(first + rest) == again.texts.numbers, "every text came once"
    assert again.state()["item"] is None


def test_every_fifth_text_is_drawn_at_random_and_gain_is_recorded(tmp_path):
    one = session(tmp_path, random_share=0.5)
    work(one, 30)
    drawn = [given.drawn for given in one.journal.done]
    assert drawn.count("random") == 15
    rounds = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [entry["labels"] for entry in rounds] == [5, 10, 15, 20, 25, 30]
    last = rounds[-1]
    assert last["labels_each"] == 15
    assert last["gain"] == pytest.approx(last["chosen"] - last["random"])
    assert last["score"] > 0.9
    assert "gain" not in rounds[0]


def test_undo_brings_the_text_back_and_a_passed_one_stays_away(tmp_path):
    one = session(tmp_path)
    row = work(one, 1)[0]
    one.undo()
    assert one.state()["item"]["row"] == row
    one.answer(row, "", "unclear")
    assert one.state()["item"]["row"] != row
    assert one.state()["passed"] == 1
    assert row not in work(one, 20)


def test_a_second_annotator_gets_a_share_of_the_firsts_texts(tmp_path):
    first = set(work(session(tmp_path, "li"), 20))
    second = session(tmp_path, "wang", overlap=0.5)
    rows = work(second, 20)
    assert len(first & set(rows)) == 10
    both = agreement.report(second.project.by_annotator())
    assert both["pairs"][0]["texts"] == 10
    assert both["alpha"] == 1
    labels, open_ = second.project.settled_labels()
    assert len(labels) == 30
    assert not open_


def test_where_annotators_differ_no_label_is_settled(tmp_path):
    for name, label in (("li", "好"), ("wang", "bad")):
        one = session(tmp_path, name)
        one.keep(2, label, "", "")
    assert one.project.write_labels(one.texts.by_number(), "label") == (0, 1)
    assert read_csv(tmp_path / "disagreements.csv") == [
        {"source_row": "2", "text": "文本 text 0", "li": "好", "wang": "bad"}
    ]


def test_unknown_rows_and_labels_are_refused(tmp_path):
    one = session(tmp_path)
    with pytest.raises(WeitiaoError, match="no row 999"):
        one.answer(999, "好")
    with pytest.raises(WeitiaoError, match=r"Unknown label 'bed'.* Did you mean 'bad'"):
        one.answer(2, "bed")
    assert not one.journal.path.exists()


def test_a_head_needs_two_classes(tmp_path):
    x_NF, y_N = blobs(10)
    learner = Learner(x_NF, 2)
    assert learner.fit({0: 0, 2: 0}) is None
    assert accuracy(None, x_NF, y_N) == 0.5
    assert accuracy(learner.fit({0: 0, 1: 1}), x_NF, y_N) == 1.0


# --- the page's server


def ask(server: Server, method: str, path: str, body: object = None, **headers: str):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    sent = json.dumps(body).encode() if not isinstance(body, bytes) and body is not None else body
    connection.request(method, path, sent, {HEADER: server.token, **headers})
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


@pytest.fixture
def server(tmp_path):
    with Server(session(tmp_path), 0) as running:
        yield running


def test_the_page_labels_and_undoes(server):
    status, body, _ = ask(server, "GET", "/state")
    state = json.loads(body)
    assert (status, state["done"], state["total"], state["labels"]) == (200, 0, 60, LABELS)
    row = state["item"]["row"]
    given = {"row": row, "label": "好", "note": "半个代理项 \ud83d", "seconds": 1.5}
    status, body, _ = ask(server, "POST", "/answer", given)
    assert (status, json.loads(body)["done"]) == (200, 1)
    kept = Journal.open(server.session.project.folder, "me").done[0]
    assert (kept.row, kept.label, kept.seconds, kept.drawn) == (row, "好", 1.5, "margin")
    status, body, _ = ask(server, "POST", "/undo", {})
    assert json.loads(body)["item"]["row"] == row
    assert json.loads(body)["can_undo"] is False


@pytest.mark.parametrize("headers", [
    {HEADER: ""}, {HEADER: "wrong"}, {"Host": "evil.example"}, {"Host": "evil.example:80"},
])  # fmt: skip
def test_other_sites_get_nothing(server, headers):
    for method, path, body in (("GET", "/state", None), ("POST", "/answer", {"row": 2, "label": "好"})):
        status, answer, _ = ask(server, method, path, body, **headers)
        assert status == 403
        assert "文本" not in answer.decode()
    assert not server.session.journal.done


@pytest.mark.parametrize(("body", "status"), [
    (b"{", 400), ([], 400), ({}, 422), ({"row": "2", "label": "好", "note": "", "seconds": 1}, 422),
    ({"row": 2, "label": "?", "note": "", "seconds": 1}, 422), ({"row": 2, "label": "好", "note": "x" * 2001, "seconds": 1}, 422),
    (b"x" * 70_000, 413),
])  # fmt: skip
def test_what_the_page_would_not_send_is_refused_and_kept_nowhere(server, body, status):
    found, answer, _ = ask(server, "POST", "/answer", body)
    assert found == status
    assert json.loads(answer)["error"]
    assert not server.session.journal.done


def test_the_page_loads_nothing_and_runs_its_own_script_alone(server):
    status, body, headers = ask(server, "GET", "/", **{HEADER: ""})
    text = body.decode()
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy == HEADERS["Content-Security-Policy"]
    assert text.count("<script>") == 1
    assert "http" not in text.replace("http-equiv", "")
    assert "innerHTML" not in text
    assert server.token not in text
    assert "文本 text" not in text
    assert ask(server, "GET", "/etc/passwd")[0] == 404


def test_the_page_is_in_both_languages(monkeypatch):
    for tongue, word in (("en", "Undo"), ("zh", "撤销")):
        monkeypatch.setenv("WEITIAO_LANG", tongue)
        assert f'id="{tongue}" checked' in page()
        assert word in page()


def test_a_port_that_is_taken_is_one_clear_error(server):
    with pytest.raises(WeitiaoError, match=f"Port {server.port} is not free"):
        Server(server.session, server.port)


# --- tables by hand


def filled(path: Path, change=lambda row: {}) -> None:
    rows = read_csv(path)
    for row in rows:
        last = row["text"].split()[-1]
        row["label"] = right(int(last)) if last.isdigit() else ""
        row |= change(row)
    with open(path, "w", encoding="gb18030", newline="") as file:  # as a Chinese spreadsheet saves it
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_batch_goes_out_and_comes_back(tmp_path):
    one = session(tmp_path / "p")
    path = tmp_path / "batch.csv"
    assert write_batch(path, one, 8) == 8
    before = path.read_bytes()
    write_batch(path, one, 8)
    assert path.read_bytes() == before, "asked again, the same rows"
    filled(path, lambda row: {"label": ""} if row["text"].endswith("0") else {})
    empty = sum(row.endswith("0") for row in (one.texts.shown[p] for p, _ in one.upcoming(8)))
    assert take_back(path, one) == (8 - empty, empty)
    assert take_back(path, one) == (0, empty), "taken twice, kept once"
    assert {given.drawn for given in one.journal.done} <= {"margin", "random"}
    assert all(given.label == right(one.texts.place[given.row]) for given in one.journal.done)


@pytest.mark.parametrize(("change", "message"), [
    (lambda row: {"label": "goof"}, "Unknown label 'goof'"),
    (lambda row: {"text": "another text"}, "is not that of the texts"),
    (lambda row: {"source_row": "9999"}, "row 9999 is not that of the texts"),
    (lambda row: {"source_row": "first"}, "row first is not"),
])  # fmt: skip
def test_a_table_that_was_spoilt_is_taken_back_not_at_all(tmp_path, change, message):
    one = session(tmp_path / "p")
    path = tmp_path / "batch.csv"
    write_batch(path, one, 6)
    filled(path, change)
    with pytest.raises(WeitiaoError, match=message):
        take_back(path, one)
    assert not one.journal.done


def test_a_text_that_is_a_formula_goes_out_as_text(tmp_path):
    one = session(tmp_path / "p", rows=4)
    one.texts.shown[0] = "=1+1 bad"
    path = tmp_path / "batch.csv"
    write_batch(path, one, 4)
    assert "'=1+1 bad" in path.read_text("utf-8-sig")
    filled(path, lambda row: {"label": "bad"} if "=1+1" in row["text"] else {})
    assert take_back(path, one) == (4, 0)


# --- the whole command


WORDS = {"好": "银行卡 余额", "bad": "card money", "new": "good bank"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    """Labelled and unlabelled texts as tables."""
    folder = tmp_path_factory.mktemp("tables")
    rows = [{"text": f"{WORDS[label]} {i}", "label": label} for i in range(30) for label in LABELS]
    (folder / "labelled.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    rows[7]["label"], rows[20]["label"] = LABELS[0], LABELS[1]  # both wrong
    (folder / "wrong.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "texts.csv").write_text(
        "text\n" + "\n".join(f"{WORDS[n]} x{i}" for i in range(12) for n in WORDS), "utf-8"
    )
    return folder


def label(**settings):
    from weitiao.core.config import build
    from weitiao.stages import label as stage

    return list(stage.run(build(stage.Config, {"threads": 1, **settings})))


def test_an_audit_lists_what_was_made_wrong_first(tables, tiny_model, tmp_path):
    data, output = str(tables / "wrong.jsonl"), str(tmp_path / "audit")
    result = label(data=data, model=str(tiny_model), audit=True, output=output, max_length=32)[-1].result
    rows = read_csv(tmp_path / "audit/suspects.csv")
    assert {row["row_number"] for row in rows[:2]} == {"8", "21"}
    assert [row["suggested"] for row in rows[:2]] == [
        {"好": "bad", "bad": "好"}[row["label"]] for row in rows[:2]
    ]
    assert result["rows"] == len(rows) == 60
    page_ = (tmp_path / "audit/suspects.html").read_text("utf-8")
    assert page_.index(rows[0]["text"]) < page_.index(rows[5]["text"])
    assert "<script" not in page_


def test_labelling_with_a_run_begins_with_what_it_knows(tables, tiny_model, tmp_path):
    import weitiao

    run = tmp_path / "run"
    weitiao.finetune(str(tables / "labelled.jsonl"), output=run, show=False, model=str(tiny_model), tuning="head",
                     max_length=32, threads=1)  # fmt: skip
    settings = {"data": str(tables / "texts.csv"), "run": str(run), "output": str(tmp_path / "labels")}
    label(**settings, labels=["new"], batch=10)
    rows = read_csv(tmp_path / "labels/batch.csv")
    by_words = {words: name for name, words in WORDS.items()}
    for row in rows:
        row["label"] = by_words[row["text"].rsplit(" ", 1)[0]]
    with open(tmp_path / "filled.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    events = label(**settings, take=str(tmp_path / "filled.csv"))
    assert events[-1].result["labels"] == 10
    assert events[-1].result["round"]["score"] > 0.9, "scored on the run's own test rows"
    kept = read_csv(tmp_path / "labels/labels.csv")
    assert {row["label"] for row in kept} <= set(WORDS)
    assert kept[0].keys() == {"source_row", "text", "label"}
    weitiao.finetune(str(tmp_path / "labels/labels.csv"), output=tmp_path / "next", show=False, model=str(tiny_model),
                     tuning="head", max_length=32, threads=1, test_fraction=0.0)  # fmt: skip


def test_bad_settings_are_one_line_each(tables, tiny_model, tmp_path):
    data, model = str(tables / "texts.csv"), str(tiny_model)
    cases = [
        ({}, "No data"),
        ({"data": data, "model": model}, "Which labels"),
        ({"data": data, "model": model, "labels": ["one"]}, "Which labels"),
        ({"data": data, "audit": True, "batch": 3}, "--audit and --batch are two things"),
        (
            {"data": data, "model": model, "labels": ["a", "b"], "strategy": "best"},
            "Unknown selection 'best'",
        ),
        ({"data": data, "model": model, "labels": ["a", "b"], "annotator": "a/b"}, "letters, digits"),
        (
            {"data": data, "model": model, "labels": ["a", "b"], "task": "token_classification"},
            "exactly one label",
        ),
        ({"output": str(tmp_path), "agreement": True}, "agreement needs two"),
        ({"data": data, "model": model, "audit": True}, "no column"),
    ]
    for settings, message in cases:
        with pytest.raises(WeitiaoError, match=message) as error:
            label(**{"output": str(tmp_path / "p"), **settings})
        assert "\n" not in str(error.value)
    assert not (tmp_path / "p").exists()
