"""Which engine runs a bundle here."""

from weitiao.core import catalogue
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.engines.base import Engine
from weitiao.runtime.bundle import Bundle


def open_engine(bundle: Bundle, engine: str, precision: str, threads: int) -> Engine:
    """The engine for a bundle, with its graph loaded.

    Raises:
        WeitiaoError: an unknown engine, or one that is not installed or lacks the precision.
    """
    name = "onnxruntime" if engine == "auto" else engine
    kind = catalogue.member("engines", name)
    if not kind.installed():
        raise WeitiaoError(
            say(
                f"The engine {name} is not installed: pip install {kind.library}",
                f"未安装引擎 {name}：pip install {kind.library}",
            )
        )
    wish = "fp32" if precision == "auto" else precision
    if wish not in kind.precisions:
        raise WeitiaoError(
            say(f"{name} cannot compute in {wish}: ", f"{name} 不支持 {wish}：") + ", ".join(kind.precisions)
        )
    return kind(bundle.graph, precision=wish, threads=threads)
