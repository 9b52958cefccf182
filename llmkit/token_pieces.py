"""Cutting a text where an encoding cuts it itself, so that no part of it is too much at once. Depends on nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

__all__ = ["BLANK_BYTES", "LONG_RUN", "is_long_blank", "pieces"]

LONG_RUN = 8_192
"""The characters of white space in a row that tiktoken's regex engine is spared; it panics at a million."""

# White_Space of the Unicode standard, which `\s` means in the patterns; Python's `\s` has four characters more.
_BLANKS = "\t\x0b\x0c \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_SPACES = {False: _BLANKS, True: _BLANKS + "\r\n"}
# No pattern joins a letter or a digit to punctuation after it, but for an apostrophe; or what is not white space to
# white space after it, but for line breaks after punctuation; and those that know line breaks end a piece with the
# last one before a word.
_WORD = r"[A-Za-z0-9\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fcc\uac00-\ud7a3](?=[!-&(-/:-@\[-`{-~\u3001\u3002\uff01\uff0c])"
_CUT_AFTER = {
    False: f"{_WORD}|[^{_SPACES[True]}](?=[{_BLANKS}])|[\r\n](?=[^{_SPACES[True]}/])",
    True: f"{_WORD}|[^{_SPACES[True]}](?=[{_SPACES[True]}])",
}
# Compiled when a long text first needs them: it takes 6 ms.
_pattern = cache(re.compile)
# The tables in whose patterns a run of white space is cut without regard to line breaks; and that whose pattern sees
# nothing special in a run at the end of the text, where the others take all of it, line breaks too, without a state.
_JOINS_LINES = frozenset({"p50k_base", "r50k_base"})
_CUTS_THE_END = frozenset({"o200k_base"})

BLANK_BYTES = bytes({*_SPACES[True].encode()})
"""The bytes that white space has in UTF-8."""


def pieces(text: str, table: str, size: int) -> Iterator[str]:
    """Cut a text where the pattern of a table cuts it, so that the counts of the pieces add up to its count.

    A piece has about `size` characters where the text has words with something between them; one without is one
    piece. A long run of white space that tiktoken's regex engine would keep states for is a piece of its own, without
    its last character where that goes with the word after it. Takes time in proportion to the text.
    """
    joins_lines = table in _JOINS_LINES
    if len(text) <= min(size, LONG_RUN):
        yield text
        return
    begin = 0
    for start, end in _long_runs(text, joins_lines, table in _CUTS_THE_END):
        yield from _between(text, begin, start, joins_lines, size)
        yield text[start:end]
        begin = end
    yield from _between(text, begin, len(text), joins_lines, size)


def is_long_blank(piece: str, table: str) -> bool:
    """Return whether a piece is one long run of white space."""
    return len(piece) > LONG_RUN and not piece.strip(_SPACES[table in _JOINS_LINES])


def _between(text: str, begin: int, end: int, joins_lines: bool, size: int) -> Iterator[str]:
    cut_after = _pattern(_CUT_AFTER[joins_lines])
    while end - begin > size and (cut := cut_after.search(text, begin + size, end)):
        yield text[begin : cut.end()]
        begin = cut.end()
    if end > begin:
        yield text[begin:end]


def _long_runs(text: str, joins_lines: bool, cuts_the_end: bool) -> Iterator[tuple[int, int]]:
    """Find long runs of white space, all of `2 * LONG_RUN` characters and some shorter, as the encoding cuts them.

    Looks at every `LONG_RUN`-th character only, and around it where that is white space.
    """
    spaces, not_space = _SPACES[joins_lines], _pattern(f"[^{_SPACES[joins_lines]}]")
    position = known = 0
    while (position := position + LONG_RUN) < len(text):
        if text[position] not in spaces:
            continue
        before = text[max(known, position - LONG_RUN) : position]
        start = position - (len(before) - len(before.rstrip(spaces)))
        word = not_space.search(text, position)
        if word is None:
            if cuts_the_end and len(text) - start > LONG_RUN:
                yield start, len(text)
            return
        position = known = word.start()
        if position - start > LONG_RUN and word[0] not in "\r\n":
            yield start, position - 1
