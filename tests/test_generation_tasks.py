"""Teaching a model to write: records, what is learnt of them, and whole runs with a tiny model."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import save_llama
from toy import make

from weitiao import api
from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.data.dialogues import dialogue
from weitiao.models.backbone import TextModel, open_backbone
from weitiao.models.heads import make_head
from weitiao.tasks._prompts import open_prompts, template_of
from weitiao.tasks.base import Answers
from weitiao.training.batches import Batches

ASKED = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]
FORMS = {
    "alpaca": {"instruction": "2+2", "input": "", "answer": "4"},
    "alpaca with input": {"instruction": "2", "input": "+2", "answer": "4"},
    "sharegpt": {"messages": [{"from": "human", "value": "2+2"}, {"from": "gpt", "value": "4"}]},
    "messages": {"messages": [json.dumps(one) for one in ASKED]},  # as readers keep them
    "messages that end with a question": {"messages": [*ASKED, {"role": "user", "content": "and?"}]},
    "a pair": {"messages": ASKED[:1], "answer": json.dumps([ASKED[1]])},
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama") / "tiny")


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A model without a template."""
    folder = save_llama(tmp_path_factory.mktemp("bare") / "tiny")
    card = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    card.pop("chat_template")
    (folder / "tokenizer_config.json").write_text(json.dumps(card), "utf-8")
    return folder


GOLDEN = {
    "causal_lm": [6.4701, 5.2649, 4.1623, 3.3876, 2.8735, 2.2356, 2.8260, 2.6730],
    "dpo": [0.6931, 0.3589, 0.1493, 0.1109, 0.0990, 0.0705, 0.0490, 0.0444],
}

# --- records


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_dialogues_are_told_apart(form):
    found = dialogue(FORMS[form])
    if form == "alpaca with input":
        assert found[0]["content"] == "2\n+2"
    else:
        assert found == ASKED


def test_earlier_turns_and_the_system_are_kept():
    row = {"instruction": "c", "answer": "d", "system": "s", "history": [["a", "b"]]}
    assert [(m["role"][0], m["content"]) for m in dialogue(row)] == [
        ("s", "s"), ("u", "a"), ("a", "b"), ("u", "c"), ("a", "d"),
    ]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), [
    ({"instruction": "a", "answer": " "}, "no answer"), ({"instruction": "", "answer": "b"}, "nothing is asked"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "unknown role 'tool'"),
    ({"messages": [{"role": "user"}]}, "no text"), ({"messages": ASKED[:1]}, "no answer"),
    ({"messages": ASKED[1:]}, "nothing is asked"),
])  # fmt: skip
def test_a_record_that_teaches_nothing_is_bad(row, message):
    with pytest.raises(BadRow, match=message):
        dialogue(row)


# --- what is learnt


def test_answers_and_their_ends_alone_are_learnt(llama):
    prompts = open_prompts(llama, chat=True)
    talk = [*ASKED, {"role": "user", "content": "<|im_end|> more"}, {"role": "assistant", "content": "好"}]
    ids, scored = prompts.taught(talk)
    learnt = [token for token, one in zip(ids, scored, strict=True) if one]
    assert prompts.tokenizer.decode(learnt, skip_special_tokens=False) == "4<|im_end|>好<|im_end|>"
    assert ids[: scored.index(True)] == prompts.encode(talk[:1]), "it is asked as it was taught"
    assert sum(token in prompts.ends for token in ids) == 5, "no message's words end a turn"


def test_the_template_is_the_one_of_transformers(llama):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(llama)
    talk = [{"role": "system", "content": "s"}, *ASKED, ASKED[0]]
    assert (
        open_prompts(llama).encode(talk)
        == theirs.apply_chat_template(talk, add_generation_prompt=True)["input_ids"]
    )


def test_a_model_without_a_template_gets_a_plain_one(bare, tmp_path):
    from weitiao.tasks._prompts import keep_prompts

    assert template_of(bare) is None
    prompts = open_prompts(bare, chat=True)
    keep_prompts(prompts, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}", "utf-8")
    assert template_of(tmp_path) == prompts.template, "what is written reads back as the same"
    ids, scored = prompts.taught(ASKED)
    assert (
        prompts.tokenizer.decode(ids, skip_special_tokens=False)
        == "User:\n2+2\n\nAssistant:\n4<|im_end|>\n\n"
    )
    assert sum(scored) == 2


def test_a_long_text_loses_its_end_never_its_question_or_answer(llama):
    task, prompts = (
        make("tasks", "summarization", instruction="Sum up: {text}"),
        open_prompts(llama, chat=True),
    )
    record = {"text": "the story of a cat " * 20, "answer": "a cat"}
    ids, scored = task.taught(prompts, record, 80)
    text = prompts.tokenizer.decode(ids)
    assert 70 < len(ids) <= 80 and sum(scored) == len(prompts.tokenizer.encode("a cat").ids) + 1
    assert "Sum up: the story" in text and text.strip().endswith("a cat")


