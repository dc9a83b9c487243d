"""Objectives that know more of a text than its label: its group, and which rules apply to it."""

from random import Random

import numpy as np
import pytest
import torch
from toy import RULES, make, make_parts, open_model, table

import weitiao
from weitiao.cli import main
from weitiao.core.errors import WeitiaoError
from weitiao.data.encode import Encoded, Ragged
from weitiao.objectives._rule_file import read_rules
from weitiao.training.loop import losses_of, train
from weitiao.training.outputs import outputs_of


def first_term(model, name, weight=1.0, encoded=None, **options):
    """What an addition adds to the loss of one step of 16 texts, its micro-batch, and the model's logits."""
    encoded = encoded or table(16)
    model.head.linear.weight.data *= 20  # a new head's answers hardly differ
    found = []
    for objective in ("cross_entropy", f"cross_entropy+{weight}*{name}"):
        parts = make_parts(model, encoded, batch_size=16, objective=objective, **options)
        (batch,) = parts.batches.step(np.arange(16))
        found.append(float(next(losses_of(parts, batch)).detach()))
    return found[1] - found[0], batch, model(batch.packed).detach().double().numpy()


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def softmax(logits):
    return np.exp(log_softmax(logits))


def groups_of(batch):
    return batch.rows % 2  # the toy's groups are "a", "b", "a", "b" ...


# --- the formulas in numpy


def test_group_dro_is_its_formula(tiny_model):
    added, batch, logits = first_term(open_model(tiny_model), "group_dro", group_dro_rate=2.0)
    y, g = batch.targets.numpy(), groups_of(batch)
    losses = -log_softmax(logits)[np.arange(16), y]
    means = np.array([losses[g == group].mean() for group in (0, 1)])
    q = np.exp(2.0 * means) / np.exp(2.0 * means).sum()
    assert abs(q[0] - q[1]) > 0.01
    assert added == pytest.approx(16 * (q * means).sum() - losses.sum(), rel=1e-3)


def test_invariant_risk_is_its_formula(tiny_model):
    """The slope of the mean cross-entropy by a scale of the logits is the mean of (p - y) z."""
    added, batch, logits = first_term(open_model(tiny_model), "irm")
    y, g = np.eye(3)[batch.targets.numpy()], groups_of(batch)
    slopes = [((softmax(logits) - y) * logits)[g == group].sum(1).mean() for group in (0, 1)]
    assert added == pytest.approx(16 * np.mean(np.square(slopes)), rel=1e-3)


@pytest.mark.parametrize("kind", ["demographic_parity", "equalised_odds"])
def test_the_fairness_gap_is_its_formula(tiny_model, kind):
    added, batch, logits = first_term(open_model(tiny_model), "fairness_gap", fairness_kind=kind)
    y, g, p = batch.targets.numpy(), groups_of(batch), softmax(logits)
    cases = [np.ones(16, bool)] if kind == "demographic_parity" else [y == c for c in range(3)]
    gaps = [np.abs(p[case & (g == 0)].mean(0) - p[case & (g == 1)].mean(0)).mean()
            for case in cases if len(set(g[case])) == 2]  # fmt: skip
    assert gaps and added == pytest.approx(16 * np.mean(gaps), rel=1e-3)


def test_a_broken_rule_costs_the_logarithm_of_its_probability(tiny_model):
    added, batch, logits = first_term(open_model(tiny_model), "rules")
    p, rules, expected = softmax(logits), read_rules(str(RULES)), 0.0
    for row, (a, b, c) in zip(batch.rows, p, strict=True):
        expected -= np.log(1 - a) if rules[0].applies(f"text {row}") else 0
        expected -= 0.5 * np.log(b + c) if rules[1].applies(f"text {row}") else 0
    assert added == pytest.approx(expected / 2, rel=1e-3)


