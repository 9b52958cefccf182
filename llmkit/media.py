"""What is in the header of an image or a recording: its size in pixels, its seconds. Depends on nothing."""

from __future__ import annotations

from binascii import a2b_base64

__all__ = ["audio_seconds", "image_size"]


def image_size(image: object) -> tuple[int, int] | None:
    """Return the width and height of a PNG, GIF, JPEG or WebP image in bytes, a `data:` URL or base64, else None.

    Looks at the first 192 kB. The size is what the image's header says.
    """
    data = _beginning(image)
    if data.startswith(b"\x89PNG"):
        return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if data.startswith(b"GIF8"):
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    return _webp_size(data) if data[8:12] == b"WEBP" else None


def _beginning(media: object) -> bytes:
    """Return the first bytes of what is in bytes, a `data:` URL or base64; nothing for anything else."""
    if isinstance(media, (bytes, bytearray)):
        return bytes(media[:196_608])
    if not isinstance(media, str) or media.startswith(("http:", "https:")):
        return b""
    begin = media.find(",", 0, 256) + 1 if media.startswith("data:") else 0
    try:
        return a2b_base64(media[begin : begin + 262_144])
    except ValueError:
        return b""


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[position + 7 : position + 9]), int.from_bytes(data[position + 5 : position + 7])
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def audio_seconds(audio: object) -> float:
    """Return how long a recording in bytes, a `data:` URL or base64 is: by its header for WAV and MP3.

    An MP3 that does not say how many frames it has is taken to keep its first frame's bit rate; any other format, and
    a header that makes no sense, to have 128 kbit/s.
    """
    data = _beginning(audio)
    if isinstance(audio, (bytes, bytearray)):
        size = len(audio)
    else:
        size = (len(audio) - audio.find(",", 0, 256) - 1) * 3 // 4 if isinstance(audio, str) else 0
    seconds = _wav_seconds(data, size) if data[:4] == b"RIFF" else _mp3_seconds(data, size)
    return size / 16_000 if seconds is None else seconds


def _wav_seconds(data: bytes, size: int) -> float | None:
    rate, position = 0, 12
    while position + 8 <= len(data):
        kind, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind == b"fmt ":
            rate = int.from_bytes(data[position + 16 : position + 20], "little")
        if kind == b"data" and rate:
            # One that was streamed has a length of nothing, or of all that 32 bits can say.
            rest = size - position - 8
            return (length if 0 < length < rest else rest) / rate
        position += 8 + length + length % 2
    return None


# ISO/IEC 11172-3 and 13818-3, layer III: kbit/s by the header's index, for MPEG 1 and for MPEG 2; hertz of MPEG 1.
_BIT_RATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
)
_HERTZ = (44_100, 48_000, 32_000)


def _mp3_seconds(data: bytes, size: int) -> float | None:
    start = 0
    if data[:3] == b"ID3" and len(data) >= 10:
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    header = data[start : start + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, hertz_index = header[1] >> 3 & 3, header[2] >> 2 & 3
    bit_rate = _BIT_RATES[version != 3][header[2] >> 4]
    if version == 1 or hertz_index == 3 or not bit_rate:
        return None
    # The first frame may hold no sound, but how many others there are.
    frame = data[start : start + 192]
    mark = max(frame.find(b"Xing"), frame.find(b"Info"))
    if mark > 0 and frame[mark + 7 : mark + 8] and frame[mark + 7] & 1:
        frames = int.from_bytes(frame[mark + 8 : mark + 12])
        hertz = _HERTZ[hertz_index] >> {3: 0, 2: 1, 0: 2}[version]
        return frames * (1152 if version == 3 else 576) / hertz
    return (size - start) / (bit_rate * 125)
