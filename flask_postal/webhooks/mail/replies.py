"""Removes quoted mail and signatures from replies, in linear time.

Libraries for this match regular expressions over the whole text, whose time can grow
with the square of its length or worse. Because anybody can send the text, only the
beginning of each line is matched here, and each line a bounded number of times.
"""

from __future__ import annotations

import re

__all__ = ["strip_reply"]

#: Characters and lines of a text that are checked.
MAX_TEXT, MAX_LINES = 1_000_000, 10_000
#: Characters of a line that are checked.
MAX_LINE = 500
#: Lines over which mail programs wrap "On ..., ... wrote:".
_ATTRIBUTION_LINES = 4
#: Lines that begin with ">" and may still be the author's own ("> make install"), if
#: nothing else in the text looks like a reply.
_OWN_QUOTES = 2
#: Lines of a signature after "--", counting that one.
_SIGNATURE_LINES = 8

_QUOTED = re.compile(r"[ \t]{0,3}(?:>|\|[ ]?>)")
_WROTE = re.compile(
    r"(?:\b(?:wrote|writes|schrieb|geschrieben|a écrit|escribió|escreveu|ha scritto"
    r"|schreef|skrev|napisał|napisała|napisał\(a\)|kirjoitti|написал|написала|пише"
    r"|yazd\u0131|написав)(?!\w)|写道|のメッセージ)[^:\uff1a]{0,80}[:\uff1a]$"
    r"|<[^<>\s]{1,100}@[^<>\s]{1,100}>[ ]?[:\uff1a]$",
    re.IGNORECASE,
)
_BEGINS = re.compile(
    r"(?:On|Am|Le|El|Il|Op|Em|Den|Dnia|W dniu|Wd|At|In|Il giorno|Na|\d)\b",
    re.IGNORECASE,
)
_DATE = re.compile(r"\d{1,2}[:.h]\d\d|\d{4}")
_SEPARATOR = re.compile(
    r"[ \t>]*+[-_=*#]{2,}+[ ]?(?:Original Message|Original-Nachricht"
    r"|Urspr(?:ü|ue)ngliche Nachricht|Message d'origine|Message original"
    r"|Mensaje original|Mensagem original|Messaggio originale|Oorspronkelijk bericht"
    r"|Oprindelig meddelelse|Ursprungligt meddelande|Opprinnelig melding"
    r"|Wiadomość oryginalna|Исходное сообщение"
    r"|(?:Please )?(?:type your )?reply above this line)[ ]?[-_=*#]{2,}+\s*$",
    re.IGNORECASE,
)
_FORWARDED = re.compile(
    r"[ \t]*(?:-{3,}+[ ]?(?:Forwarded message|Weitergeleitete Nachricht"
    r"|Message transf(?:é|e)r(?:é|e)|Mensaje reenviado|Messaggio inoltrato"
    r"|Doorgestuurd bericht|Mensagem encaminhada)\b|Begin forwarded message:)",
    re.IGNORECASE,
)
_FROM = re.compile(
    r"[ \t>]*+\*?(?:From|Von|De|Da|Van|Fra|Från|Od|От|Lähettäjä)[ ]?:\*?[ \t]*+\S"
)
_SUBJECT = re.compile(
    r"[ \t>]*+\*?(?:Subject|Betreff|Objet|Asunto|Assunto|Oggetto|Onderwerp|Emne|Ämne"
    r"|Temat|Тема|Aihe)[ ]?:"
)
_OTHER = re.compile(
    r"[ \t>]*+\*?(?:Sent|Date|To|Cc|Gesendet|Datum|An|Envoyé|À|Enviado|Enviada em"
    r"|Fecha|Data|Para|Inviato|A|Verzonden|Aan|Sendt|Dato|Til|Skickat|Till|Wysłano|Do"
    r"|Отправлено|Дата|Кому|Lähetetty)[ ]?:\*?[ \t]*+\S"
)
_RULE = re.compile(r"[ \t]*[_-]{20,}+[ \t]*$")
_SENT_FROM = re.compile(
    r"(?:Sent from (?:my|Outlook for) (?:iPhone|iPad|iPod|phone|mobile|Android|Galaxy"
    r"|Samsung|BlackBerry|Windows|iOS|Nokia|Pixel|Huawei)\b.{0,60}"
    r"|Sent from (?:Outlook|Yahoo Mail|Mail for Windows)\b.{0,60}"
    r"|Get Outlook for (?:iOS|Android|Mac|Windows)\b.{0,60}"
    r"|Sent with Proton Mail\b.{0,60}"
    r"|Von meinem .{1,40} gesendet\.?|Gesendet von (?:meinem|Outlook|Mail)\b.{0,60}"
    r"|Envoyé de mon (?:iPhone|iPad|mobile)\b.{0,60}"
    r"|Enviado (?:desde|do|de) m(?:i|eu) (?:iPhone|iPad|m(?:ó|o)vil)\b.{0,60}"
    r"|Inviato da (?:iPhone|iPad|Outlook)\b.{0,60}"
    r"|Verstuurd vanaf mijn .{1,40}|Skickat från min .{1,40}|Sendt fra min .{1,40})$",
    re.IGNORECASE,
)


