"""A run that is killed, stopped or short of disk goes on and ends in the weights of an undisturbed one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from weitiao.core.runs import read_events, sha256
from weitiao.engines.base import has_bf16
from weitiao.training.checkpoint import is_complete

DEADLINE_SECONDS = 120
# The program itself, which sends itself a signal as a chosen thing happens for the nth time. Python announces
# what it is about to do to the system ("audit events": opening, renaming, removing): the moment is exact, and
# nothing is patched.
SIGNALLED_AT = """
import os, sys
event, needle, count, signal = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def watch(name, args):
    global count
    if name == event and any(needle in str(part) for part in args):
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal)
sys.addaudithook(watch)
from weitiao.cli import main
sys.exit(main(sys.argv[5:]))
"""
SMALL_FILES = """
import resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from weitiao.cli import main
sys.exit(main(sys.argv[2:]))
"""


def start(*arguments: object, before: tuple[str, ...] = ("-m", "weitiao")) -> subprocess.Popen:
    """Start the program; nothing of its output can block it."""
    command = [sys.executable, *before, *map(str, arguments)]
    how = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen(command, **how)


def end(process: subprocess.Popen) -> tuple[int, str]:
    """Its exit code and what it said on standard error."""
    said = process.communicate(timeout=DEADLINE_SECONDS)[1]
    return process.returncode, said


def command(*arguments: object) -> tuple[int, str]:
    return end(start(*arguments))


def resume(folder: Path) -> str:
    """Go on with a run until its end. Returns the warnings."""
    code, said = command("finetune", "--output", folder, "--resume")
    assert code == 0, said
    return said


def kill_at(event: str, needle: str, count: int, *arguments: object) -> None:
    """Run a command that is killed at a given moment."""
    code, said = end(
        start(event, needle, count, int(signal.SIGKILL), *arguments, before=("-c", SIGNALLED_AT))
    )
    assert code == -signal.SIGKILL, f"not killed at {event} {needle}: {said}"


def weights(folder: Path) -> dict[str, str]:
    """The hashes of a run's weights."""
    found = {path.name: sha256(path) for path in (folder / "model").glob("*.safetensors")}
    assert len(found) == 2, found  # the backbone (or the adapter) and the head
    return found


def steps(folder: Path) -> list[int]:
    return [event["step"] for event in read_events(folder) if event["event"] == "step"]


def wait_for(process: subprocess.Popen, reached: Callable[[], bool]) -> None:
    """Look until a condition holds; fail if the process ends, or takes far too long, before it does."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not reached():
        assert process.poll() is None, f"ended early: {process.stderr.read()}"
        assert time.monotonic() < deadline, "never got there"


def leftovers(folder: Path) -> list[str]:
    """What a finished run has no use for."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".") or path.name == "checkpoints"]


@pytest.fixture(scope="module")
def settings(tiny_model: Path, example_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """``finetune`` on four kinds of questions: 12 steps an epoch, four epochs, a checkpoint each 3 steps."""
    import pandas

    rows = pandas.read_csv(example_data / "banking77" / "train.csv.gz")
    groups = [group for _, group in list(rows.groupby("category"))[:4]]
    folder = tmp_path_factory.mktemp("data")
    for name, first, last in (("train", 0, 24), ("dev", 24, 32), ("test", 32, 40)):
        pandas.concat(group[first:last] for group in groups).to_csv(folder / f"{name}.csv", index=False)
    options = {"data": folder, "model": tiny_model, "max-length": 48, "batch-size": 8, "num-epochs": 4}
    options |= {"learning-rate": 0.003, "checkpoint-steps": 3, "precision": "fp32", "threads": 1}
    return ["finetune", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]


@pytest.fixture(scope="module")
def undisturbed(
    settings: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, str]]:
    """The weights of a run that nothing disturbed, trained once for each choice of settings."""
    known: dict[tuple[str, ...], dict[str, str]] = {}

    def get(*more: str) -> dict[str, str]:
        if more not in known:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            code, said = command(*settings, *more, "--output", folder)
            assert code == 0, said
            assert steps(folder) == list(range(1, 49))
            assert leftovers(folder) == []
            known[more] = weights(folder)
        return known[more]

    return get