def test_rules_between_labels_are_the_product_norm():
    """Over all worlds of three independent labels: the probability of those in which "a, then b or c" is true."""
    objective = make("objectives", "rules")
    objective.names = ["a", "b", "c"]
    logits = torch.tensor([[0.3, -1.0, 0.5]])
    p = logits.sigmoid()[0].tolist()
    worlds = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    expected = sum(
        np.prod([q if true else 1 - q for q, true in zip(p, world, strict=True)])
        for world in worlds
        if not world[0] or world[1] or world[2]
    )
    rule = make_rule(label="a", labels=("b", "c"), wanted=True)
    assert float(objective.kept(rule, logits, True)) == pytest.approx(expected)
    never = make_rule(labels=("a", "c"), wanted=False)
    assert float(objective.kept(never, logits, True)) == pytest.approx((1 - p[0]) * (1 - p[2]))


def make_rule(label="", labels=(), wanted=True):
    from weitiao.objectives._rule_file import Rule

    return Rule(1, (), label, tuple(labels), wanted, 1.0)


# --- what they are for


def shortcut(
    count: int, agrees: tuple[float, float], seed: int, core: float = 0.85
) -> tuple[Encoded, np.ndarray]:
    """Texts of a core word that names the class with probability ``core``, and a shortcut word that agrees with the
    class as often as the text's environment says (one number each for even and odd texts). Returns them and the
    groups (class, shortcut)."""
    random = Random(seed)
    rows, labels, groups = [], [], []
    for i in range(count):
        label = random.randrange(2)
        word = label if random.random() < core else 1 - label
        hint = label if random.random() < agrees[i % 2] else 1 - label
        tokens = [10 + word, 20 + hint, 20 + hint, 20 + hint, random.randrange(30, 60)]
        random.shuffle(tokens)
        rows.append(np.array([2, *tokens, 3]))
        labels.append(label)
        groups.append(2 * label + hint)
    return Encoded(Ragged.of(rows), targets=np.array(labels)), np.array(groups)


def trained(tiny_model, encoded, objective, facts=None, epochs=6, **options):
    model = open_model(tiny_model)
    settings = {"learning_rate": 3e-3, "epochs": epochs, "batch_size": 64, **options}
    parts = make_parts(model, encoded, objective=objective, **settings)
    if facts is not None:
        encoded.facts = facts
        for part in parts.losses.__self__.parts:
            part.counts = {str(group): 1 for group in np.unique(facts["group"])}
        parts.losses.__self__.prepare(torch.from_numpy(encoded.targets), 3)
    curve = [event.loss for event in train(parts)]
    return model.eval(), curve


def accuracy(model, encoded):
    return np.stack(outputs_of(model, encoded)).argmax(1) == encoded.targets


def test_the_worst_group_gains_by_group_dro(tiny_model):
    encoded, groups = shortcut(512, (0.97, 0.97), 0)
    test, test_groups = shortcut(400, (0.5, 0.5), 1)
    worst = {}
    for objective in ("cross_entropy", "cross_entropy+group_dro"):
        model, _ = trained(tiny_model, encoded, objective, {"group": groups}, group_dro_rate=0.5)
        right = accuracy(model, test)
        worst[objective] = min(right[test_groups == group].mean() for group in range(4))
    plain, robust = worst.values()
    assert robust > plain + 0.2, worst


def test_what_changes_between_environments_is_not_relied_on(tiny_model):
    encoded, _ = shortcut(512, (0.98, 0.80), 0, core=0.75)
    reversed_, _ = shortcut(300, (0.1, 0.1), 1, core=0.75)
    facts = {"group": np.arange(512) % 2}
    found = []
    for objective in ("cross_entropy", "cross_entropy+100*irm"):
        model, _ = trained(tiny_model, encoded, objective, facts, epochs=12)
        found.append(accuracy(model, reversed_).mean())
    assert found[1] > found[0] + 0.1, found


