"""Prompts as text: words that almost every tokeniser makes one token of, blank included."""

from __future__ import annotations

from collections.abc import Sequence

WORDS = tuple(
    """
    time year people way day man thing woman life child world school state family student group country problem
    hand part place case week company system program question work government number night point home water room
    mother area money story fact month lot right study book eye job word business issue side kind head house
    service friend father power hour game line end member law car city community name president team minute idea
    body information back parent face others level office door health person art war history party result change
    reason research girl moment air teacher force education foot boy age policy music market sense nation plan
    college interest death experience effect use class control field development role rate heart drug show leader
    light voice wife mind price report decision son view town arm value building action season tax director
    position player record paper space ground form event official matter center site project activity star table
    need court oil cost industry figure street image phone data picture practice piece land product doctor wall
    patient worker news test movie north love step computer sound rule skill risk summer river stone green white
    black yellow brown small large great short long young early late high low open close hard easy dark warm cold
    strong simple clear bright quick slow happy whole real full free true local public common human natural
    several possible important different available popular ready special difficult recent similar central single
    final current general foreign and the with from that this over under after before about between
    """.split()  # noqa: SIM905
)
"""256 frequent English words."""


def text_of(tokens: Sequence[int]) -> str:
    """Return the words that stand for `tokens`: equal ids, equal words."""
    return " ".join(WORDS[token % len(WORDS)] for token in tokens)
