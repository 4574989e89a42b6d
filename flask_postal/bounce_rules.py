"""The rules by which a refused mail is classified, as data.

Each rule has a regular expression for the text of an SMTP reply, in lower case, with
addresses replaced by ``@``, URLs by ``url``, and every run of blanks by one. The first
rule that fits decides. :data:`STRONG` stands before the enhanced status code, because
servers choose codes carelessly; :data:`WEAK` after it.

To add one: put it where the more specific rules stand before it, name where the text
comes from, and add an example to ``tests/data/bounces/replies.json``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

__all__ = ["STATUSES", "STRONG", "WEAK", "BounceReason", "BounceType", "Rule", "Status"]


class BounceType(StrEnum):
    """Whether to try an address again."""

    PERMANENT = "permanent"  #: Don't: there is no such mailbox, or it takes no mail.
    TEMPORARY = "temporary"  #: It may be different tomorrow, or for another message.
    UNKNOWN = "unknown"  #: The reply doesn't tell.


class BounceReason(StrEnum):
    """Why a mail was refused."""

    MAILBOX = "mailbox"  #: There is no such mailbox, or it is closed.
    HOST = "host"  #: There is no such domain, or it takes no mail at all.
    MOVED = "moved"  #: The recipient has another address.
    FULL = "full"  #: The mailbox is full.
    SUSPENDED = "suspended"  #: The mailbox is suspended.
    GREYLISTED = "greylisted"
    RATE = "rate"  #: Too much mail in too short a time.
    RELAY = "relay"  #: The server is not one for this domain.
    REPUTATION = "reputation"  #: The sending server or domain is on a block list.
    AUTHENTICATION = "authentication"  #: SPF, DKIM, DMARC or reverse DNS.
    SENDER = "sender"  #: The sender's address was refused.
    POLICY = "policy"  #: Any other policy.
    CONTENT = "content"  #: What is in the message: spam, a virus, a link.
    SIZE = "size"
    DNS = "dns"
    NETWORK = "network"
    SYSTEM = "system"  #: The server has a problem of its own.
    OTHER = "other"


#: What stands for words with the same meaning in the patterns.
_WORDS = {
    "who": "(?:user|recipient|mail ?box|account|addressee|e-?mail account)",
    "be": "(?:is |was |are |has |has been |have been |could |can |does )?",
    "no": "(?:unknown|invalid|nonexistent|non-existent|no such|bad|incorrect|no valid)",
    "not": (
        "(?:unknown|not (?:be )?found|not exists?|does ?n[o']t exist|doesn't exist"
        r"|nonexist\w+|non-exist\w+|not (?:a )?known|not recogni[sz]ed|not listed"
        "|no longer (?:exists?|available|active|valid|in use|on (?:this )?server))"
    ),
    "closed": (
        "(?:disabled|de-?activated|inactive|closed|deleted|terminated|expired"
        "|cancell?ed|removed|retired|not active|dormant|discontinued)"
    ),
    "refused": "(?:rejected|refused|denied|blocked|invalid|unknown|unverif|verif)",
}


def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    pattern = "|".join(patterns)
    for name, words in _WORDS.items():
        pattern = pattern.replace(f"<{name}>", words)
    return re.compile(pattern)


@dataclass(frozen=True, slots=True)
class Rule:
    """A text of an SMTP reply, and what it says.

    :param name: What :attr:`.Outcome.bounce_rule` says.
    :param patterns: Regular expressions, of which one has to be found. ``<who>``
        and the like stand for the words of :data:`_WORDS`.
    :param source: Where texts of this kind come from.
    """

    name: str
    patterns: tuple[str, ...]
    type: BounceType
    reason: BounceReason
    source: str
    regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "regex", _compiled(self.patterns))


_P, _T = BounceType.PERMANENT, BounceType.TEMPORARY
_R = BounceReason

STRONG: tuple[Rule, ...] = (
    Rule(
        "sender",
        (
            "sender(?:'s)?(?: e-?mail)?(?: address| domain| host)?[ :@]*<be><refused>",
            "sender(?: address)?:? (?:does not|could not be|cannot be|not exist)",
            "sender verif",
            "domain of sender",
            "bad sender",
            "invalid sender",
            "unknown sender",
            "mail from (?:address|command|domain)",
            "(?:return|envelope)[- ](?:path|from|sender)",
            "reverse-path",
            "from address",
            "sender is not",
            "send(?:er|ing) domain",
            r"\bfrom: domain",
            r"\bvalid from\b",
            "unroute?able sender",
            "after mail from",
        ),
        _T,
        _R.SENDER,
        "Postfix reject_unknown_sender_domain, Exim verify = sender, Exchange 5.1.8",
    ),
    Rule(
        "authentication",
        (
            r"\bspf\b",
            r"\bdkim\b",
            r"\bdmarc\b",
            "sender policy framework",
            "unauthenticated (?:e-?mail|mail)",
            "reverse (?:dns|lookup|ip)",
            r"\bptr\b",
            r"\brdns\b",
            "fcrdns",
            r"\bhelo\b",
            r"\behlo\b",
            "authentication (?:checks|information|results|required)",
            "not authenticated",
            "not advertise auth",
        ),
        _T,
        _R.AUTHENTICATION,
        "RFC 7372; Gmail 5.7.26; Postfix reject_unknown_client_hostname",
    ),
    Rule(
        "full",
        (
            r"(?:<who>|inbox|disk|storage)(?:'s)?(?: \S+){0,5} full\b",
            "full mail ?box",
            "over ?quota",
            "quota",
            "insufficient (?:system )?(?:storage|disk)",
            "out of (?:storage|disk)",
            "storage (?:allocation|limit|space|quota)",
            "not enough (?:storage|disk|space)",
            r"(?:exceed\w*|over) (?:its|their|his|the) (?:\w+ )?(?:storage|limit|size)",
            "no space",
            "mailbox (?:has )?exceeded",
            "mailbox size",
            "too many messages in",
        ),
        _T,
        _R.FULL,
        "RFC 3463 X.2.2; Gmail 5.2.2; Exchange Quota",
    ),
    Rule(
        "suspended",
        (
            "suspended",
            "suspension",
            "on hold",
            r"\blocked\b",
            "temporarily (?:disabled|inactive|closed|unavailable|blocked)",
        ),
        _T,
        _R.SUSPENDED,
        "cPanel, Yahoo",
    ),
    Rule(
        "office365-access-denied",
        (r"5\.4\.1.{0,60}recipient address rejected: access denied",),
        _P,
        _R.MAILBOX,
        "Exchange Online, directory-based edge blocking",
    ),
    Rule(
        "mailbox-moved",
        (
            r"(?:user|recipient|mailbox|account|address)(?: \S+){0,3} (?:has )?moved\b",
            "has moved to",
            "changed (?:his|her|their|its|my) (?:e-?mail )?address",
            "new (?:e-?mail )?address is",
            "address (?:has )?changed",
            r"no longer (?:works?|employed|with (?:us|the|this)|at)\b",
            "left the company",
            "forwarding address",
        ),
        _P,
        _R.MOVED,
        "RFC 3463 X.1.6, RFC 5321 551, and what people write",
    ),
    Rule(
        "mailbox-unknown",
        (
            "<who>(?: (?:address|name|id|account))?:? ?(?:@ ?)?<be><not>",
            "<no> (?:e-?mail |local |destination )*(?:<who>|user ?name|person|alias)",
            r"<no> (?:e-?mail )?(?:address\b(?! format)|local[ -]part)",
            "(?:<who>|alias)(?: address| name)? ?(?:@ )?<be>(?:invalid|not valid)",
            "no <who>s?(?: here)? ?(?:@ ?)?(?:by|with|under|for|found|here|named)",
            "not an? (?:valid|active|known|existing) (?:<who>|e-?mail|address)",
            "not (?:valid|active|known|existing) (?:<who>|e-?mail|address)",
            r"(?:doesn't|does not|do not|don't) have an?(?: \S+)? (?:\S+ )?account",
            "that you tried to reach does not exist",
            "account @? ?does not exist",
            "e-?mail (?:address|account)(?: @)? <be>not (?:be )?found",
            r"(?:e-?mail )?address(?: @)?(?: \S+)? (?:does not|doesn't) exist",
            "address (?:is )?unknown",
            "unrouteable address",
            "recip(?:ient)?notfound",
            "not (?:our|a) customer",
            "user unknown",
            r"unknown user\b",
            "no one at this address",
            "nobody (?:here )?(?:by|with) that",
            "not listed in (?:the )?(?:domino|public|address|directory|our)",
            "unknown or illegal alias",
            "unknown to me",
            "(?:undeliverable|nonexistent) address",
            "user not (?:local|here)",
            "never (?:logged|existed)",
            "doesn't exist at",
            "not in (?:our )?directory",
            "address you entered",
            "no such address",
            "wrong address",
            "recipient no longer",
            "invalid final delivery userid",
            "ディレクトリ.{0,20}(?:見つかりません|ありません)",
        ),
        _P,
        _R.MAILBOX,
        "Postfix, Exim, Sendmail, qmail, Exchange, Gmail, Yahoo, Mail.ru, QQ",
    ),
    Rule(
        "mailbox-disabled",
        (
            "<who>(?: (?:address|@))? <be>(?:currently )?disabled(?! or disc| .554.30)",
            "disabled (?:<who>|recipient|mailbox|account)",
            "tried to reach is disabled",
        ),
        # RFC 3463, X.2.1: it may be enabled again, or never.
        BounceType.UNKNOWN,
        _R.MAILBOX,
        "Gmail 5.2.1, AOL",
    ),
    Rule(
        "mailbox-closed",
        (
            "<who>(?: (?:address|@))? <be>(?:currently )?<closed>",
            "<closed> <who>",
            "tried to reach is inactive",
            "not accepting (?:messages|mail)$",
        ),
        _P,
        _R.MAILBOX,
        "Gmail 5.2.1, Yahoo 554 delivery error, RFC 3463 X.2.1",
    ),
    Rule(
        "host-unknown",
        (
            r"(?:domain|host)(?: name)?(?: \S+)? <be>(?:<not>|invalid|expired)",
            r"(?:domain|host)(?: name)?(?: \S+)? (?:does not resolve|has no mx)",
            "domain (?:doesn't|does not) exist",
            "<no> (?:host|domain|mail server)",
            "host unknown",
            r"\bnull ?mx\b",
            "nxdomain",
            "name service error for",
            "bad destination (?:host|system)",
            r"(?:domain|host|recipient)(?: \S+)? does ?n[o']t accept (?:any )?mail",
            "domain (?:has no|does not have any) (?:mail|mx)",
            "no mail (?:server|exchanger|host)s? (?:for|found)",
            "couldn't find any host",
            "not a valid domain",
            "illegal host",
        ),
        _P,
        _R.HOST,
        "Postfix 5.4.4, RFC 7505, qmail, Exim",
    ),
    Rule(
        "greylisted",
        (
            "gr[ea]y-?list",
            "try(?:ing)? again",
            "try later",
            "come back later",
            "retry later",
            "please retry",
            "resend later",
        ),
        _T,
        _R.GREYLISTED,
        "Postgrey, Exim, and texts that ask for another attempt",
    ),
    Rule(
        "relay",
        (
            "relay",
            "rcpthosts",
            "not (?:a )?local (?:domain|host)",
            "we do not (?:accept|handle) mail for",
            "domain (?:is )?not (?:hosted|local|served|handled)",
        ),
        _T,
        _R.RELAY,
        "Postfix reject_unauth_destination, Exim, qmail",
    ),
    Rule(
        "reputation",
        (
            "black[- ]?list",
            "block[- ]?list",
            "deny[- ]?list",
            "spamhaus",
            "spamcop",
            "sorbs",
            "barracuda",
            r"\brbl\b",
            "dnsbl",
            "surbl",
            "uribl",
            "proofpoint",
            "cloudmark",
            "reputation",
            "senderbase",
            "unsolicited",
            "bulk mail",
            r"\bbanned\b",
            "(?:your|sending|client|this) (?:ip|host|server|network|isp)",
            r"\bip(?: address)?(?: \S+)? <be>(?:<refused>|listed|not allowed)",
            "blocked (?:using|by|due|for)",
            "client host",
            "listed (?:at|in|on|by)",
            "abuse",
            "spam ?score",
        ),
        _T,
        _R.REPUTATION,
        "DNS block lists, Outlook.com S3140, Gmail 5.7.1",
    ),
    Rule(
        "content",
        (
            r"\bspam",
            "virus",
            "malware",
            "phish",
            r"(?:message|mail|text|body|this) (?:\w+ )?content",
            "content (?:rejected|filter|restriction|violat|not)",
            "suspicious",
            "harmful",
            "prohibited attachment",
            "attachment",
            "blocked url",
            r"\burl\b.{0,30}(?:blocked|black)",
            "message contains",
            "considered (?:as )?spam",
            "looks like",
            "header (?:is|was|missing)",
            "malformed",
            "illegal (?:subject|character)",
        ),
        _T,
        _R.CONTENT,
        "SpamAssassin, Amavis, Gmail 5.7.0, RFC 5322 checks",
    ),
    Rule(
        "size",
        (
            r"(?:message|mail|size|data)(?: \S+){0,4} (?:too (?:large|long)|exceed)",
            "too (?:large|big)",
            "size limit",
            r"max(?:imum)? (?:\w+ )?size",
            "larger than",
        ),
        _T,
        _R.SIZE,
        "RFC 1870, RFC 3463 X.3.4",
    ),
    Rule(
        "rate",
        (
            r"\brates?\b",
            "too (?:many|much)",
            "throttl",
            "too fast",
            "too quickly",
            "limit (?:exceeded|reached)",
            r"exceed\w* (?:the )?(?:\w+ )?limit",
            "maximum (?:number|connections)",
        ),
        _T,
        _R.RATE,
        "Gmail 4.2.1, Yahoo TSS04, Postfix anvil",
    ),
)


class Status(NamedTuple):
    """What an enhanced status code says."""

    type: BounceType
    reason: BounceReason


#: Enhanced status codes without their class (RFC 3463, RFC 5248, RFC 7505), and their
#: subjects, such as ``"7"``, for those that are not listed. Where a code is used for
#: both (1.0, 2.0, 2.1, 5.0), there is none.
STATUSES: dict[str, Status] = {
    "1.1": Status(_P, _R.MAILBOX),
    "1.2": Status(_P, _R.HOST),
    "1.3": Status(_P, _R.MAILBOX),
    "1.6": Status(_P, _R.MOVED),
    "1.7": Status(_T, _R.SENDER),
    "1.8": Status(_T, _R.SENDER),
    "1.10": Status(_P, _R.HOST),
    "2.2": Status(_T, _R.FULL),
    "2.3": Status(_T, _R.SIZE),
    "3.4": Status(_T, _R.SIZE),
    "3": Status(_T, _R.SYSTEM),
    "4.3": Status(_T, _R.DNS),
    "4.6": Status(_T, _R.SYSTEM),
    "4.7": Status(_T, _R.NETWORK),
    "6": Status(_T, _R.CONTENT),
    "7.20": Status(_T, _R.AUTHENTICATION),
    "7.23": Status(_T, _R.AUTHENTICATION),
    "7.25": Status(_T, _R.AUTHENTICATION),
    "7.26": Status(_T, _R.AUTHENTICATION),
    "7.27": Status(_T, _R.SENDER),
    "7.28": Status(_T, _R.RATE),
    "7": Status(_T, _R.POLICY),
}

WEAK: tuple[Rule, ...] = (
    Rule(
        "network",
        (
            "timed? ?out",
            "(?:message|envelope) expired",
            "connection (?:refused|reset|lost|failed|timed|dropped)",
            "unreachable",
            "no route",
            "connect to",
            "could not connect",
            "network",
            "no hosts? to",
            "not accept our requests to connect",
            "socket error",
        ),
        _T,
        _R.NETWORK,
        "Postfix, Postal",
    ),
    Rule(
        "dns",
        (
            r"\bdns\b",
            "lookup",
            "resolv",
            "no mx",
            "mx record",
        ),
        _T,
        _R.DNS,
        "Postfix, Exim",
    ),
    Rule(
        "policy",
        (
            "polic(?:y|ies)",
            "access denied",
            "not (?:authori[sz]ed|allowed|permitted|accepted)",
            "permission",
            "administrative",
            "prohibited",
            "restrict",
            "only accept",
            "denied",
            "security",
            "banned",
            "blocked",
            "not accept(?:ing|ed)? (?:mail|messages) from",
        ),
        _T,
        _R.POLICY,
        "all servers",
    ),
    Rule(
        "system",
        (
            "temporar",
            "internal",
            "local (?:error|problem|configuration)",
            "server (?:error|busy|unavailable)",
            "service (?:is )?(?:not available|unavailable)",
            "system",
            "configuration",
            "mail loop",
            "too many hops",
            "hop count",
            "resource",
            "database",
            "maintenance",
            "command",
            "syntax",
            "protocol",
            "not implemented",
            "maximum number of delivery attempts",
        ),
        _T,
        _R.SYSTEM,
        "all servers",
    ),
)