def strip_reply(text: str) -> str:
    """Return the text of a reply without quoted mail and signature.

    Lines that introduce a quotation ("On ..., Ana wrote:") are removed too. Text above,
    below and between quotations is kept, and so is a forwarded mail. This is a guess
    based on how the text looks and on words of several languages; in doubt the text is
    returned unchanged.

    :param text: The text, with ``\\n`` as line ending.
    :returns: ``""`` if nothing is left.
    """
    head = text[:MAX_TEXT]
    lines = head.split("\n", MAX_LINES)[:MAX_LINES]
    kept: list[str] = []
    quoted = introduced = 0
    in_quote = ended = False
    for index, full in enumerate(lines):
        line = full[:MAX_LINE].rstrip()
        if _QUOTED.match(line):
            if not in_quote:
                introduced += _drop_attribution(kept)
            quoted, in_quote = quoted + 1, True
            continue
        if _FORWARDED.match(line):
            kept += lines[index:]
            break
        if line:
            in_quote = False
            if _ends_here(lines, index, line):
                ended = True
                break
            if _SENT_FROM.match(line):
                ended = True
                continue
        kept.append(full)
    whole = text.strip("\n \t")
    if not ended and len(text) > sum(map(len, lines)) + len(lines):
        return whole  # too long: the rest wasn't checked
    stripped = "\n".join(kept).strip("\n \t")
    if not quoted and not (ended and stripped):
        return whole  # nothing is quoted, or there is no text above the quotation
    if stripped and quoted <= _OWN_QUOTES and not (introduced or ended):
        return whole
    return stripped


def _ends_here(lines: list[str], index: int, line: str) -> bool:
    """Return whether the rest of the text, from this line on, is quoted or signature.

    :param lines: All lines of the text.
    :param index: The index of the line.
    :param line: The beginning of the line, without trailing whitespace.
    """
    if line[0] in "-_=*#> \t" and _SEPARATOR.match(line):
        return True
    if line == "--":
        return lines[index].startswith("-- ") or (
            len(lines) - index <= _SIGNATURE_LINES and lines.count("--") == 1
        )
    if _FROM.match(line):
        following = _following(lines, index)
        others = sum(bool(_OTHER.match(n)) for n in following)
        has_subject = any(_SUBJECT.match(n) for n in following)
        dated = any(_DATE.search(n) for n in following)
        return others >= 1 and (
            (has_subject and (dated or "@" in line)) or (others >= 2 and "@" in line)
        )
    if _RULE.match(line):
        return any(_FROM.match(n) and "@" in n for n in _following(lines, index)[:2])
    return _introduces(lines, index, line)


def _following(lines: list[str], index: int) -> list[str]:
    return [line[:MAX_LINE] for line in lines[index + 1 : index + 7]]


def _introduces(lines: list[str], index: int, line: str) -> bool:
    """Return whether an introduction begins here, followed by unmarked quoted text.

    An introduction is "On ..., Ana <ana@example.com> wrote:". If the lines after it
    begin with ">", only these are removed, because the author may go on below them.
    """
    line = line.lstrip()
    if not _BEGINS.match(line):
        return False
    sentence = line
    following = [n.strip() for n in _following(lines, index)]
    for count in range(_ATTRIBUTION_LINES):
        if count:
            if count > len(following) or not following[count - 1]:
                return False
            sentence = f"{sentence} {following[count - 1]}"
        if sentence.endswith((":", "\uff1a")) and _WROTE.search(sentence[-200:]):
            behind = next((n for n in following[count:] if n), "")
            return "@" in sentence and (
                bool(_DATE.search(sentence)) and not _QUOTED.match(behind)
            )
    return False


def _drop_attribution(kept: list[str]) -> int:
    """Remove the lines before a quotation that introduce it ("On ..., Ana wrote:").

    :param kept: The lines before the quotation, from which they are removed.
    :returns: The number of introductions that were removed: 0 or 1.
    """
    last = len(kept) - 1
    while last >= 0 and not kept[last][:MAX_LINE].strip() and len(kept) - last < 3:
        last -= 1
    if last < 0:
        return 0
    final = kept[last][:MAX_LINE].strip()
    if not final.endswith((":", "\uff1a")):
        return 0
    first = last
    sentence = final
    while not _BEGINS.match(sentence) and last - first < _ATTRIBUTION_LINES - 1:
        before = kept[first - 1][:MAX_LINE].strip() if first else ""
        if not before:
            break
        first, sentence = first - 1, f"{before} {sentence}"
    if not _WROTE.search(sentence[-200:]):
        return 0
    if not _BEGINS.match(sentence):
        first = last  # its beginning wasn't found: remove only its last line
    del kept[first:]
    return 1
