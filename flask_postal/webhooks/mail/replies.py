"""Takes what is quoted out of an answer, in time that grows with its length.

Libraries for this match expressions over the whole text whose time grows with its
square or worse; text comes from strangers, so here each line is looked at once, and
only its beginning.
"""

from __future__ import annotations

import re

__all__ = ["strip_reply"]

#: Characters of a text and lines that are looked at; what follows stays as it is.
MAX_TEXT, MAX_LINES = 1_000_000, 10_000
#: Characters of a line that are looked at.
MAX_LINE = 500
#: Lines over which programs break "On ..., ... wrote:".
_ATTRIBUTION_LINES = 4
#: Quoted lines that may be the author's own ("> make install") where nothing else in
#: the text looks like an answer.
_OWN_QUOTES = 2
#: Lines below a "--" that may be a signature.
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
    """Return what the author of an answer wrote: without quoted mails, the lines that
    introduce them, and a signature.

    Answers above, below and between what is quoted are kept, and so is all of a mail
    that somebody forwards.

    :param text: The text, lines ended by ``\\n``.
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
        return whole  # too long to tell
    stripped = "\n".join(kept).strip("\n \t")
    if not quoted and not (ended and stripped):
        return whole  # nothing is quoted, or nothing stands above what looks like it
    if stripped and quoted <= _OWN_QUOTES and not (introduced or ended):
        return whole
    return stripped


def _ends_here(lines: list[str], index: int, line: str) -> bool:
    """Tell whether all from this line on is a mail that is answered, or a signature."""
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
    """Tell whether "On ..., Ana <ana@example.com> wrote:" begins here, with a mail
    behind it that is not marked as quoted."""
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
    """Take away the lines that introduce a quotation which begins here.

    :returns: How many quotations were introduced: 0 or 1.
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
        first = last  # where it begins can't be told: only its end goes
    del kept[first:]
    return 1
