"""Takes what is quoted out of an answer, in time that grows with its length.

Libraries for this match expressions over the whole text whose time grows with its
square or worse; text comes from strangers, so here each line is looked at once.
"""

from __future__ import annotations

import re

__all__ = ["strip_reply"]

#: Lines that are looked at; the rest of a longer text stays as it is.
MAX_LINES = 10_000
#: Characters of a line that are looked at.
MAX_LINE = 500
#: Lines over which programs break "On ..., ... wrote:".
_ATTRIBUTION_LINES = 4

_QUOTED = re.compile(r"[ \t]{0,3}(?:>|\|[ ]?>)")
_WROTE = re.compile(
    r"\b(?:wrote|writes|schrieb|geschrieben|a écrit|escribió|escreveu|ha scritto"
    r"|schreef|skrev|napisał|napisał\(a\)|kirjoitti|написал|пише|yazd\u0131|написав|写道"
    r"|のメッセージ|wrote the following)\b[^:]{0,80}[:\uff1a]$",
    re.IGNORECASE,
)
_BEGINS = re.compile(
    r"(?:On|Am|Le|El|Il|Op|Em|Den|Dnia|W dniu|Wd|At|In|Il giorno|Na|Tarihinde|\d)\b",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(
    r"[ \t>]*[-_=*]{2,}[ ]?(?:Original Message|Original-Nachricht"
    r"|Urspr(?:ü|ue)ngliche Nachricht|Message d'origine|Message original"
    r"|Mensaje original|Mensagem original|Messaggio originale|Oorspronkelijk bericht"
    r"|Oprindelig meddelelse|Ursprungligt meddelande|Opprinnelig melding"
    r"|Wiadomość oryginalna|Исходное сообщение|Please reply above this line"
    r"|Reply above this line)[ ]?[-_=*]{2,}\s*$",
    re.IGNORECASE,
)
_FROM = re.compile(
    r"[ \t>]*\*?(?:From|Von|De|Da|Van|Fra|Från|Od|От|Lähettäjä)[ ]?:\*?[ \t]*\S"
)
_OTHER = re.compile(
    r"[ \t>]*\*?(?:Sent|Date|To|Cc|Subject|Gesendet|Datum|An|Betreff|Envoyé|À|Objet"
    r"|Enviado|Enviada em|Fecha|Data|Para|Asunto|Assunto|Inviato|A|Oggetto|Verzonden"
    r"|Aan|Onderwerp|Sendt|Dato|Til|Emne|Skickat|Till|Ämne|Wysłano|Do|Temat"
    r"|Отправлено|Дата|Кому|Тема|Lähetetty|Aihe)[ ]?:\*?[ \t]*\S"
)
_RULE = re.compile(r"[ \t]*[_-]{20,}[ \t]*$")
_SIGNATURE = re.compile(r"--[ ]?$")
_SENT_FROM = re.compile(
    r"(?:Sent from my|Sent from Outlook|Get Outlook for|Von meinem .{1,40} gesendet"
    r"|Gesendet von|Envoyé de mon|Enviado desde|Enviado do meu|Inviato da"
    r"|Verstuurd vanaf|Skickat från|Sendt fra)\b.{0,80}$",
    re.IGNORECASE,
)


def strip_reply(text: str) -> str:
    """Return what the author of an answer wrote: without quoted mails, the lines that
    introduce them, and a signature.

    :param text: The text, lines ended by ``\\n``.
    :returns: ``""`` if nothing is left.
    """
    lines = text.split("\n", MAX_LINES)
    looked_at, rest = lines[:MAX_LINES], lines[MAX_LINES:]
    kept: list[str] = []
    for index, full in enumerate(looked_at):
        line = full[:MAX_LINE].rstrip()
        if _QUOTED.match(line):
            _drop_attribution(kept)
            continue
        if line and _ends_here(looked_at, index, line):
            rest = []
            break
        kept.append(full)
    return "\n".join([*kept, *rest]).strip("\n \t")


def _ends_here(lines: list[str], index: int, line: str) -> bool:
    """Tell whether all from this line on is a mail that is answered, or a signature."""
    if _SIGNATURE.match(line) or _SEPARATOR.match(line):
        return True
    if _SENT_FROM.match(line):
        return True
    following = [next_[:MAX_LINE] for next_ in lines[index + 1 : index + 7]]
    if _FROM.match(line) and sum(bool(_OTHER.match(n)) for n in following) >= 2:
        return True
    if _RULE.match(line) and any(_FROM.match(n) for n in following[:2]):
        return True
    return _introduces(line, following)


def _introduces(line: str, following: list[str]) -> bool:
    """Tell whether "On ..., ana@example.com wrote:" begins here, with a mail behind it
    that is not marked as quoted."""
    if not _BEGINS.match(line):
        return False
    sentence = line
    for more in ["", *following[: _ATTRIBUTION_LINES - 1]]:
        sentence = f"{sentence} {more.strip()}".strip()
        if _WROTE.search(sentence[-200:]):
            return bool(re.search(r"\d", sentence)) and (
                "@" in sentence or bool(re.search(r"\d{1,2}[:.]\d\d|\d{4}", sentence))
            )
    return False


def _drop_attribution(kept: list[str]) -> None:
    """Take away the lines that introduce a quotation which begins here."""
    last = len(kept) - 1
    while last >= 0 and not kept[last].strip() and len(kept) - last < 3:
        last -= 1
    if last < 0 or not kept[last].rstrip().endswith((":", "\uff1a")):
        return
    first = last
    for first in range(last, max(-1, last - _ATTRIBUTION_LINES), -1):
        line = kept[first].strip()
        if not line:
            return
        if _BEGINS.match(line):
            break
    sentence = " ".join(line[:MAX_LINE].strip() for line in kept[first : last + 1])
    if _WROTE.search(sentence[-200:]):
        del kept[first:]
