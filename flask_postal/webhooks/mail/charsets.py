"""Decodes text in the charset that a mail declares.

Labels have the meaning that the WHATWG Encoding Standard gives them
(https://encoding.spec.whatwg.org, section 4.2), as in mail programs: text that is
labelled ``gb2312`` may use all of GB 18030, and ``iso-8859-1`` means windows-1252. Some
charsets that occur in mail but not on the web are added.

The labels are an allow-list, because ``bytes.decode`` also accepts codecs that are not
charsets, and a mail may name any of them. For some the time grows at least with the
square of the length: 200 kB of ``punycode`` take 4 s (Python 3.11), so one mail of a
few MB would stop a worker.
"""

from __future__ import annotations

import codecs
import re
from functools import cache, lru_cache

__all__ = ["codec_of", "decode", "guess", "is_like_ascii"]

#: Python's codecs, with the labels that stand for them. Only the letters and digits of
#: a label are compared.
_LABELS = {
    "utf-8": "utf8 unicode11utf8 unicode20utf8 xunicode20utf8",
    "cp866": "ibm866 cp866 866 csibm866",
    "iso8859-2": "iso88592 latin2 l2 isoir101 iso885921987 csisolatin2",
    "iso8859-3": "iso88593 latin3 l3 isoir109 iso885931988 csisolatin3",
    "iso8859-4": "iso88594 latin4 l4 isoir110 iso885941988 csisolatin4",
    "iso8859-5": "iso88595 cyrillic isoir144 iso885951988 csisolatincyrillic",
    "iso8859-6": "iso88596 arabic asmo708 ecma114 isoir127 iso885961987"
    " csisolatinarabic csiso88596e csiso88596i iso88596e iso88596i",
    "iso8859-7": "iso88597 greek greek8 ecma118 elot928 isoir126 iso885971987"
    " csisolatingreek suneugreek",
    "iso8859-8": "iso88598 hebrew isoir138 iso885981988 csisolatinhebrew csiso88598e"
    " csiso88598i iso88598e iso88598i logical visual",
    "iso8859-10": "iso885910 latin6 l6 isoir157 iso8859101992 csisolatin6",
    "iso8859-13": "iso885913",
    "iso8859-14": "iso885914",
    "iso8859-15": "iso885915 latin9 l9 csisolatin9 csiso885915",
    "iso8859-16": "iso885916 latin10 l10",
    "koi8-r": "koi8r koi8 koi csko18r cskoi8r",
    "koi8-u": "koi8u koi8ru",
    "mac-roman": "macintosh mac xmacroman csmacintosh macroman",
    "mac-greek": "macgreek xmacgreek",
    "mac-turkish": "macturkish xmacturkish",
    "kz1048": "kz1048 strk10482002 rk1048",
    "cp874": "windows874 cp874 dos874 tis620 iso885911",
    "cp1250": "windows1250 cp1250 xcp1250",
    "cp1251": "windows1251 cp1251 xcp1251",
    "cp1252": "windows1252 cp1252 xcp1252 iso88591 iso885911987 latin1 l1 isoir100"
    " csisolatin1 ibm819 cp819 819 usascii ascii ansix341968 ansix34 iso646us 646",
    "cp1253": "windows1253 cp1253 xcp1253",
    "cp1254": "windows1254 cp1254 xcp1254 iso88599 latin5 l5 isoir148 iso885991989"
    " csisolatin5",
    "cp1255": "windows1255 cp1255 xcp1255",
    "cp1256": "windows1256 cp1256 xcp1256",
    "cp1257": "windows1257 cp1257 xcp1257",
    "cp1258": "windows1258 cp1258 xcp1258",
    "mac-cyrillic": "xmaccyrillic xmacukrainian",
    "gb18030": "gb18030 gbk gb2312 gb231280 chinese csgb2312 csiso58gb231280 isoir58"
    " xgbk cp936 ms936 windows936 936 euccn xeuccn",
    "big5hkscs": "big5 big5hkscs cnbig5 csbig5 xxbig5 cp950 windows950 950",
    "euc_jp": "eucjp xeucjp cseucpkdfmtjapanese",
    "iso2022_jp": "iso2022jp csiso2022jp",
    "cp932": "shiftjis sjis xsjis ms932 mskanji csshiftjis windows31j cswindows31j"
    " cp932 windows932 932",
    "cp949": "euckr cseuckr korean ksc56011987 ksc56011989 ksc5601 isoir149"
    " csksc56011987 windows949 cp949 949",
    "utf-16-le": "utf16 utf16le unicode ucs2 iso10646ucs2 csunicode unicodefeff",
    "utf-16-be": "utf16be unicodefffe",
    # Not in the standard, but in mail: old bounces, DOS programs, Japanese variants.
    "utf-7": "utf7 unicode11utf7 csunicode11utf7 xunicode20utf7",
    "utf-32-le": "utf32 utf32le ucs4",
    "utf-32-be": "utf32be",
    "iso2022_jp_2": "iso2022jp2 csiso2022jp2",
    "iso2022_jp_3": "iso2022jp3",
    "iso2022_jp_2004": "iso2022jp2004",
    "iso2022_jp_ext": "iso2022jpext",
    "iso2022_kr": "iso2022kr csiso2022kr",
    "hz": "hzgb2312 hz",
    "johab": "johab cp1361",
    "cp437": "cp437 ibm437 437 cspc8codepage437",
    "cp737": "cp737 ibm737",
    "cp775": "cp775 ibm775",
    "cp850": "cp850 ibm850 850 cspc850multilingual",
    "cp852": "cp852 ibm852 852 cspcp852",
    "cp855": "cp855 ibm855 855",
    "cp857": "cp857 ibm857 857",
    "cp858": "cp858 ibm00858 ibm858",
    "cp860": "cp860 ibm860",
    "cp861": "cp861 ibm861",
    "cp862": "cp862 ibm862 dos862",
    "cp863": "cp863 ibm863",
    "cp865": "cp865 ibm865",
    "cp1125": "cp1125 ibm1125 cp866u",
    "mac-latin2": "xmacce maccentraleurope",
    "koi8-t": "koi8t",
}
_CODECS = {
    label: codec for codec, labels in _LABELS.items() for label in labels.split()
}
_ASCII = frozenset(["usascii", "ascii", "ansix341968", "ansix34", "iso646us", "646"])
_MULTIBYTE = frozenset(
    [
        *("gb18030", "big5hkscs", "euc_jp", "iso2022_jp", "iso2022_jp_2", "cp932"),
        *("cp949", "iso2022_kr", "hz", "johab", "iso2022_jp_3", "iso2022_jp_2004"),
        "iso2022_jp_ext",
    ]
)
#: Codecs that call an error handler for each invalid byte, which takes up to 0.2 µs.
_SLOW = frozenset({"utf-7", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"})
#: Bytes that such a codec decodes at a time, and errors after which decoding stops.
_STEP, MAX_DAMAGED = 16 * 1024, 50_000
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_UNDEFINED = "\ufffd"
_NOT_ASCII = bytes(range(0x80, 0x100))
_SURROGATE = re.compile("[\ud800-\udfff]")
#: Two-byte text in ISO-2022-JP, with the escape sequence before it.
_KANJI = re.compile(rb"\x1b\$[@B]([^\x1b\r\n]*)")
_TO_ASCII = re.compile(rb"\x1b\([BJ]")
#: Escape sequences in a text. With more of them Python's codec decodes it, without the
#: characters of NEC and IBM, because each piece costs several calls.
_MAX_PIECES = 50_000


@lru_cache(maxsize=256)
def codec_of(label: str | None) -> str | None:
    """Return the name of Python's codec for a charset.

    :param label: The label that a mail declares, in any spelling.
    :returns: ``None`` if the charset is unknown, or none was declared.
    """
    if not label or len(label) > 60:
        return None
    return _CODECS.get(_plain(label))


def decode(data: bytes, label: str | None) -> tuple[str, str | None]:
    """Decode text, replacing each invalid byte by U+FFFD.

    If no charset, ASCII or an unknown charset is declared, the text is decoded as UTF-8
    or windows-1252, see :func:`guess`. A byte order mark takes precedence over those
    and over a charset of the same family.

    :param data: The text.
    :param label: The declared charset; ``None`` if there is none.
    :returns: The text, and a problem that concerns more than single characters, or
        ``None``.
    """
    if data.isascii() and b"\x1b" not in data and is_like_ascii(label):
        return data.decode("ascii"), None
    problem = None
    codec = codec_of(label)
    if codec is None and label:
        problem = f"unknown charset {label[:60]!a}"
    for bom, meant in _BOMS:
        if data.startswith(bom) and (
            codec is None or meant[:6] == codec[:6] or _is_ascii(label or "")
        ):
            return _decode(data[len(bom) :], meant)
    if codec is None or (label and _is_ascii(label)):
        return guess(data), problem
    text, damage = _decode(data, codec)
    return text, problem or damage


def guess(data: bytes) -> str:
    """Decode text of an unknown charset as UTF-8 or windows-1252.

    It is UTF-8 if more non-ASCII characters are valid in it than invalid, so that a
    damaged byte doesn't spoil all others.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
    wrong = text.count(_UNDEFINED)
    right = len(text) - wrong - len(data.translate(None, _NOT_ASCII))
    return text if right > wrong else _decode(data, "cp1252")[0]


def _is_ascii(label: str) -> bool:
    return _plain(label) in _ASCII


def _plain(label: str) -> str:
    return re.sub(r"[^a-z0-9]", "", label[:60].lower())


def is_like_ascii(label: str | None) -> bool:
    """Return whether ASCII bytes stand for ASCII characters in a charset."""
    codec = codec_of(label)
    return codec not in _SLOW and codec != "hz"


def _decode(data: bytes, codec: str) -> tuple[str, str | None]:
    if codec == "utf-8" or codec in _MULTIBYTE:
        if codec == "iso2022_jp":
            return _iso_2022_jp(data), None
        return data.decode(codec, "replace"), None
    if codec not in _SLOW:
        # Decoded with a table in which all bytes are defined. Otherwise Python would
        # call an error handler for each undefined byte: 1.7 s for 10 MB of them.
        return codecs.charmap_decode(data, "strict", _table(codec))[0], None
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        text, problem = _in_steps(data, codec)
    else:
        problem = None
    return _SURROGATE.sub(_UNDEFINED, text), problem


@cache
def _table(codec: str) -> str:
    return bytes(range(256)).decode(codec, "replace")


def _in_steps(data: bytes, codec: str) -> tuple[str, str | None]:
    """Decode in steps, and stop when there are too many errors.

    :returns: The text so far, and a problem if not all of it was decoded.
    """
    pieces: list[str] = []
    start = damaged = 0
    while start < len(data):
        end = start + _STEP
        if codec == "utf-7":
            # A line break ends the base64 of UTF-7, so pieces end there if possible.
            # Python's incremental decoder isn't used, because its time grows with the
            # square of the length of a run of base64.
            end = data.find(b"\n", start + _STEP // 2, end) + 1 or end
        piece = data[start:end]
        if codec.startswith("utf-16") and end < len(data):
            high = piece[-1] if codec == "utf-16-le" else piece[-2]
            if 0xD8 <= high <= 0xDB:  # half of a surrogate pair
                piece, end = piece[:-2], end - 2
        pieces.append(piece.decode(codec, "replace"))
        damaged += pieces[-1].count(_UNDEFINED)
        if damaged > MAX_DAMAGED:
            return "".join(pieces), f"most of it is not {codec}; the rest is not read"
        start = end
    return "".join(pieces), None


def _iso_2022_jp(data: bytes) -> str:
    """Decode ISO-2022-JP with the characters of NEC and IBM.

    Microsoft's programs use them, but Python's codec doesn't support them.
    """
    try:
        return data.decode("iso2022_jp")
    except UnicodeDecodeError:
        pass
    if data.count(b"\x1b") > _MAX_PIECES:
        return data.decode("iso2022_jp", "replace")
    end = 0
    pieces = []
    for match in _KANJI.finditer(data):
        pieces.append(_single_bytes(data[end : match.start()]))
        pairs = match[1][: len(match[1]) // 2 * 2]
        # Trick: decode each pair of bytes as one UTF-16 character, and let translate()
        # replace it. This avoids a Python loop over the pairs.
        pieces.append(pairs.decode("utf-16-be", "replace").translate(_jis_x_0208()))
        end = match.end()
    pieces.append(_single_bytes(data[end:]))
    return "".join(pieces)


def _single_bytes(data: bytes) -> str:
    text, *katakana = data.split(b"\x1b(I")
    pieces = [_TO_ASCII.sub(b"", text).decode("ascii", "replace")]
    for piece in katakana:
        kana, escape, rest = piece.partition(b"\x1b")
        high = bytes(byte | 0x80 for byte in kana[:100_000])
        pieces.append(high.decode("cp932", "replace"))
        pieces.append(_TO_ASCII.sub(b"", escape + rest).decode("ascii", "replace"))
    return "".join(pieces)


@lru_cache(maxsize=1)
def _jis_x_0208() -> dict[int, str]:
    """Return the characters of JIS X 0208 with Microsoft's extensions.

    The keys are the two bytes of a character as one number.
    """
    # With an entry for each number: a key that is missing takes six times as long.
    table = dict.fromkeys(range(0x10000), _UNDEFINED)
    for row in range(94):
        lead = (0x81 if row < 62 else 0xC1) + row // 2
        for cell in range(94):
            trail = cell + (0x9F if row % 2 else 0x40 + (cell >= 63))
            character = bytes((lead, trail)).decode("cp932", "replace")
            table[(row + 0x21) << 8 | (cell + 0x21)] = character[:1]
    return table
