"""Reads mail that came in: bytes from a stranger -> text, addresses and files.

Work and memory are bounded for every mail, and nothing in here raises for what a mail
says. :mod:`.message` is what receivers see; it reads from :mod:`.raw` or
:mod:`.fields`, which read with the modules below: :mod:`.structure` (parts),
:mod:`.headers`, :mod:`.parameters`, :mod:`.words`, :mod:`.addresses`,
:mod:`.transfer` and :mod:`.charsets`.
"""

from __future__ import annotations
