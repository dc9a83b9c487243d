"""The ground: settings, the catalogue, whole files or none; the terminal and trackers above it."""

import io
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weitiao.core import catalogue
from weitiao.core.config import build, make_member, option, read_yaml, to_yaml
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import (
    EstimateEvent,
    EvaluationEvent,
    NoteEvent,
    ProgressEvent,
    ResultEvent,
    StepEvent,
)
from weitiao.core.runs import Recorder, atomic_file, atomic_folder, read_events, read_json, write_json
from weitiao.reporting import terminal, trackers

LONE_SURROGATE = "half \ud83d of a pair"


@dataclass
class Settings:
    """One setting of each type."""

    name: str = option("", "a name", "名称")
    count: int = option(3, "how many", "数量", least=1, most=2**70)
    rate: float | None = option(None, "how fast", "速率", least=0)
    switch: bool = option(False, "on or off", "开关")
    words: list[str] = option([], "words", "词")
    pairs: dict[str, str] = option({}, "pairs", "键值对")
    mode: str = option("mean", "which", "方式", choices=("mean", "cls"))
    tuning: str = option("full", "tuning", "方法", family="tuning")
    member_values: dict[str, Any] = field(default_factory=dict)


# --- settings


@pytest.mark.parametrize(
    "values, said",
    [
        ({"cuont": 1}, "Did you mean 'count'?"),
        ({"lora_rnak": 4, "tuning": "lora"}, "Did you mean 'lora_rank'?"),
        ({"lora_rank": 4}, "Unknown setting 'lora_rank'"),  # not a setting of full
        ({"count": "three"}, "a whole number"),
        ({"count": 2.5}, "a whole number"),
        ({"count": True}, "a whole number"),
        ({"count": "inf"}, "a whole number"),
        ({"count": None}, "a whole number"),
        ({"count": 0}, "must lie in 1 .."),
        ({"rate": -0.1}, "must lie in 0 .. ∞"),
        ({"rate": "nan"}, "a number"),
        ({"switch": "maybe"}, "true or false"),
        ({"words": 7}, "a list"),
        ({"pairs": "text"}, "pairs, a=b,c=d"),
        ({"mode": "maen"}, "Did you mean 'mean'?"),
        ({"tuning": "lorra"}, "Did you mean 'lora'?"),
    ],
)
def test_a_wrong_setting_is_one_line_that_shows_the_way(values, said):
    with pytest.raises(WeitiaoError) as caught:
        build(Settings, values)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key, given_text, value",
    [
        ("count", "12", 12),
        ("count", "1e3", 1000),
        ("count", str(2**60 + 1), 2**60 + 1),  # a float would round it
        ("rate", "5e-5", 5e-5),
        ("rate", None, None),
        ("switch", "yes", True),
        ("switch", "False", False),
        ("words", "a, b,,c", ["a", "b", "c"]),
        ("pairs", "text=评论, label=星级", {"text": "评论", "label": "星级"}),
        ("pairs", "formula=a=b", {"formula": "a=b"}),
        ("tuning", "LoRA", "lora"),
    ],
)
def test_values_from_the_command_line_take_their_type(key, given_text, value):
    assert getattr(build(Settings, {key: given_text}), key) == value


def test_dashes_and_underscores_name_the_same_setting():
    assert build(Settings, {"tuning": "lora", "lora-rank": "4"}).member_values == {"lora_rank": 4}


def test_a_member_is_made_of_its_own_settings_only():
    lora = make_member("tuning", "lora", {"lora_rank": 4, "focal_gamma": 1.0})
    assert lora.lora_rank == 4 and not hasattr(lora, "focal_gamma")


def test_configs_never_share_a_list():
    build(Settings, {}).words.append("mine")
    assert build(Settings, {}).words == []


@given(
    st.fixed_dictionaries(
        {
            "name": st.text(),
            "count": st.integers(1, 2**64),
            "rate": st.none() | st.floats(0, allow_nan=False, allow_infinity=False),
            "switch": st.booleans(),
            "words": st.lists(st.text()),
            "pairs": st.dictionaries(st.text(), st.text()),
            "tuning": st.just("lora"),
            "lora_rank": st.integers(1, 64),
        }
    )
)
def test_a_config_comes_back_from_its_yaml(tmp_path_factory, values):
    config = build(Settings, values)
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    with atomic_file(path) as file:
        file.write(to_yaml(config))
    again = build(Settings, read_yaml(path))
    # The file also spells out the defaults of the member's other settings.
    assert again.member_values.items() >= config.member_values.items()
    again.member_values = config.member_values
    assert again == config


@pytest.mark.parametrize(
    "text, said", [("a: [1", "not valid YAML"), ("- a\n- b\n", "setting: value"), (None, "No such")]
)
def test_a_recipe_that_cannot_be_read_is_one_line(tmp_path, text, said):
    path = tmp_path / "recipe.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(WeitiaoError, match=said) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


# --- the catalogue


