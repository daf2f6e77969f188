"""Where the parts of a thread's scratch memory lie. One home, so that tests can fence each part."""

from __future__ import annotations

LINE, PAGE = 64, 4096  # bytes that a cache loads at once, and of a page of memory


def lay_out(words: dict[str, int], parts: dict[str, int]) -> int:
    """Place parts of so many bytes, each on a cache line of its own and with one unused line after
    it; notes where each begins in `words` and returns the bytes of all.

    >>> words = {}
    >>> lay_out(words, {"at_image": 100, "at_block": 64}), words
    (4096, {'at_image': 0, 'at_block': 192})
    """
    at = 0
    for name, length in parts.items():
        words[name] = at
        at += -(-length // LINE) * LINE + LINE
    return -(-at // PAGE) * PAGE
