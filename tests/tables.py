"""A small table that stands in for the published ones, with every byte and what makes cuts in the wrong place show."""

from __future__ import annotations

import base64

from hypothesis import strategies as st

TABLES = ("o200k_base", "cl100k_base", "p50k_base", "r50k_base")

# Every byte, and what makes cuts in the wrong place show: words with a space, white space and line breaks in a row.
_MERGED = ["  ", "    ", " " * 8, "\n\n", "\n\n\n\n", " \n", "\n ", "\r\n", " a", "ab", " ab", "!\n", "!!", "12", "123"]
_MERGED += ["b'", "\n/", "\n\t"]
RANKS = {bytes([byte]): byte for byte in range(256)} | {text.encode(): 256 + n for n, text in enumerate(_MERGED)}
TABLE = b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in RANKS.items())

AWKWARD = st.lists(
    st.sampled_from(
        [*"aZé19中。!/'_\n\r\t \u3000\u2028\x85\x1c😀\u0301", *(" " * 20, "\n" + " " * 30, "'s", " \n", "!\n/")]
    )
    | st.characters(exclude_categories=["Cs"]),
    max_size=60,
).map("".join)
