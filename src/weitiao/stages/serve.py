"""Serve models over HTTP: predictions, embeddings, generated text / 通过 HTTP 提供模型服务：预测、向量、文本生成."""

import ipaddress
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.core import catalogue
from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ResultEvent
from weitiao.core.messages import say

EXAMPLES = (
    "weitiao serve deploy/ --port 8000 --keys keys.toml",
    "weitiao serve deploy/reviews",
    "weitiao serve --alerts alerts.yaml --write-rules prometheus/rules.yaml",
)


@dataclass
class Config:
    """What is served, where, and to whom."""

    folder: str = option("", "a bundle, or a folder of bundles: NAME/ or NAME/VERSION/",
                         "一个部署包，或存放部署包的文件夹：名称/ 或 名称/版本/", positional=True)  # fmt: skip
    host: str = option(
        "127.0.0.1",
        "address to listen on; any but this machine's own needs --keys",
        "监听地址；非本机地址需要 --keys",
    )
    port: int = option(8000, "port; 0 takes a free one", "端口；0 表示任选一个空闲端口", least=0, most=65535)
    keys: str = option(
        "", "keys.toml: who may call (weitiao keys add)", "keys.toml：谁可以调用（weitiao keys add）"
    )
    engine: str = option("uvicorn", "one process, or scaled out on Ray Serve", "单进程，或用 Ray Serve 扩展",
                         choices=("uvicorn", "ray"))  # fmt: skip
    compute: str = option("auto", "what runs the graphs; auto: the faster one here",
                          "用什么运行计算图；auto：此处较快的一种",
                          choices=("auto", *catalogue.members("engines")))  # fmt: skip
    precision: str = option(
        "auto", "what graphs are computed in", "计算精度", choices=("auto", "fp32", "bf16")
    )
    threads: int = option(0, "threads of each model; 0: one a core", "每个模型的线程数；0：每核一个", least=0)
    max_batch: int = option(
        32, "most texts computed at once; 1: no batching", "一次最多计算的文本数；1：不合批", least=1
    )
    max_wait_ms: float = option(
        2.0,
        "longest that a batch waits for the texts of other requests, in ms",
        "合批时等待其他请求文本的最长时间（毫秒）",
        least=0,
        most=10_000,
    )
    queue: int = option(256, "texts that may wait for each model; further ones get 503",
                        "每个模型最多排队的文本数，超出的返回 503", least=1)  # fmt: skip
    watch: float = option(
        0.0,
        "seconds between looks for new versions in the folder; 0: never",
        "每隔多少秒查看文件夹里有没有新版本；0：不查看",
        least=0,
    )
    alerts: str = option("", "alert rules, a YAML file", "告警规则（YAML 文件）")
    write_rules: str = option(
        "",
        "write the alert rules as a rule file for Prometheus, too; without a folder, that is all",
        "同时把告警规则写成 Prometheus 规则文件；不给出文件夹时只写此文件",
    )
    audit: str = option(
        "",
        "audit log: who asked for what, never a text (weitiao audit verify)",
        "审计日志：谁请求了什么，不含文本（weitiao audit verify）",
    )
    mask: bool = option(
        False,
        "mask personal data in texts before a model reads them, and in what it writes",
        "在模型读取之前屏蔽文本中的个人信息，并屏蔽生成的文本",
    )
    min_replicas: int = option(
        1, "with --engine ray: fewest replicas", "配合 --engine ray：最少副本数", least=0
    )
    max_replicas: int = option(
        4, "with --engine ray: most replicas", "配合 --engine ray：最多副本数", least=1
    )


def run(config: Config) -> Iterator[Event]:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        WeitiaoError: anything the user can mend.
    """
    if config.write_rules:
        yield from _write_rules(config)
        if not config.folder:
            yield ResultEvent(config.write_rules, {})
            return
    if not config.folder:
        raise WeitiaoError(
            say(
                "Name a bundle or a folder of bundles: weitiao serve deploy/",
                "请指定部署包或其文件夹：weitiao serve deploy/",
            )
        )
    if not config.keys and not is_loopback(config.host):
        raise WeitiaoError(
            say(
                f"--host {config.host} lets other machines in, so it needs --keys keys.toml "
                "(weitiao keys add makes one)",
                f"--host {config.host} 会让其他机器访问，需要 --keys keys.toml（可用 weitiao keys add 创建）",
            )
        )
    _check_installed()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    from weitiao.service.app import Settings

    settings = Settings(
        folder=config.folder,
        keys=config.keys,
        local_only=not config.keys,
        engine=config.compute,
        precision=config.precision,
        threads=config.threads,
        max_batch=config.max_batch,
        max_wait_ms=config.max_wait_ms,
        queue=config.queue,
        watch=config.watch,
        alerts=config.alerts,
        audit=config.audit,
        mask=config.mask,
    )
    yield from _on_ray(config, settings) if config.engine == "ray" else _here(config, settings)
    yield ResultEvent("", {})


def _write_rules(config: Config) -> Iterator[Event]:
    """The alert rules as a file that a Prometheus server reads."""
    if not config.alerts:
        raise WeitiaoError(
            say(
                "--write-rules writes out the rules of --alerts FILE: name that file too",
                "--write-rules 写出的是 --alerts 文件中的规则：请一并给出 --alerts 文件",
            )
        )
    path = Path(config.write_rules)
    if path.is_dir() or path.resolve() == Path(config.alerts).resolve():
        raise WeitiaoError(
            say(
                f"--write-rules {path} is {'a folder' if path.is_dir() else 'the file of --alerts'}: name another file",
                f"--write-rules {path} 是{'文件夹' if path.is_dir() else ' --alerts 的文件'}：请换一个文件名",
            )
        )
    from weitiao.service.alert_rules import read_rules
    from weitiao.service.prometheus_rules import write_prometheus_rules

    rules = read_rules(config.alerts)
    write_prometheus_rules(rules, path)
    yield NoteEvent(
        say(
            f"{len(rules)} alert rules for Prometheus: {path}",
            f"已写出 {len(rules)} 条 Prometheus 告警规则：{path}",
        )
    )


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _here(config: Config, settings: Any) -> Iterator[Event]:
    """One process."""
    from weitiao.service import server
    from weitiao.service.app import make_app

    listening = server.bind(config.host, config.port)
    with listening:
        app = make_app(settings)
        listening.listen(server.BACKLOG)  # whoever reads the address below can connect
        port = listening.getsockname()[1]
        address = f"http://{f'[{config.host}]' if ':' in config.host else config.host}:{port}"
        for name in app.state.service.models.names():
            version = app.state.service.models.get(name)
            yield NoteEvent(say(f"{name}: version {version.version}", f"{name}：版本 {version.version}"))
        yield NoteEvent(
            say(f"Serving on {address} (docs: {address}/docs)", f"服务地址 {address}（文档：{address}/docs）")
        )
        server.run(app, listening)
    yield NoteEvent(say("Stopped; every request was answered.", "已停止，所有请求均已答复。"))


def _check_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        way = "pip install 'weitiao[serve]'"
        names = ", ".join(missing)
        raise WeitiaoError(say(f"Serving needs {names}: {way}", f"提供服务需要 {names}：{way}"))


def _on_ray(config: Config, settings: Any) -> Iterator[Event]:
    """Many processes behind Ray Serve, as many as the load asks for."""
    from weitiao.service import ray_app

    yield from ray_app.run(
        settings,
        host=config.host,
        port=config.port,
        min_replicas=config.min_replicas,
        max_replicas=config.max_replicas,
    )
