"""Models and data sets from the Hugging Face hub, or from a mirror that ``HF_ENDPOINT`` names."""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from weitiao.core.messages import say

ENDPOINT = "https://huggingface.co"
PATIENCE_SECONDS = 3.0
# Weights as safetensors only: opening a pickle (.bin, .pt) can run any code.
FILES = {
    "model": [
        "config.json",
        "generation_config.json",
        "chat_template.jinja",
        "*token*.json",
        "vocab*",
        "merges.txt",
        "*.model",
        "model*.safetensors",
        "model.safetensors.index.json",
        "modules.json",
        "*_Pooling/config.json",
    ],
    "data": ["*.csv", "*.tsv", "*.json", "*.jsonl", "*.parquet", "*.txt", "*.conll", "*.gz", "*.md"],
}

Kind = Literal["model", "data"]
Tell = Callable[[str], None]


class RouteFailed(Exception):
    """One route did not lead there. The message is a short phrase; other routes may still work."""


def fetch(hub_id: str, kind: Kind, check: Callable[[Path], None], tell: Tell) -> Path:
    """The folder of a model or data set: what lies whole in the hub's own cache, else a download.

    Args:
        check: raises if a folder is not usable; a cached one is then fetched again.

    Raises:
        RouteFailed: the hub is switched off, out of reach, or has nothing usable of that name.
    """
    from huggingface_hub import snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT
    wanted: dict[str, Any] = {
        "repo_id": hub_id,
        "repo_type": {"model": "model", "data": "dataset"}[kind],
        "allow_patterns": FILES[kind],
        "endpoint": endpoint,
    }

    def snapshot(**options: Any) -> Path:
        folder = Path(snapshot_download(**wanted, **options))
        check(folder)
        return folder

    offline = next((name for name in ("HF_HUB_OFFLINE", "WEITIAO_OFFLINE") if switched_on(name)), "")
    if offline or kind == "model":  # a data set may lie there in part, and nothing would show it
        with suppress(Exception):  # whatever is wrong with that copy, it has to be fetched
            return snapshot(local_files_only=True)
    if offline:
        raise RouteFailed(say(f"off ({offline})", f"已关闭（{offline}）"))
    if not reachable(endpoint):
        raise RouteFailed(say(f"{endpoint} cannot be reached", f"无法访问 {endpoint}"))
    tell(say(f"Downloading {hub_id} from {endpoint}", f"正在从 {endpoint} 下载 {hub_id}"))
    try:
        return snapshot(etag_timeout=PATIENCE_SECONDS)
    except Exception as error:  # huggingface_hub raises many kinds, and each means that this route failed
        first = (str(error).strip() or type(error).__name__).split("\n", 1)[0]
        raise RouteFailed(first[:200]) from None


def reachable(endpoint: str, patience_seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether a web address answers at all within a few seconds.

    Asked once, through the user's proxy if there is one; in a thread, because looking up a blocked name may
    hang.
    """
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(endpoint, method="HEAD")
        with suppress(Exception):
            with suppress(urllib.error.HTTPError):  # an answer all the same
                urllib.request.urlopen(request, timeout=patience_seconds).close()
            answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience_seconds)
    return answered.is_set()


def switched_on(variable: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(variable, "").strip().lower() in ("1", "true", "yes", "on")
