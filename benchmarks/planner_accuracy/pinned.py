"""The routers of the data sets, where they were not ours: a hash gives a conversation its workers for good."""

from __future__ import annotations

import random
import re
from collections.abc import Collection

from tercet.core.errors import UsageError
from tercet.core.route import Rank, Route
from tercet.core.stage import Mode
from tercet.latency.oracle import ChosenOracle
from tercet.latency.stack import StackConstants
from tercet.routing.facts import RequestFacts
from tercet.routing.fleet import FleetState
from tercet.routing.policy import Policy
from tercet.sim.fleet import FleetSpec, fleet_of

_PART = re.compile(r"(\d+)(pD|P|D|R|A)")


def parse_config(text: str) -> dict[str, int]:
    """Read `2R`, `1P1D`, `1R_1P_1D_1pD`: R or A a replica, pD a decode worker that later turns go straight to.

    Raises UsageError.
    """
    counts = dict.fromkeys(("R", "P", "D", "pD"), 0)
    rest = _PART.sub("", text).replace("_", "").replace("+", "")
    for number, letter in _PART.findall(text):
        counts["R" if letter == "A" else letter] += int(number)
    decoders = counts["D"] + counts["pD"]
    if rest or (bool(decoders) != bool(counts["P"])) or not (decoders or counts["R"]):
        raise UsageError(f"{text!r} is no configuration: write for instance 2R, 1P1D, 1P_3pD, 1R_1P_1D_1pD")
    return counts


def pinned_fleet(config: str, chosen: ChosenOracle, stack: StackConstants) -> FleetSpec:
    """Return a configuration's workers. Raises UsageError."""
    counts = parse_config(config)
    letters = {"P": counts["P"], "D": counts["D"] + counts["pD"], "A": counts["R"]}
    form = "".join(f"{count}{letter}" for letter, count in letters.items() if count)
    mode = Mode.PD if counts["P"] else Mode.REPLICATED
    return fleet_of(form, chosen, mode=mode, stack=stack)


class Pinned:
    """Takes the place of the router's modes: conversations keep random workers, pD ones decode later turns alone.

    `later`: every request is a later turn, whatever the simulated client says of it.
    """

    def __init__(self, config: str, seed: int, *, later: bool = False) -> None:
        self._straight_from = parse_config(config)["D"]
        self._random = random.Random(seed)
        self._later = later
        self._places: dict[str, tuple[Rank | None, Rank]] = {}

    def __call__(
        self, mode: Mode, facts: RequestFacts, fleet: FleetState, policy: Policy, avoid: Collection[str]
    ) -> Route:
        """Return the route of a conversation."""
        place = self._places.get(facts.session or "")
        if place is None:
            ranks = list(fleet.ranks.values())
            decode = self._random.choice([rank for rank in ranks if rank.letter in "AD"])
            prefill = None
            if decode.letter == "D":
                prefill = self._random.choice([rank for rank in ranks if rank.letter == "P"])
            place = self._places[facts.session or ""] = (prefill, decode)
        prefill, decode = place
        later = self._later or facts.later_turn
        straight = prefill is None or (later and decode.index >= self._straight_from)
        return Route(mode, decode, None if straight else prefill)
