"""What happens in the worlds of the bAbI tasks, and what is asked about it? (Weston et al. 2015, arXiv 1502.05698)

Persons move between rooms; they take, drop and hand on things. A story tells every step, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, final

ROOMS: Final = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS: Final = ("apple", "football", "milk")
PERSONS: Final = ("Daniel", "John", "Mary", "Sandra")
GIVERS: Final = ("Bill", "Fred", "Jeff", "Mary")

MOVES = ("moved to", "went to", "journeyed to", "travelled to", "went back to")
TAKES = ("took", "got", "grabbed", "picked up")
DROPS = ("dropped", "discarded", "put down", "left")
GIVES = ("gave", "handed", "passed")

OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


@dataclass(frozen=True, kw_only=True)
class Story:
    """Sentences in order, a question and the one word that answers it."""

    facts: tuple[str, ...]
    question: str
    answer: str


@final
class World:
    """Where everybody and everything is, as far as the story told. places: of each thing the rooms it is known to have
    been in, each different from the one before; gifts: who gave what to whom."""

    def __init__(self, rng: Random, persons: tuple[str, ...]) -> None:
        self.rng = rng
        self.persons = persons
        self.facts = list[str]()
        self.room = dict[str, str]()
        self.holder = dict[str, str]()
        self.places: dict[str, list[str]] = {thing: [] for thing in THINGS}
        self.gifts = list[tuple[str, str, str]]()

    def move(self) -> None:
        """Somebody goes to another room, with all that he holds."""
        person = self.rng.choice(self.persons)
        self.room[person] = self.rng.choice([room for room in ROOMS if room != self.room.get(person)])
        self._tell(f"{person} {self.rng.choice(MOVES)} the {self.room[person]}.")
        for thing, holder in self.holder.items():
            if holder == person:
                self._see(thing)

    def take(self) -> bool:
        """Somebody takes a thing that nobody holds and that is where he is, as far as is known; False: there
        is none."""
        able = [(who, thing) for who in self.persons for thing in THINGS if self._can_take(who, thing)]
        if not able:
            return False
        person, thing = self.rng.choice(able)
        self.holder[thing] = person
        self._tell(f"{person} {self.rng.choice(TAKES)} the {thing}{self.rng.choice(('', ' there'))}.")
        self._see(thing)
        return True

    def _can_take(self, person: str, thing: str) -> bool:
        places = self.places[thing]
        return thing not in self.holder and (not places or places[-1] == self.room.get(person))

    def drop(self) -> bool:
        """Somebody drops a thing where he is known to be; False: nobody can."""
        able = [thing for thing, holder in self.holder.items() if holder in self.room]
        if not able:
            return False
        thing = self.rng.choice(able)
        person = self.holder.pop(thing)
        self._tell(f"{person} {self.rng.choice(DROPS)} the {thing}{self.rng.choice(('', ' there'))}.")
        return True

    def give(self) -> bool:
        """Somebody gives a thing to another one; False: nobody holds any. Where they are does not matter, for the
        story does not tell all."""
        if not self.holder:
            return False
        thing = self.rng.choice(list(self.holder))
        giver = self.holder[thing]
        taker = self.rng.choice([person for person in self.persons if person != giver])
        self.holder[thing] = taker
        self.gifts.append((giver, thing, taker))
        self._tell(f"{giver} {self.rng.choice(GIVES)} the {thing} to {taker}.")
        return True

    def _see(self, thing: str) -> None:
        room = self.room.get(self.holder[thing])
        places = self.places[thing]
        if room is not None and places[-1:] != [room]:
            places.append(room)

    def _tell(self, fact: str) -> None:
        self.facts.append(fact)

    def story(self, question: str, answer: str) -> Story:
        """What was told, and a question about it."""
        return Story(facts=tuple(self.facts), question=question, answer=answer)


def one_fact(rng: Random) -> Story:
    """qa1: where is a person, after 2 to 10 moves."""
    world = World(rng, PERSONS)
    for _ in range(rng.randint(2, 10)):
        world.move()
    person = rng.choice(list(world.room))
    return world.story(f"Where is {person}?", world.room[person])


def two_facts(rng: Random) -> Story:
    """qa2: where is a thing, after 4 to 14 steps."""
    world = _carried(rng, rng.randint(4, 14), 1)
    thing = rng.choice([thing for thing, places in world.places.items() if places])
    return world.story(f"Where is the {thing}?", world.places[thing][-1])


def three_facts(rng: Random) -> Story:
    """qa3: where was a thing before, after 8 to 24 steps."""
    world = _carried(rng, rng.randint(8, 24), 2)
    thing = rng.choice([thing for thing, places in world.places.items() if len(places) > 1])
    *_, before, last = world.places[thing]
    return world.story(f"Where was the {thing} before the {last}?", before)


def _carried(rng: Random, n_steps: int, n_places: int) -> World:
    """A world after so many steps in which some thing was in so many rooms; tried anew until there is one."""
    while True:
        world = World(rng, PERSONS)
        while len(world.facts) < n_steps:
            rng.choice((world.move, world.take, world.drop))()
        if any(len(places) >= n_places for places in world.places.values()):
            return world


def two_arguments(rng: Random) -> Story:
    """qa4: which of two rooms is on a side of a third one."""
    first, middle, last = rng.sample(ROOMS, 3)
    side = rng.choice(list(OPPOSITE))
    facts = [_beside(rng, first, side, middle), _beside(rng, middle, side, last)]
    rng.shuffle(facts)
    question, answer = rng.choice(
        (
            (f"What is {side} of the {middle}?", first),
            (f"What is {OPPOSITE[side]} of the {middle}?", last),
            (f"What is the {middle} {side} of?", last),
            (f"What is the {middle} {OPPOSITE[side]} of?", first),
        )
    )
    return Story(facts=tuple(facts), question=question, answer=answer)


def _beside(rng: Random, room: str, side: str, other: str) -> str:
    if rng.random() < 1 / 2:
        return f"The {room} is {side} of the {other}."
    return f"The {other} is {OPPOSITE[side]} of the {room}."


def three_arguments(rng: Random) -> Story:
    """qa5: who gave what to whom the last time, after 3 to 16 steps of which that is the last one."""
    n_steps = rng.randint(3, 16)
    while True:
        world = World(rng, GIVERS)
        while len(world.facts) < n_steps:
            rng.choice((world.move, world.take, world.give))()
        if world.give():
            break
    giver, thing, taker = world.gifts[-1]
    question, answer = rng.choice(
        (
            (f"What did {giver} give to {taker}?", thing),
            (f"Who gave the {thing} to {taker}?", giver),
            (f"Who gave the {thing}?", giver),
            (f"Who received the {thing}?", taker),
            (f"Who did {giver} give the {thing} to?", taker),
        )
    )
    return world.story(question, answer)


STORIES: Final[dict[str, Callable[[Random], Story]]] = {
    "qa1": one_fact,
    "qa2": two_facts,
    "qa3": three_facts,
    "qa4": two_arguments,
    "qa5": three_arguments,
}
"""How a story of each task comes about."""
