"""Archives: unpacked whole, or refused with one clear line and nothing written."""

import gzip
import io
import os
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weitiao.core.archives import Limits, safe_parts, unpack
from weitiao.core.errors import WeitiaoError

FILES = {
    "bundle.json": b"{}",
    "data/a.txt": b"one",
    "data/b.bin": bytes(range(256)) * 20,
    "模型.txt": "权重".encode(),
    "empty": b"",
}
Make = Callable[[Path], Any]
SMALL = Limits(files=50, total_bytes=4 << 20, file_bytes=2 << 20)


def zipped(path: Path, files: dict[str, bytes], **how: Any) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = how.get("compress", zipfile.ZIP_DEFLATED)
            info.external_attr = how.get("mode", 0o100644) << 16
            archive.writestr(info, content)


def tarred(path: Path, files: dict[str, bytes], mode: str = "w:gz", **changes: Any) -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))


GOOD: dict[str, Make] = {
    "zip": lambda path: zipped(path, FILES),
    "stored zip": lambda path: zipped(path, FILES, compress=zipfile.ZIP_STORED),
    "tar.gz": lambda path: tarred(path, FILES),
    "tar": lambda path: tarred(path, FILES, "w:"),
    "GNU tar": lambda path: tarred_as(path, tarfile.GNU_FORMAT),
    "tar of .": lambda path: tarred(path, {f"./{name}": content for name, content in FILES.items()}),
    "POSIX tar": lambda path: tarred_as(path, tarfile.PAX_FORMAT),
}