@pytest.fixture(scope="module")
def killed(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run killed as it begins to write the checkpoint of step 9: two are whole (3 and 6). Copy it."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    kill_at("tempfile.mkdtemp", "step-00000009", 1, *settings, "--output", folder)
    return folder


@pytest.fixture
def copy(killed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(killed, tmp_path / "run")


CHECKPOINT_MOMENTS = [
    ("tempfile.mkdtemp", "step-00000003", 1),  # before the first checkpoint
    ("open", "optimizer.safetensors", 1),  # files are there, the manifest is not
    ("os.rename", "step-00000006", 1),  # all is written, under the temporary name
    (
        "shutil.rmtree",
        "step-00000003",
        1,
    ),  # right after a checkpoint (of step 9), as the oldest is about to go
    ("os.remove", "weights.safetensors", 2),  # an old checkpoint half removed
]
FINAL_MOMENTS = [
    ("tempfile.mkdtemp", ".model.", 1),  # trained, nothing saved
    ("os.rename", "/model", 1),  # saved under the temporary name
    ("os.rename", "metrics.json", 1),  # the model is there, the scores are not
    ("os.rename", "report.html", 1),  # all but the report
]


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_kill_after_kill_ends_in_the_same_weights(
    settings: list[str], undisturbed: Callable[..., dict[str, str]], tmp_path: Path, tuning: str
) -> None:
    more = () if tuning == "full" else ("--tuning", tuning)
    folder = tmp_path / "run"
    arguments = [*settings, *more, "--output", str(folder)]
    # LoRA shares with full tuning all that comes after its weights are saved.
    for moment in CHECKPOINT_MOMENTS + (FINAL_MOMENTS if tuning == "full" else FINAL_MOMENTS[1:2]):
        kill_at(*moment, *arguments)
        arguments = ["finetune", "--output", str(folder), "--resume"]
    resume(folder)
    assert weights(folder) == undisturbed(*more)
    assert leftovers(folder) == []
    assert (folder / "report.html").exists()


@pytest.mark.skipif(
    not has_bf16(), reason="a processor without bf16 products only imitates them, for minutes"
)
@pytest.mark.parametrize(
    "method", ["--tuning=lora", "--tuning=adalora", "--objective=cross_entropy+r_drop+freelb+mixup"]
)
def test_kill_in_mid_epoch_in_bf16(
    settings: list[str], undisturbed: Callable[..., dict[str, str]], tmp_path: Path, method: str
) -> None:
    more = (method, "--precision", "bf16")
    process = start(*settings, *more, "--output", tmp_path / "run")
    wait_for(process, lambda: len(steps(tmp_path / "run")) >= 16)  # the second of four epochs
    os.kill(process.pid, signal.SIGKILL)
    assert end(process)[0] == -signal.SIGKILL
    resume(tmp_path / "run")
    assert weights(tmp_path / "run") == undisturbed(*more)


def cut_weights(checkpoint: Path) -> None:
    path = checkpoint / "weights.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def remove_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


def flip_byte(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_weights, remove_manifest, flip_byte])
def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(
    copy: Path, undisturbed: Callable[..., dict[str, str]], damage: Callable[[Path], None]
) -> None:
    damage(copy / "checkpoints" / "step-00000006")
    warnings = resume(copy)
    assert "step-00000006 is damaged and was skipped" in warnings
    assert steps(copy)[9:] == list(range(4, 49))  # 1 .. 9 before the kill, then on from step 3
    assert weights(copy) == undisturbed()


def test_other_data_is_refused_and_the_checkpoints_stay(
    settings: list[str], undisturbed: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    data = shutil.copytree(settings[settings.index("--data") + 1], tmp_path / "data")
    mine = [str(data) if part == settings[2] else part for part in settings]
    kill_at("tempfile.mkdtemp", "step-00000009", 1, *mine, "--output", tmp_path / "run")
    original = (data / "dev.csv").read_text("utf-8")
    (data / "dev.csv").write_text(original.replace("?", "!"), "utf-8")
    code, said = command("finetune", "--output", tmp_path / "run", "--resume")
    assert code == 2 and "The dev data is not what this run began with" in said and "Traceback" not in said
    (data / "dev.csv").write_text(original, "utf-8")
    resume(tmp_path / "run")
    assert weights(tmp_path / "run") == undisturbed()


def test_ctrl_c_saves_and_says_how_to_go_on(
    settings: list[str], undisturbed: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    folder = tmp_path / "a run"
    moment = ("os.rename", "step-00000009", 1, int(signal.SIGINT))  # in the middle of writing a checkpoint
    code, said = end(start(*moment, *settings, "--output", folder, before=("-c", SIGNALLED_AT)))
    assert code == 2
    assert steps(folder) == list(range(1, 10))
    assert is_complete(folder / "checkpoints" / "step-00000009")
    lines = [line for line in said.splitlines() if line.startswith("weitiao: ")]
    way = f"Go on with: weitiao finetune --output '{folder}' --resume"
    assert lines == [f"weitiao: Stopped at step 9; everything is saved. {way}"]
    assert "Traceback" not in said
    resume(folder)
    assert steps(folder) == list(range(1, 49))
    assert weights(folder) == undisturbed()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder on a small disk of its own, and what makes room there. Skips where it cannot be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no permission to mount a small disk")
    yield (
        folder,
        lambda: subprocess.run(
            ["mount", "-o", "remount,size=64m", str(folder)], check=True, capture_output=True
        ),
    )
    subprocess.run(["umount", str(folder)], check=True)


def assert_stopped_for_space(code: int, said: str, folder: Path) -> None:
    assert code == 2, said
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("weitiao: ")]
    assert lines == ["weitiao: the disk is full: free some space and go on with --resume"]
    assert is_complete(folder / "checkpoints" / "step-00000006")
    assert not list((folder / "checkpoints").glob(".*"))


def test_a_full_disk_leaves_the_last_checkpoint_usable(
    copy: Path, undisturbed: Callable[..., dict[str, str]], full_disk: tuple[Path, Callable[[], None]]
) -> None:
    disk, make_room = full_disk
    folder = shutil.copytree(copy, disk / "run")
    free = shutil.disk_usage(disk).free
    size = sum(path.stat().st_size for path in (folder / "checkpoints" / "step-00000006").iterdir())
    (disk / "filler").write_bytes(b"0" * (free - size // 2))  # room for half a checkpoint
    code, said = command("finetune", "--output", folder, "--resume")
    assert_stopped_for_space(code, said, folder)
    make_room()
    resume(folder)
    assert weights(folder) == undisturbed()


def test_a_file_that_may_not_grow_is_a_full_disk_too(
    copy: Path, undisturbed: Callable[..., dict[str, str]]
) -> None:
    largest = (copy / "checkpoints" / "step-00000006" / "optimizer.safetensors").stat().st_size
    arguments = ("finetune", "--output", copy, "--resume")
    code, said = end(start(largest // 2, *arguments, before=("-c", SMALL_FILES)))
    assert_stopped_for_space(code, said, copy)
    resume(copy)
    assert weights(copy) == undisturbed()


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file with its hash and time of change."""
    return {
        str(path.relative_to(folder)): (sha256(path), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_another_run_into_the_folder_is_refused_and_touches_nothing(settings: list[str], copy: Path) -> None:
    before = tree(copy)
    code, said = command(*settings, "--output", copy)
    assert code == 2
    way = "choose another --output, or pass --resume or --overwrite"
    assert said == f"weitiao: {copy} already holds a run: {way}\n"
    code, said = command("finetune", "--output", copy, "--resume", "--num-epochs", "9")
    assert code == 2
    assert said.startswith("weitiao: num_epochs is 9 here, but 4 in the run")
    assert tree(copy) == before


def test_resuming_a_complete_run_changes_nothing_and_overwriting_begins_anew(
    settings: list[str], undisturbed: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    brief = [*settings, "--output", folder, "--num-epochs", "1"]
    assert command(*brief)[0] == 0
    before = tree(folder)
    again = [sys.executable, "-m", "weitiao", "finetune", "--output", folder, "--resume"]
    done = subprocess.run(again, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.replace("\n", " ").strip() == f"The run in {folder} is complete: nothing to resume"
    assert tree(folder) == before
    (folder / "stale.txt").write_text("of the old run")
    assert command(*settings, "--output", folder, "--overwrite")[0] == 0
    assert weights(folder) == undisturbed()
    assert not (folder / "stale.txt").exists()
    assert steps(folder) == list(range(1, 49))


def test_the_kept_settings_make_the_same_run(
    killed: Path, undisturbed: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    folder = tmp_path / "again"
    code, said = command("finetune", "--recipe", killed / "config.yaml", "--output", folder)
    assert code == 0, said
    assert weights(folder) == undisturbed()


def test_a_line_cut_by_a_crash_costs_no_other_event(tmp_path: Path) -> None:
    from weitiao.core.events import NoteEvent
    from weitiao.core.runs import Recorder

    (tmp_path / "events.jsonl").write_text(
        '{"event": "note", "text": "one"}\n{"event": "no', encoding="utf-8"
    )
    recorder = Recorder(tmp_path)
    recorder(NoteEvent("two"))
    recorder.close()
    assert [event["text"] for event in read_events(tmp_path)] == ["one", "two"]
    assert (
        json.loads((tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()[-1])["text"] == "two"
    )
