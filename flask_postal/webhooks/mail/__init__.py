"""Parses inbound mail: turns bytes from a stranger into text, addresses and files.

Receivers get :class:`.InboundMessage`. It reads from :mod:`.raw` (Postal's RawMessage
formats) or :mod:`.fields` (the Hash formats), which use :mod:`.structure` for the parts
of an email, and :mod:`.headers`, :mod:`.parameters`, :mod:`.encoded_words`,
:mod:`.addresses`, :mod:`.transfer_encoding` and :mod:`.charsets`.

Anybody can send a mail that is made to hurt, so three rules apply to all modules:

- Nothing is parsed before it is used, and nothing that a mail contains makes
  :class:`.InboundMessage` raise. A mail that can't be read completely has still been
  delivered, and Postal's retries wouldn't change it.
- Time and memory are bounded: 10 MB of anything take less than 1 s of CPU time
  (docs/performance.md has a table; ``tests/test_hostile.py`` counts calls and memory).
  This is what the ``MAX_`` limits are for. What exceeds one is left unread, and
  ``message.defects`` says so.
- Regular expressions use atomic groups and possessive quantifiers wherever backtracking
  could take more than linear time. A group must not itself be repeated possessively,
  because Python before 3.11.5, such as Debian 12's, mishandles that (gh-106052); an
  atomic group around a normal repetition does the same in all versions.
"""

from __future__ import annotations