def tarred_as(path: Path, format: int) -> None:
    with tarfile.open(path, "w:gz", format=format) as archive:
        archive.addfile(folder_entry("data/"))
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def folder_entry(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_archive_is_unpacked_whole(tmp_path: Path, kind: str) -> None:
    GOOD[kind](tmp_path / "archive")  # the format is known by its bytes, not by its name
    folder = unpack(tmp_path / "archive", tmp_path / "out", SMALL)
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert found == FILES
    assert all(path.stat().st_mode & 0o7777 == 0o644 for path in folder.rglob("*") if path.is_file())


BAD_NAMES = [
    "/etc/passwd", "../up.txt", "a/../../up.txt", "a/./b", "a//b", "", ".", "..", "a\\b", "..\\up", "C:\\x", "C:x", "a:b", "nul",
    "COM1.txt", "aux/x", "a\nb", "a\x1bb", "a\u202eb", "a\u200bb", "a.", "a ", " a", "a?", "a*", 'a"', "a|b", "x" * 201,
    "/".join("abcdefghij"), "~\x7f", "a\x00b",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        safe_parts(name)


@given(st.text(max_size=30))
def test_an_accepted_name_stays_in_the_folder(name: str) -> None:
    try:
        parts = safe_parts(name)
    except ValueError:
        return
    joined = os.path.normpath(os.path.join("/top/folder", *parts))
    assert joined.startswith("/top/folder/") and joined == os.path.join("/top/folder", *parts)


def link(kind: bytes, target: str) -> Make:
    return lambda path: tarred(path, {"a": b""}, type=kind, linkname=target)


def declared(size: int) -> Make:
    """A zip whose directory says another size than comes out."""

    def make(path: Path) -> None:
        zipped(path, {"a": b"x" * 100_000})
        content = bytearray(path.read_bytes())
        place = content.rindex(b"PK\x01\x02")
        content[place + 24 : place + 28] = struct.pack("<I", size)
        path.write_bytes(content)

    return make


def overlapping(path: Path) -> None:
    """A zip bomb whose entries all point to the same packed bytes."""
    zipped(path, {"a": b"\0" * 1_000_000})
    content = path.read_bytes()
    start = content.rindex(b"PK\x01\x02")
    end = content.rindex(b"PK\x05\x06")
    entry = content[start:end]
    entries = b"".join(entry[:-1] + bytes([ord("a") + number]) for number in range(20))
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 20, 20, len(entries), start, 0)
    path.write_bytes(content[:start] + entries + tail)


def encrypted(path: Path) -> None:
    zipped(path, {"a": b"secret"})
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    path.write_bytes(content)


def giant_header(path: Path) -> None:
    """A tar whose extended header claims 8 GB, which a careless reader allocates."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, (8 << 30) - 1
    path.write_bytes(gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + b"\0" * 100_000))


def sparse(path: Path) -> None:
    info = tarfile.TarInfo("a")
    info.type = tarfile.GNUTYPE_SPARSE
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 10_240)


def gzip_bomb(path: Path) -> None:
    info = tarfile.TarInfo("a")
    info.size = 3 << 30
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = b"\0" * (1 << 20)
    path.write_bytes(
        packer.compress(info.tobuf()) + b"".join(packer.compress(zeros) for _ in range(64)) + packer.flush()
    )


def damaged_zip(path: Path) -> None:
    """The right structure, and one bit of the data flipped: the checksum tells."""
    zipped(path, {"a": bytes(range(256)) * 50}, compress=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


BAD: dict[str, Make] = {
    "tar: up after ./": lambda path: tarred(path, {"./../up": b""}),
    **{f"zip: {name!r}": lambda path, name=name: zipped(path, {"ok": b"", name: b"x"}) for name in BAD_NAMES[:7] + BAD_NAMES[10:18]},
    **{f"tar: {name!r}": lambda path, name=name: tarred(path, {"ok": b"", name: b"x"}) for name in BAD_NAMES[:4] + BAD_NAMES[8:12]},
    "zip: a link": lambda path: zipped(path, {"a": b"/etc/passwd"}, mode=0o120777),
    "zip: a device": lambda path: zipped(path, {"a": b""}, mode=0o020666),
    "zip: a pipe": lambda path: zipped(path, {"a": b""}, mode=0o010666),
    "zip: a bomb": lambda path: zipped(path, {"a": b"\0" * (1 << 21)}),
    "zip: many small bombs": lambda path: zipped(path, {f"{n}": b"\0" * 500_000 for n in range(9)}),
    "zip: entries that overlap": overlapping,
    "zip: says less than it holds": declared(10),
    "zip: says more than it holds": declared(100_001),
    "zip: says gigabytes": declared(0xFFFFFFF0),
    "zip: too many files": lambda path: zipped(path, {f"{n}": b"" for n in range(51)}),
    "zip: encrypted": encrypted,
    "zip: packed with LZMA": lambda path: zipped(path, {"a": b"x"}, compress=zipfile.ZIP_LZMA),
    "zip: a name that differs in case": lambda path: zipped(path, {"a/B": b"1", "A/b": b"2"}),
    "zip: a name in another form": lambda path: zipped(path, {"\u00e9": b"1", "e\u0301": b"2"}),
    "zip: a file where a folder is": lambda path: zipped(path, {"a/b": b"1", "a": b"2"}),
    "zip: a folder where a file is": lambda path: zipped(path, {"a": b"1", "a/b": b"2"}),
    "zip: damaged data": damaged_zip,
    "tar: a symbolic link": link(tarfile.SYMTYPE, "/etc/passwd"),
    "tar: a link up": link(tarfile.SYMTYPE, ".."),
    "tar: a hard link": link(tarfile.LNKTYPE, "/etc/passwd"),
    "tar: a device": link(tarfile.CHRTYPE, ""),
    "tar: a block device": link(tarfile.BLKTYPE, ""),
    "tar: a pipe": link(tarfile.FIFOTYPE, ""),
    "tar: sparse": sparse,
    "tar: a name twice": lambda path: tarred(path, {"a": b"1", "A": b"2"}),
    "tar: too many files": lambda path: tarred(path, {f"{n}": b"" for n in range(51)}),
    "tar: too large": lambda path: tarred(path, {"a": os.urandom(3 << 20)}),
    "tar: a bomb": lambda path: tarred(path, {"a": b"\0" * (2 << 20)}),
    "tar: a bomb of gigabytes": gzip_bomb,
    "tar: a giant header": giant_header,
    "tar: cut short": lambda path: (tarred(path, FILES), path.write_bytes(path.read_bytes()[:-40])),
    "no archive": lambda path: path.write_bytes(b"#!/bin/sh\nrm -rf /\n" * 30),
    "empty": lambda path: path.write_bytes(b""),
    "gzip of no tar": lambda path: path.write_bytes(gzip.compress(b"hello")),
    "7z": lambda path: path.write_bytes(b"7z\xbc\xaf\x27\x1c" + b"\0" * 500),
    "missing": lambda path: None,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", BAD)
def test_a_hostile_archive_is_one_clear_line_and_writes_nothing(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    BAD[name](tmp_path / "archive")
    with pytest.raises(WeitiaoError) as error:
        unpack(tmp_path / "archive", inside / "out", SMALL)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert list(inside.iterdir()) == [] and {path.name for path in tmp_path.iterdir()} <= {"in", "archive"}


def test_more_than_30_hostile_archives() -> None:
    assert len(BAD) >= 45


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    zipped(tmp_path / "archive", FILES)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(WeitiaoError, match="is there already"):
        unpack(tmp_path / "archive", tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "mine"


def mutate(kind: str, folder: Path, count: int) -> None:
    """Flipped, cut and grown archives: refused or unpacked, never a crash, never a file outside."""
    GOOD[kind](folder / "good")
    good, draw = (folder / "good").read_bytes(), random.Random(kind)
    for number in range(count):
        content = bytearray(good)
        for _ in range(draw.choice((1, 2, 8))):
            place = draw.randrange(len(content))
            match draw.randrange(3):
                case 0:
                    content[place] = draw.randrange(256)
                case 1:
                    del content[place : place + draw.randrange(1, 20)]
                case 2:
                    content[place:place] = draw.randbytes(4)
        path = folder / f"{number}.archive"
        path.write_bytes(content)
        try:
            unpack(path, folder / "inside" / str(number), SMALL)
        except WeitiaoError as error:
            assert "\n" not in str(error)
        path.unlink()
    assert {path.name for path in folder.iterdir()} <= {"good", "inside"}


@pytest.mark.parametrize("kind", GOOD)
def test_mutated_archives_never_crash(tmp_path: Path, kind: str) -> None:
    mutate(kind, tmp_path, 60)


@pytest.mark.soak
@pytest.mark.parametrize("kind", GOOD)
def test_many_mutated_archives_never_crash(tmp_path: Path, kind: str) -> None:
    mutate(kind, tmp_path, 2000)