@pytest.mark.parametrize("family", catalogue.FAMILIES)
def test_a_family_lists_its_files_and_imports_on_use(root, family):
    files = {path.stem for path in (root / "src" / "weitiao" / family).glob("*.py")}
    own = {stem for stem in files if not stem.startswith("_") and stem != "base"}
    assert own and own <= set(catalogue.members(family))
    if family != "stages":
        for name in sorted(own):
            assert catalogue.member(family, name).__module__ == f"weitiao.{family}.{name}"


def test_an_unknown_member_names_the_near_miss_and_the_choices():
    with pytest.raises(WeitiaoError, match=r"Did you mean 'text_classification'\? Known: .*text_matching"):
        catalogue.member("tasks", "text-clasification")


@pytest.fixture
def fresh_catalogue():
    """The catalogue looks again at what is there, now and after the test."""
    caches = (catalogue.members, catalogue.member)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def add_outside_member(folder: Path, name: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution with one module and one entry point."""
    (folder / f"{name}_module.py").write_text(line)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[weitiao.tuning]\n{name} = {name}_module:Member\n")
    monkeypatch.syspath_prepend(str(folder))


def test_an_outside_package_adds_a_member(tmp_path, monkeypatch, fresh_catalogue):
    line = "from weitiao.tuning.full import Full\nclass Member(Full): pass\n"
    add_outside_member(tmp_path, "outside_tuning", line, monkeypatch)
    assert {"outside_tuning", "lora"} <= set(catalogue.members("tuning"))
    assert catalogue.member("tuning", "outside-tuning").__module__ == "outside_tuning_module"


def test_an_outside_member_of_another_kind_is_refused(tmp_path, monkeypatch, fresh_catalogue):
    add_outside_member(tmp_path, "odd_tuning", "class Member: pass\n", monkeypatch)
    with pytest.raises(WeitiaoError, match="odd_tuning_module:Member is not a Tuning"):
        catalogue.member("tuning", "odd_tuning")


@pytest.mark.parametrize("count", [0, 2])
def test_a_file_without_exactly_one_member_breaks_the_contract(tmp_path, monkeypatch, fresh_catalogue, count):
    import weitiao.tuning

    name = f"broken_{count}"
    classes = "".join(f"class Member{i}(Tuning): pass\n" for i in range(count))
    (tmp_path / "tuning").mkdir()
    (tmp_path / "tuning" / f"{name}.py").write_text("from weitiao.tuning.base import Tuning\n" + classes)
    monkeypatch.setattr(catalogue, "PACKAGE", tmp_path)
    monkeypatch.setattr(weitiao.tuning, "__path__", [*weitiao.tuning.__path__, str(tmp_path / "tuning")])
    with pytest.raises(WeitiaoError, match=rf"{name}\.py must define exactly one Tuning; it defines {count}"):
        catalogue.member("tuning", name)


# --- files


def test_a_failed_file_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write("half of the n")
        raise RuntimeError
    assert read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_a_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "model"
    with atomic_folder(path) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as folder:
        (folder / "weights").write_text("new")
        raise KeyboardInterrupt
    assert (path / "weights").read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "model"
    for name in ("old", "new"):
        with atomic_folder(path) as folder:
            (folder / name).write_text(name)
            assert not (path / name).exists()  # the name is taken at the end only
    assert os.listdir(path) == ["new"]
    assert os.listdir(path.parent) == ["model"]


def test_no_text_is_refused_or_changed_on_its_way_to_the_disk_and_back(tmp_path):
    texts = [LONE_SURROGATE, "line\u2028separator", "\x85\x0b\x1c", "\r\n", "中文"]
    write_json(tmp_path / "value.json", texts)
    assert read_json(tmp_path / "value.json") == texts
    recorder = Recorder(tmp_path)
    for text in texts:
        recorder(NoteEvent(text))
    recorder.close()
    assert [event["text"] for event in read_events(tmp_path)] == texts


def test_events_survive_a_line_cut_short(tmp_path):
    recorder = Recorder(tmp_path)
    recorder(NoteEvent("一"))
    recorder(NoteEvent("二"))
    recorder.close()
    path = tmp_path / "events.jsonl"
    whole = path.read_bytes()
    for cut in range(1, 40):  # through the second event, also in the middle of a character
        path.write_bytes(whole[:-cut])
        kept = [event["text"] for event in read_events(tmp_path)]
        assert kept == (["一", "二"] if cut == 1 else ["一"])
    assert read_events(tmp_path / "nowhere") == []


def test_json_that_cannot_be_read_is_an_error_for_the_user(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    for name, said in (("bad.json", "not readable JSON"), ("none.json", "No such file")):
        with pytest.raises(WeitiaoError, match=said):
            read_json(tmp_path / name)


# --- the terminal


def steps(count: int) -> list[StepEvent]:
    return [
        StepEvent(i + 1, count, (i + 1) / count, 1 / (i + 1), 1e-5, 1.0, 100, 1234.5) for i in range(count)
    ]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_stage_is_shown_within_100_columns(capsys, monkeypatch, language):
    monkeypatch.setenv("WEITIAO_LANG", language)
    scores = {
        "accuracy": 0.9,
        "macro_f1": 0.8,
        "weighted_f1": 0.7,
        "log_loss": 0.4,
        "auroc": 0.9,
        "recall": 0.5,
    }
    events = [
        NoteEvent("a long note of many words " * 8),
        NoteEvent("很长的说明文字，没有空格。" * 12),
        NoteEvent("take care", "warning"),
        EstimateEvent(1_400_000_000, 130.0),
        *(ProgressEvent("reading", done, 100) for done in (0, 50, 100)),
        *steps(50),
        EvaluationEvent(50, "dev", scores | {f"score {i}": 0.5 for i in range(9)}, "macro_f1", best=True),
        EstimateEvent(1_540_000_000, 195.0, actual=True),
        ResultEvent("runs/a", {"text": "the end"}),
    ]
    assert terminal.show(iter(events)) == 0
    said = capsys.readouterr()
    assert all(terminal.width(line) <= 100 for line in (said.out + said.err).splitlines())
    assert "take care" in said.err and "take care" not in said.out
    # No terminal, no bars: of 50 quick steps only the last is told.
    assert sum("50" in line for line in said.err.splitlines()) == 1 and "\r" not in said.err
    lines = said.out.splitlines()
    assert lines[-1] == "the end"
    assert "+50%" in lines[-2] and "+10%" in lines[-2] and "1.54 GB" in lines[-2]
    score = lines[-3]  # the monitored score comes first
    assert score.index("80.0%") < score.index("90.0%")
    assert {"en": "best so far", "zh": "目前最佳"}[language] in score


def test_notes_lose_no_character_when_they_are_wrapped():
    text = "混合 text，其中有 words 和很长的中文段落。" * 10
    wrapped = terminal.wrap(text, 40)
    assert "".join(wrapped.split()) == "".join(text.split())
    assert max(map(terminal.width, wrapped.split("\n"))) <= 40
    assert not any(line[0] in "，。" for line in wrapped.split("\n"))
    path = "/a" * 80
    assert terminal.wrap(path, 40) == path


def test_answers_alone_are_on_standard_output(capsys):
    answers = [{"text": "物流很快", "label": "好"}, {"text": LONE_SURROGATE}]
    terminal.show(iter([ProgressEvent("predicting", 0, 2), ResultEvent("", {"jsonl": answers})]))
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == answers


class Terminal(io.StringIO):
    """Standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_bars_are_drawn_on_a_terminal_and_closed_when_a_stage_fails(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)

    def fails():
        yield ProgressEvent("reading", 1, 2)
        yield from steps(3)[:2]
        raise WeitiaoError("no")

    with pytest.raises(WeitiaoError):
        terminal.show(fails())
    drawn = screen.getvalue()
    assert "reading" in drawn and "2/3" in drawn and "loss 0.5000" in drawn
    assert all(
        terminal.width(part) <= 101 for part in drawn.replace("\n", "\r").split("\r") if "\x1b" not in part
    )


@pytest.mark.parametrize(
    "seconds, shown",
    [
        (8.24, "8.2 s"),
        (9.97, "10 s"),
        (75, "75 s"),
        (720, "12 min"),
        (7199, "2 h 0 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_time_is_said_in_one_fitting_unit(seconds, shown):
    assert terminal.span(seconds) == shown


# --- trackers


def test_tensorboard_reads_back_what_was_tracked(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = trackers.make(["tensorboard"], tmp_path, {})
    for event in [
        *steps(3),
        EvaluationEvent(3, "dev", {"accuracy": 0.75}, "accuracy"),
        NoteEvent("not a number"),
    ]:
        tracker(event)
    tracker.close()
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    losses = read.Scalars("train/loss")
    assert [scalar.step for scalar in losses] == [1, 2, 3]
    assert [scalar.value for scalar in losses] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [(scalar.step, scalar.value) for scalar in read.Scalars("dev/accuracy")] == [(3, 0.75)]


def test_wandb_keeps_an_offline_run(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)  # offline is the default
    (tracker,) = trackers.make(["wandb"], tmp_path / "run", {"seed": 1})
    for event in [
        EstimateEvent(10, 1.0),
        *steps(2),
        EvaluationEvent(2, "dev", {"accuracy": 0.75}, "accuracy"),
    ]:
        tracker(event)
    tracker.close()
    wandb.teardown()  # wait for the service that writes the file, as the end of a process does
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert b"dev/accuracy" in kept.read_bytes()


def test_an_unknown_tracker_names_the_near_miss_and_starts_none(tmp_path):
    with pytest.raises(WeitiaoError, match="Did you mean 'tensorboard'"):
        trackers.make(["tensorboard", "tensorbord"], tmp_path, {})
    assert os.listdir(tmp_path) == []


def test_a_missing_package_is_one_line_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as Python marks a module that must not be imported
    with pytest.raises(WeitiaoError, match=r"needs the package wandb: pip install"):
        trackers.make(["wandb"], tmp_path, {})