def loss_of(model: TextModel, encoded: Any, rows: list[int]) -> float:
    batch = Batches(encoded, 8, 0).batch(np.array(rows))
    objective = make("objectives", "causal_lm")
    return float(objective.loss_sum(model(batch.packed, batch.marks_T), batch.targets))


def test_a_packed_row_of_dialogues_has_the_loss_of_each_alone_in_transformers(llama):
    from transformers import AutoModelForCausalLM

    task, prompts = make("tasks", "chat"), open_prompts(llama, chat=True)
    rows = [
        task.example({"instruction": text, "answer": text[::-1]})
        for text in ("abc", "the end of it", "好的", "x" * 40)
    ]
    encoded = task.encode(rows, prompts, 200, Answers("tokens"))
    backbone, config, _ = open_backbone(llama, causal=True)
    model = TextModel(backbone, make_head(task.head(Answers("tokens"), ""), 64), config).eval()
    theirs, wanted = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval(), []
    for row in rows:
        ids, scored = task.taught(prompts, row, 200)
        labels = torch.tensor([[token if one else -100 for token, one in zip(ids, scored, strict=True)]])
        wanted.append(float(theirs(torch.tensor([ids]), labels=labels).loss.detach()) * sum(scored))
    with torch.no_grad():
        assert loss_of(model, encoded, [0, 1, 2, 3]) == pytest.approx(sum(wanted), rel=1e-5)
        assert loss_of(model, encoded, [2]) == pytest.approx(wanted[2], rel=1e-5)
    found = task.outputs(model, encoded, rows, prompts)
    assert [one.negative_log_likelihood for one in found] == pytest.approx(wanted, rel=1e-4)


# --- whole runs


def table(folder: Path, rows: list[dict[str, Any]], name: str = "data.json") -> str:
    (folder / name).write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    return str(folder / name)


def greetings(count: int) -> list[dict[str, Any]]:
    """Questions whose answers a tiny model can learn: a colour's first letter."""
    chosen, words = random.Random(0), ["red", "blue", "green"]
    picked = [(chosen.choice(words), number) for number in range(count)]
    return [
        {"instruction": f"{word} {number}", "input": None, "output": f"{word[0]}!"} for word, number in picked
    ]


SETTINGS = {"task": "chat", "max_length": 64, "max_new_tokens": 8, "precision": "fp32", "threads": 1, "show": False,
            "dev_answers": 2, "test_answers": 8, "seed": 0, "batch_size": 8}  # fmt: skip