def test_the_gap_between_groups_falls(tiny_model):
    encoded, groups = shortcut(512, (0.8, 0.8), 0, core=0.8)
    hints = groups % 2  # the group of a text is its second word's, which tells much of the class
    gaps = []
    for objective in ("cross_entropy", "cross_entropy+6*fairness_gap"):
        model, _ = trained(tiny_model, encoded, objective, {"group": hints})
        yes = np.stack(outputs_of(model, encoded)).argmax(1) == 1
        gaps.append(abs(yes[hints == 0].mean() - yes[hints == 1].mean()))
    assert gaps[1] < 0.5 * gaps[0], gaps


GOLDEN = {
    "group_dro": [1.10709, 1.05644, 1.02968, 1.04024, 1.1006, 1.01985],
    "irm": [1.11834, 1.08534, 1.07223, 1.05202, 1.12008, 1.02268],
    "fairness_gap": [1.12531, 1.08172, 1.06982, 1.05019, 1.12196, 1.01767],
    "rules": [1.15315, 1.1275, 1.12543, 1.07142, 1.17255, 1.05405],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_loss_runs_as_it_did(tiny_model, name):
    """Six steps on the toy's table in fp32: what changes here changes what people train."""
    parts = make_parts(open_model(tiny_model), table(), objective=f"cross_entropy+{name}")
    assert [event.loss for event in train(parts)] == pytest.approx(GOLDEN[name], rel=1e-3)


# --- from the table to the batch


ROWS = [{"text": f"{['good money', 'bad card'][i % 2]} refund {i}", "label": "ab"[i % 2], "source": "xy"[i % 3 == 0]}
        for i in range(40)]  # fmt: skip
HOW = {"max_length": 32, "precision": "fp32", "threads": 1, "show": False, "num_epochs": 1, "batch_size": 8}


def test_groups_and_rules_reach_the_training_from_a_table(tiny_model, tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text("- if: {contains: good}\n  then: {not: b}\n", encoding="utf-8")
    run = weitiao.finetune(
        ROWS, model=str(tiny_model), output=tmp_path / "run", objective="cross_entropy+group_dro+0.5*rules",
        group_column="Source", rules=str(rules), augment="typo", checkpoint_steps=2, **HOW,
    )  # fmt: skip
    notes = [event["text"] for event in run.events if event["event"] == "note"]
    train_rows = run.metrics["data"]["train"]["rows"]
    (said,) = [note for note in notes if note.startswith("2 groups in 'Source'")]
    counts = [int(word.strip(",")) for word in said.split(":")[1].split() if word.strip(",").isdigit()]
    assert sum(counts) == 2 * train_rows  # the rewritten copies are of their row's group
    assert any(note.endswith(f"applies to: 1: {sum_of_good(run, train_rows)}") for note in notes)
    written = (tmp_path / "run" / "config.yaml").read_text()
    assert "group_column: Source" in written and "rules: " in written


def sum_of_good(run, train_rows):
    """The training texts with the word; typos may have spoilt some copies, so it is read from the note."""
    (note,) = [e["text"] for e in run.events if e["event"] == "note" and "each rule applies" in e["text"]]
    count = int(note.rpartition(" ")[2])
    assert train_rows // 3 <= count <= 2 * train_rows
    return count


def test_broken_rules_become_fewer(tiny_model, tmp_path):
    """Labels of texts with a word are wrong in the table as often as right; the rule says what they can't be."""
    random = Random(0)
    rows = [{"text": f"{random.choice(['good', 'bad'])} {random.choice(['refund', 'money', 'card'])} {i}",
             "label": random.choice("ab")} for i in range(160)]  # fmt: skip
    rules = tmp_path / "rules.yaml"
    rules.write_text("- {if: {contains: refund}, then: {not: a}}\n", encoding="utf-8")
    texts, broken = ["good refund", "bad refund", "refund"], []
    for objective in ("cross_entropy", "cross_entropy+4*rules"):
        settings = HOW | {"num_epochs": 3, "learning_rate": 3e-3, "objective": objective}
        settings |= {"rules": str(rules)} if "rules" in objective else {}
        run = weitiao.finetune(rows, model=str(tiny_model), output=tmp_path / objective, **settings)
        answers = run.predict(texts)
        broken.append(sum(a["score"] if a["label"] == "a" else 1 - a["score"] for a in answers) / 3)
    assert broken[1] < 0.2 < 0.35 < broken[0]


@pytest.mark.parametrize(("words", "said"), [
    (["--objective", "cross_entropy+group_dro"], "name the column that holds them with --group-column"),
    (["--objective", "cross_entropy+irm", "--group-column", "sauce"], "has no column 'sauce'. Did you mean 'source'"),
    (["--objective", "cross_entropy+irm", "--group-column", "same"], "holds one group alone (s 20)"),
    (["--objective", "cross_entropy+rules"], "needs a file of them: --rules FILE"),
    (["--objective", "cross_entropy+rules", "--rules", "missing.yaml"], "missing.yaml cannot be read"),
])  # fmt: skip
def test_what_is_missing_is_one_line_before_training(tiny_model, tmp_path, capsys, words, said):
    data, output = tmp_path / "data.csv", tmp_path / "run"
    lines = [f"text {i},{'ab'[i % 2]},{'xy'[i % 2]},s" for i in range(20)]
    data.write_text("text,label,source,same\n" + "\n".join(lines) + "\n", encoding="utf-8")
    command = [
        "finetune",
        "--data",
        data,
        "--model",
        tiny_model,
        "--output",
        output,
        "--test-fraction",
        "0",
        *words,
    ]
    assert main([str(word) for word in command]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("weitiao: ")]
    assert len(errors) == 1 and said in errors[0]
    assert not output.exists()


@pytest.mark.parametrize(("content", "said"), [
    ("{}", "must hold a list of rules"),
    ("- [", "cannot be read"),
    ("- {if: {contains: x}}", "rule 1: it has 'if' (optional), 'then'"),
    ("- {then: {not: a}}\n- {then: {not: a, label: b}}", "rule 2: 'then' holds either"),
    ("- {if: {holds: x}, then: {not: a}}", "rule 1: 'if' takes these keys, with texts: contains, matches, label"),
    ("- {if: {contains: ['']}, then: {not: a}}", "rule 1: 'if' takes these keys"),
    ("- {if: {matches: '('}, then: {not: a}}", "'(' is no regular expression"),
    ("- {then: {not: a}, weight: 0}", "weight is 0; it must be a number above 0"),
    ("- {then: praise}", "rule 1: 'then' takes these keys"),
])  # fmt: skip
def test_a_rule_that_is_none_is_one_line(tmp_path, content, said):
    path = tmp_path / "rules.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(WeitiaoError) as caught:
        read_rules(str(path))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "said"), [
    ("- {then: {not: prais}}", "no label 'prais'. Did you mean 'praise'?"),
    ("- {if: {contains: zzz}, then: {not: praise}}", "no rule applies to any training text"),
    ("- {if: {label: praise}, then: {not: blame}}", "rule 1 asks whether a text has the label 'praise'"),
])  # fmt: skip
def test_rules_that_do_not_suit_the_table_are_refused(tiny_model, tmp_path, content, said):
    path = tmp_path / "rules.yaml"
    path.write_text(content, encoding="utf-8")
    rows = [{"text": f"text {i}", "label": ["praise", "blame"][i % 2]} for i in range(20)]
    with pytest.raises(WeitiaoError, match=said.replace("?", r"\?")):
        weitiao.finetune(rows, model=str(tiny_model), output=tmp_path / "run", rules=str(path),
                         objective="cross_entropy+rules", **HOW)  # fmt: skip
    assert not (tmp_path / "run").joinpath("model").exists()


def test_words_of_rules_are_whole_words_in_latin_script(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text("- {if: {contains: [art, 退款]}, then: {not: a}}", encoding="utf-8")
    (rule,) = read_rules(str(path))
    found = [rule.applies(text) for text in ("Art!", "party", "我要退款了", "art退款", "款退")]
    assert found == [True, False, True, True, False]
