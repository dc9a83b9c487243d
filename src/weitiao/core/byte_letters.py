"""The letters that byte-level tokenizers write bytes with."""

from functools import cache


@cache
def byte_letters() -> dict[str, int]:
    """The byte of each letter: printable Latin-1 stands for itself, the other bytes from U+0100 on (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