@pytest.fixture(scope="module")
def chat(llama, tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("chat")
    data = table(folder, greetings(320))
    return api.finetune(
        data, output=folder / "run", model=str(llama), learning_rate=4e-3, num_epochs=4, **SETTINGS
    )


def test_a_chat_run_learns_says_so_and_is_saved_whole(chat):
    report = chat.metrics["evaluation"]["test"]
    assert report["scores"]["rouge_1"] == report["scores"]["rouge_1"] > 0.9 > report["baseline"]["rouge_1"]
    assert report["scores"]["perplexity"] < 1.5
    curve = [e for e in chat.events if e["event"] == "evaluation" and e["split"] == "dev"]
    assert curve[0]["step"] == 0 and {"rouge_l", "bleu", "perplexity"} <= set(curve[-1]["scores"])
    assert chat.predict(["green 999"]) == [{"generated_text": "g!"}]
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(chat.folder / "model")


def test_a_chat_run_is_exported_and_answers_alike(chat, tmp_path):
    api.export(chat, tmp_path / "bundle")
    decoder = api.load(tmp_path / "bundle")
    asked = [{"role": "user", "content": "blue 7"}]
    assert decoder.generate(asked, max_new_tokens=8) == chat.predict(["blue 7"])[0]["generated_text"] == "b!"


def test_a_model_without_template_learns_with_lora_and_can_be_read_again(bare, tmp_path):
    data = table(tmp_path, greetings(40))
    options = {**SETTINGS, "dev_fraction": 0.0}
    run = api.finetune(data, output=tmp_path / "run", model=str(bare), tuning="lora", num_epochs=1, **options)
    assert run.predict(["red 1"]) == api.load(run.folder).predict(["red 1"])
    assert (run.folder / "model" / "chat_template.jinja").exists()
    api.export(run, tmp_path / "bundle")
    asked = [{"role": "user", "content": "red 1"}]
    assert (
        api.load(tmp_path / "bundle").generate(asked, max_new_tokens=8).strip()
        == run.predict(["red 1"])[0]["generated_text"]
    )
    assert "untrained" in run.metrics["evaluation"]["test"]["baseline"]


def test_a_summarization_run_is_compared_with_lead_1(llama, tmp_path):
    rows = [
        {"text": f"the {i} cat sat. It then slept on and on.", "summary": [f"the {i} cat", "a cat"]}
        for i in range(30)
    ]
    run = api.finetune(
        table(tmp_path, rows),
        output=tmp_path / "run",
        model=str(llama),
        num_epochs=1,
        **{**SETTINGS, "task": "summarization", "max_length": 200},
    )
    baseline = run.metrics["evaluation"]["test"]["baseline"]
    assert baseline["lead_1"]["rouge_1"] == pytest.approx(2 * 3 / 7)
    assert set(run.predict(["the 5 cat sat."])[0]) == {"summary_text"}


def test_texts_are_continued(llama, tmp_path):
    rows = [{"text": f"{i} abcabcabcabc{i}"} for i in range(30)]
    run = api.finetune(
        table(tmp_path, rows), output=tmp_path / "run", model=str(llama), num_epochs=1,
        **{**SETTINGS, "task": "text_generation"},
    )  # fmt: skip
    assert run.metrics["evaluation"]["test"]["scores"]["perplexity"] > 1
    assert set(run.predict(["1 abc"])[0]) == {"generated_text"}


def test_preference_tuning_raises_the_margin_of_better_answers(llama, tmp_path):
    rows = [
        {"prompt": f"{word} {i}", "chosen": "yes", "rejected": "no"}
        for i in range(20)
        for word in ("is", "was")
    ]
    held = [{"prompt": f"does {i}", "chosen": "yes", "rejected": "no"} for i in range(8)]
    run = api.finetune(
        table(tmp_path, rows), output=tmp_path / "run", model=str(llama), num_epochs=3, objective="dpo", learning_rate=2e-3,
        test_data=table(tmp_path, held, "test.json"), dpo_beta=0.2, **SETTINGS,
    )  # fmt: skip
    losses = [event["loss"] for event in run.events if event["event"] == "step"]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-4), "at the start nothing is preferred to the start"
    assert losses[-1] < 0.3
    task, prompts = run.task, run.tokenizer
    records = [
        {**task.example({"instruction": row["prompt"], "answer": "yes", "rejected": "no"})} for row in held
    ]
    after = [
        one.margin
        for one in task.outputs(run.model, task.encode(records, prompts, 64, run.answers), records, prompts)
    ]
    backbone, config, _ = open_backbone(llama, causal=True)
    start = TextModel(backbone, make_head({"type": "language"}, 64), config)
    before = [
        one.margin
        for one in task.outputs(start, task.encode(records, prompts, 64, run.answers), records, prompts)
    ]
    assert np.mean(after) > np.mean(before) + 3
    assert run.metrics["evaluation"]["test"]["scores"]["preference_accuracy"] == np.mean(np.array(after) > 0)


@pytest.mark.parametrize("name", ["causal_lm", "dpo"])
def test_the_loss_curve_is_the_one_on_record(llama, name):
    from toy import make_parts

    from weitiao.training.loop import train

    task, prompts = make("tasks", "chat"), open_prompts(llama, chat=True)
    rows = [
        task.example({"instruction": f"say {i}", "answer": str(i), "rejected": "no"} if name == "dpo" else
                     {"instruction": f"say {i}", "answer": str(i)})
        for i in range(16)
    ]  # fmt: skip
    encoded = task.encode(rows, prompts, 96, Answers("pairs" if name == "dpo" else "tokens"))
    backbone, config, _ = open_backbone(llama, causal=True)
    model = TextModel(backbone, make_head({"type": "language"}, 64), config)
    numbers = np.random.default_rng(0)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            parameter.copy_(
                torch.from_numpy(numbers.normal(1.0 if "norm" in key else 0.0, 0.15, parameter.shape))
            )
    parts = make_parts(model, encoded, batch_size=4, epochs=2, objective=name, learning_rate=2e-3)
    if name == "dpo":
        make("objectives", "dpo").remember(model, encoded)
    found = [event.loss for event in train(parts)]
    np.testing.assert_allclose(found, GOLDEN[name], atol=2e-3)


def test_a_record_without_an_answer_is_named_or_skipped(llama, tmp_path):
    rows = greetings(30)
    rows[3]["output"] = ""
    with pytest.raises(WeitiaoError, match=r"data\.json, row 4, column 'output': there is no answer"):
        api.finetune(table(tmp_path, rows), output=tmp_path / "run", model=str(llama), **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_prompts_that_fill_the_context_are_counted_or_refused(llama, tmp_path):
    task, prompts = make("tasks", "chat"), open_prompts(llama, chat=True)
    rows = [
        {**task.example({"instruction": "x" * n, "answer": "y"}), "row_number": i}
        for i, n in enumerate((500, 3), 1)
    ]
    encoded = task.encode(rows, prompts, 64, Answers("tokens"))
    (finding,) = task.check_encoded(encoded, rows, 64)
    assert (finding.count, finding.rows) == (1, [1])
    with pytest.raises(WeitiaoError, match="leave no room"):
        task.check_encoded(task.encode(rows[:1], prompts, 64, Answers("tokens")), rows[:1], 64)
