"""Do the tasks ask what their texts answer, of those who saw enough of them, and of nobody else?"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, islice, pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from scipy.stats import binomtest, chisquare

from diptych.core.config import RecallConfig
from diptych.data.recall import HAYSTACK, recall_tokenizer
from diptych.evaluation.context.filler import Haystack, Section, Sentences, weave
from diptych.evaluation.context.frequency import COUNTS, FrequencyTask
from diptych.evaluation.context.lexicon import deal, hands, lexicon_of
from diptych.evaluation.context.pieces import Piece, Writer
from diptych.evaluation.context.tasks import TASKS, TaskName, build_task
from diptych.evaluation.context.types import Context, Probe, Task
from diptych.evaluation.context.wording import STYLES, Style, wording_of, words_of
from diptych.evaluation.context.words import NAMES, NOUNS, SENTENCES, SHORT_SENTENCES
from diptych.tokenizers.base import Ids, Tokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.simple import ByteTokenizer, CharacterTokenizer, WordTokenizer
from diptych.tokenizers.train import train_words
from diptych.tokenizers.vocabulary import VocabularyOfBytes

CHANCE = 1 / 8
SOME_TEXT = " ".join([*SENTENCES, *SHORT_SENTENCES, *NAMES, *NOUNS[::2]])


def sentencepiece_model() -> Tokenizer:
    """As Llama has it: a text begins with a space that is not there."""
    import sentencepiece

    with TemporaryDirectory() as folder:
        (Path(folder) / "text.txt").write_text("\n".join([*SENTENCES, *NAMES, *NOUNS]))
        sentencepiece.SentencePieceTrainer.train(
            input=f"{folder}/text.txt",
            model_prefix=f"{folder}/tokenizer",
            vocab_size=700,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            hard_vocab_limit=False,
            minloglevel=9,
        )
        return load_tokenizer(Path(folder))


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    match kind:
        case "byte":
            return ByteTokenizer()
        case "character":
            return CharacterTokenizer("".join(sorted(set(SOME_TEXT))))
        case "recall":
            return recall_tokenizer(RecallConfig(n_keys=85, n_values=85))
        case "small recall":
            return recall_tokenizer(RecallConfig())
        case "words":  # of lower case alone, without all of the haystack
            return train_words([" " + " ".join([*NOUNS, "one more vote for most were the"])], 600)
        case "bpe":
            return train_bpe([" " + SOME_TEXT], 600)
        case "sentencepiece":
            return sentencepiece_model()
        case _:
            raise AssertionError(kind)


KINDS = ("byte", "character", "recall", "small recall", "words", "bpe", "sentencepiece")


def speaks(kind: str, style: Style) -> bool:
    """Whether the tokenizer has the words of the style."""
    return style == "pairs" or kind not in ("recall", "small recall", "words")


@dataclass(frozen=True)
class Case:
    name: TaskName
    kind: str
    style: Style

    @property
    def task(self) -> Task:
        return built(self)

    @property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.kind)


@cache
def built(case: Case) -> Task:
    return build_task(case.name, case.tokenizer, case.style, seed=5)


CASES = [
    Case(name, kind, style)
    for kind in KINDS
    for style in STYLES
    for name in TASKS
    if speaks(kind, style) and (style != "question" or kind in ("byte", "bpe"))
]
PLAIN = [case for case in CASES if case.kind in ("bpe", "recall") and case.style != "question"]
each = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} {case.kind} {case.style}")
each_plain = pytest.mark.parametrize("case", PLAIN, ids=lambda case: f"{case.name} {case.kind} {case.style}")


@cache
def words_in(case: Case) -> tuple[set[str], set[str]]:
    """Keys and values."""
    lexicon = lexicon_of(Writer(case.tokenizer), words_of(wording_of(case.style)))
    return {key.text[1:] for key in lexicon.keys}, {value.text[1:] for value in lexicon.values}


@cache
def facts_of(case: Case, text: str) -> list[tuple[str, ...]]:
    """What a text says: keys and what it says of them."""
    if case.style == "pairs":
        return list(read_pairs(case, text))
    match case.name:
        case "classification":
            return re.findall(r"(\w+) and (\w+) belong to team (\w+)\.", text)
        case "frequency":
            return [("", value) for value in re.findall(r"One more vote for (\w+)\.", text)]
        case _:
            return re.findall(r"The code of (\w+) is (?:that of )?(\w+)\.", text)


def read_pairs(case: Case, text: str) -> Iterator[tuple[str, ...]]:
    """From the end on, where no needle is cut: a value or key, and before it the keys that it is said of."""
    keys, values = words_in(case)
    words = iter([word for word in re.findall(r"\w+", text) if word in keys or word in values][::-1])
    width = 2 if case.name == "classification" else 1
    word = next(words, None)
    while word is not None:
        said_of = list(islice(words, width))
        if case.name == "single_key" and said_of and said_of[0] in values:  # of no key was `word` said
            word = said_of[0]
            continue
        if len(said_of) == width:
            yield *said_of[::-1], word
        word = next(words, None)


def solve(case: Case, text: str, question: str) -> str | None:
    """The answer by reading the text; None where it does not say."""
    keys, values = words_in(case)
    asked = [word for word in re.findall(r"\w+", question.rpartition("Answer:")[2]) if word in keys]
    facts = facts_of(case, text)
    if case.name == "classification":
        votes = Counter(fact[-1] for fact in facts if set(fact[:-1]) & set(asked))
        assert len(votes) <= 1, "a word of two classes"
    elif case.name == "frequency":
        votes = Counter(fact[-1] for fact in facts)
    else:
        (key,), told = asked, dict(facts)
        while key in told:
            key = told[key]
        votes = Counter([key] if key in values - keys else [])
    return votes.most_common(1)[0][0] if votes else None


def answer_of(probe: Probe) -> str:
    return probe.candidates[probe.answer].strip()


def needle_end(context: Context, probe: Probe) -> int:
    """The place of the needle's last token."""
    assert probe.distance is not None
    return len(context.ids) + len(probe.question_ids) - 1 - probe.distance


def contexts(case: Case, length: int, count: int) -> Iterator[Context]:
    return (case.task.context(length, number) for number in range(count))


def test_the_lists_of_words_share_none() -> None:
    sentences = set(re.findall(r"\w+", "".join([*SENTENCES, *SHORT_SENTENCES])))
    asking = frozenset().union(*(words_of(wording_of(style)) for style in STYLES))
    groups = [set(NAMES), set(NOUNS), sentences, asking, {word[1:] for word in HAYSTACK}]
    for one, other in combinations([{word.lower() for word in group} for group in groups[:2]], 2):
        assert not one & other
    for words in (NAMES, NOUNS):
        assert len(set(words)) == len(words)
        assert not {word.lower() for word in words} & {word.lower() for group in groups[2:] for word in group}
        assert not [pair for pair in combinations(sorted(words), 2) if pair[1].startswith(pair[0])]
    assert len(NAMES) >= 120 and len(NOUNS) >= 200 and len(SENTENCES) == 40


@each
def test_contexts_are_of_the_length_asked_for_and_decode_to_their_text(case: Case) -> None:
    shortest = case.task.shortest
    longer = 2 * shortest + 3
    for length in [*range(shortest, shortest + 12), longer]:
        context = case.task.context(length, length)
        assert len(context.ids) + max(len(probe.question_ids) for probe in context.probes) == length
        assert case.tokenizer.decode(list(context.ids)) == context.text
        for probe in context.probes:
            assert case.tokenizer.decode([*context.ids, *probe.question_ids]) == context.text + probe.question
            if length not in (shortest, longer):  # every candidate is a whole text to decode
                continue
            for candidate, token in zip(probe.candidates, probe.candidate_ids, strict=True):
                whole = case.tokenizer.decode([*context.ids, *probe.question_ids, token])
                assert (context.text + probe.question + candidate).startswith(whole)
                assert len(whole) > len(context.text + probe.question)
    with pytest.raises(ValueError, match=f"at least {shortest} tokens"):
        case.task.context(shortest - 1, 0)


@each
def test_the_text_answers_every_question(case: Case) -> None:
    for length in (case.task.shortest, 3 * case.task.shortest + 1):
        for context in contexts(case, length, 3):
            for probe in context.probes:
                assert solve(case, context.text, probe.question) == answer_of(probe)


@each
def test_words_differ_within_a_context_and_first_tokens_within_a_probe(case: Case) -> None:
    for context in contexts(case, 2 * case.task.shortest, 5):
        for probe in context.probes:
            assert len(set(probe.candidate_ids)) == len(set(probe.candidates)) == case.task.n_candidates == 8
            for candidate in probe.candidates:
                assert re.search(rf"\b{candidate.strip()}\b", context.text)
        hands_of = {probe.depth: probe.candidates for probe in context.probes}
        assert len({word for hand in hands_of.values() for word in hand}) == 8 * len(hands_of)
        assert len({probe.question for probe in context.probes}) == len(context.probes)
        if case.name in ("multi_key", "chain", "classification"):
            # Each value answers one question: who always gives the same is right once in eight times.
            for depth in hands_of:
                answers = [probe.answer for probe in context.probes if probe.depth == depth]
                assert sorted(answers) == list(range(8))


@each
def test_needles_stand_in_their_fifth_where_the_distance_says(case: Case) -> None:
    if case.name == "frequency":
        assert case.task.n_depths == 1
        assert all(probe.depth == 0 and probe.distance is None for c in contexts(case, 999, 3) for probe in c.probes)
        return
    assert case.task.n_depths == 5
    keys, _ = words_in(case)
    depths = Counter[int]()
    for length in (case.task.shortest + 1, 2 * case.task.shortest + 4):
        for context in contexts(case, length, 5):
            depths.update({probe.depth for probe in context.probes})
            for probe in context.probes:
                end = needle_end(context, probe)
                start = math.ceil(probe.depth * length / 5)
                assert probe.depth == end * 5 // length
                text = case.tokenizer.decode([*context.ids[max(start, 1) - 1 : end + 1]])
                before, value, dot = text.rpartition(answer_of(probe))
                assert value and dot == ("" if case.style == "pairs" else ".")
                # The key, or a word of the class, stands before it in the same fifth.
                asked = set(re.findall(r"\w+", probe.question)) & keys
                if case.name in ("single_key", "multi_key"):
                    (key,) = asked
                    assert re.search(rf"\b{key}\b", before)
                if case.name == "classification":
                    assert re.findall(r"\w+", before)[-1] in keys or case.style != "pairs"
    # All depths as often, however many a context asks about.
    assert len(depths) == 5 and len(set(depths.values())) == 1


@pytest.mark.parametrize("name", TASKS)
def test_contexts_are_functions_of_seed_length_and_number(name: TaskName) -> None:
    tokenizer = tokenizer_of("bpe")
    one, again, other = (build_task(name, tokenizer, "sentences", seed) for seed in (1, 1, 2))
    length = one.shortest + 50
    later = [one.context(length, number) for number in (3, 0, 1)]
    assert later == [again.context(length, number) for number in (3, 0, 1)]
    different = {other.context(length, 0).ids, again.context(length + 5, 0).ids, *(c.ids for c in later)}
    assert len(different) == 5


PINNED = (
    " yellow the hu is green ni sky go blue the ge fa Fo bu grass nu si the sky Bi so de sun ri bo he lu is green the"
    " mi is pi the sun is yellow the grass ra green the mu is pe the Jo fi lo ko pu is fu the ga is blue the sun is"
    " yellow the fo is be ju ru is Fe ja hi ji gi la jo is po the sky da blue ro sun is yellow the Ga me sa"
)


def test_a_context_is_the_same_in_every_process() -> None:
    context = build_task("single_key", tokenizer_of("small recall"), "pairs", seed=1).context(90, 1)
    assert context.text == PINNED
    found = [(probe.question, answer_of(probe), probe.depth, probe.distance) for probe in context.probes]
    assert found == [
        (" Fo", "bu", 0, 76),
        (" Bi", "so", 1, 69),
        (" Jo", "fi", 2, 42),
        (" Fe", "ja", 3, 20),
        (" Ga", "me", 4, 2),
    ]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", ["recall", "sentencepiece"])
def test_the_opening_token_counts(name: TaskName, kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    task = build_task(name, tokenizer, "pairs", opens=True)
    for length in range(task.shortest, task.shortest + 6):
        context = task.context(length, 0)
        assert context.ids[0] == tokenizer.opening_id
        assert tokenizer.decode(list(context.ids[1:])) == context.text
        assert len(context.ids) + max(len(probe.question_ids) for probe in context.probes) == length
        for probe in context.probes:
            assert solve(Case(name, kind, "pairs"), context.text, probe.question) == answer_of(probe)


@each_plain
def test_nothing_of_a_fifth_is_seen_from_the_next(case: Case) -> None:
    if case.name == "frequency":
        return
    for length in (case.task.shortest + 3, 3 * case.task.shortest):
        for context in contexts(case, length, 3):
            for probe in context.probes:
                edge = math.ceil((probe.depth + 1) * length / 5)
                seen = case.tokenizer.decode(list(context.ids[edge:]))
                assert not {word.strip() for word in probe.candidates} & set(re.findall(r"\w+", seen))


@each_plain
def test_who_sees_a_window_guesses_beyond_it(case: Case) -> None:
    """An oracle that reads the last W tokens, and guesses where they do not say."""
    if case.name == "frequency":
        return
    length = 2 * case.task.shortest
    rng, right, wrong_within, n = Random(0), 0, 0, 0
    for context in contexts(case, length, 200 if case.name == "single_key" else 20):
        for window in (length // 8, length // 3, 2 * length // 3):
            for probe in context.probes:
                read = window - len(probe.question_ids)
                seen = solve(case, case.tokenizer.decode(list(context.ids[-read:])), probe.question)
                assert probe.distance is not None
                if probe.distance >= window:
                    n += 1
                    right += (seen or rng.choice(probe.candidates).strip()) == answer_of(probe)
                elif probe.depth * length >= 5 * (length - window):  # the window holds the whole fifth
                    wrong_within += seen != answer_of(probe)
    assert wrong_within == 0
    assert n > 150
    assert binomtest(right, n, CHANCE).pvalue > 1e-4


@each_plain
def test_who_goes_by_place_guesses(case: Case) -> None:
    """The candidate that stands last, first, or is named first, is the right one as often as any other."""
    n, last, first, named = 0, 0, 0, 0
    for context in contexts(case, case.task.shortest + 60, 15 if len(context_probes(case)) > 1 else 500):
        for probe in context.probes:
            found = [[m.start() for m in re.finditer(rf"{c.strip()}\b", context.text)] for c in probe.candidates]
            n += 1
            last += max(range(8), key=lambda i: found[i][-1]) == probe.answer
            first += min(range(8), key=lambda i: found[i][0]) == probe.answer
            named += probe.answer == 0
    assert binomtest(last, n, CHANCE).pvalue > 1e-4
    assert binomtest(named, n, CHANCE).pvalue > 1e-4
    if case.name != "frequency":  # where what stands often stands first more often
        assert binomtest(first, n, CHANCE).pvalue > 1e-4


def context_probes(case: Case) -> tuple[Probe, ...]:
    return case.task.context(case.task.shortest, 0).probes


@each_plain
def test_needles_stand_anywhere_in_their_fifth(case: Case) -> None:
    if case.name in ("frequency", "chain", "classification"):  # which have places of their own
        return
    length, bins, places = 5 * case.task.shortest, Counter[int](), list[float]()
    writer, pair, (keys, _) = Writer(case.tokenizer), wording_of(case.style).pair, words_in(case)
    for context in contexts(case, length, 600 if case.name == "single_key" else 30):
        for probe in context.probes:
            if probe.depth < 4:  # the last one ends before the question
                key = next(word for word in re.findall(r"\w+", probe.question) if word in keys)
                words = {"key": writer.piece(f" {key}"), "value": writer.piece(f" {answer_of(probe)}")}
                middle = needle_end(context, probe) + 1 - len(writer.fill(pair, **words).ids) / 2
                places.append(middle * 5 / length - probe.depth)
                bins[min(int(4 * places[-1]), 3)] += 1
    # Seen from behind a fifth looks the same; 1/12 is the variance of a uniform number.
    assert abs(sum(places) / len(places) - 0.5) < 4 * (1 / 12 / len(places)) ** 0.5
    assert chisquare([bins[i] for i in range(4)]).pvalue > 1e-4


@pytest.mark.parametrize("style", STYLES)
def test_counts_are_clearly_apart_and_spread_over_the_context(style: Style) -> None:
    task = build_task("frequency", tokenizer_of("bpe"), style)
    assert isinstance(task, FrequencyTask)
    halves = Counter[str]()
    for number in range(60):
        context = task.context(4 * task.shortest, number)
        (probe,) = context.probes
        winner = answer_of(probe)
        counts = sorted(len(re.findall(rf" {c.strip()}\b", context.text)) for c in probe.candidates)
        assert sum(counts) == sum(COUNTS) + 1
        assert len(re.findall(rf" {winner}\b", context.text)) == counts[-1] >= 8 > 5 >= counts[-2]
        for match in re.finditer(rf" {winner}\b", context.text):
            halves["first" if match.start() * 2 < len(context.text) else "second"] += 1
        # As many in each quarter, to one or two.
        quarters = [
            len(re.findall("|".join(rf" {c.strip()}\b" for c in probe.candidates), quarter))
            for quarter in (context.text[i * len(context.text) // 4 :][: len(context.text) // 4] for i in range(4))
        ]
        assert max(quarters) - min(quarters) <= 4
    assert abs(halves["first"] - halves["second"]) < 0.15 * halves.total()


def test_the_statements_of_chains_are_mixed() -> None:
    case, together, n = Case("chain", "bpe", "sentences"), 0, 0
    for context in contexts(case, case.task.shortest, 10):
        facts = facts_of(case, context.text)
        together += sum(one[0] == other[1] for one, other in pairwise(facts))
        n += len(context.probes)
    # Of the 120 pairs of places of a fifth 15 lie side by side.
    assert binomtest(together, n, 15 / 120).pvalue > 1e-4


def test_a_longer_context_has_more_demonstrations_of_each_class() -> None:
    case, before = Case("classification", "bpe", "sentences"), 0
    task = case.task
    for length in (task.shortest, 2 * task.shortest, 4 * task.shortest):
        context = task.context(length, 0)
        classes = Counter(label for *_, label in facts_of(case, context.text))
        assert len(classes) == 40
        shown = min(classes.values())
        assert shown > before
        before = shown
        for probe in context.probes:  # the asked pair stands nowhere
            first, second = re.findall(r"\w+", probe.question)[:1] + re.findall(r"and (\w+)", probe.question)
            assert f"{first} and {second}" not in context.text and f"{second} and {first}" not in context.text


def test_pairs_stand_in_the_haystack_of_the_recall_documents() -> None:
    tokenizer = tokenizer_of("recall")
    context = build_task("multi_key", tokenizer, "pairs").context(300, 0)
    words = [tokenizer.decode([token]) for token in context.ids]
    phases = {(HAYSTACK.index(w) - i) % len(HAYSTACK) for i, w in enumerate(words) if HAYSTACK.count(w) == 1}
    assert len(phases) == 1  # needles overwrite the sentence; it goes on as if they were not there


@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_every_set_of_places_is_as_likely(tokens: int) -> None:
    filler = Haystack([Piece(" x", (0,))])
    needles = (Piece(" a", (1,)), Piece(" b b", (2, 2)))
    seen = Counter[tuple[int, ...]]()
    rng = Random(0)
    for _ in range(2000):
        pieces, (starts,) = weave(filler, rng, 1, [Section(end=1 + tokens + 3, needles=needles)])
        ids = [token for piece in pieces for token in piece.ids]
        assert [ids[start - 1] for start in starts] == [1, 2] and len(ids) == tokens + 3
        seen[starts] += 1
    assert len(seen) == math.comb(tokens + 2, 2)
    assert len(seen) == 1 or chisquare(list(seen.values())).pvalue > 1e-4


@pytest.mark.parametrize("kind", ["byte", "character", "bpe", "sentencepiece"])
def test_sentences_fill_every_length_from_the_slack_on(kind: str) -> None:
    filler = Sentences(Writer(tokenizer_of(kind)))
    assert filler.slack <= 4
    for tokens in range(filler.slack, filler.slack + 150):
        (gap,) = filler.gaps(Random(tokens), 0, (), tokens)
        assert sum(len(piece.ids) for piece in gap) == tokens
    with pytest.raises(ValueError, match="too few"):
        weave(filler, Random(0), 0, [Section(end=3, needles=(Piece(" a b c d", (1, 2, 3, 4)),))])


def test_hands_are_dealt_whenever_they_can_be() -> None:
    rng = Random(0)
    for _ in range(200):
        sizes = [rng.randrange(1, 9) for _ in range(rng.randrange(5, 14))]
        values = [Piece(f" {group} {i}", (group,)) for group, size in enumerate(sizes) for i in range(size)]
        n = hands(values, lambda value: value.ids[0], 5)
        # No more than five of eight can be drawn greedily from the largest groups.
        left, drawn = list(sizes), 0
        while drawn < 5 and sum(size > 0 for size in left) >= 8:
            largest = sorted(range(len(left)), key=lambda group: -left[group])[:8]
            left = [size - (group in largest) for group, size in enumerate(left)]
            drawn += 1
        assert n == drawn
        dealt = deal(rng, values, lambda value: value.ids[0], n)
        assert len(dealt) == n and len({value for hand in dealt for value in hand}) == 8 * n
        assert all(len({value.ids for value in hand}) == len(hand) == 8 for hand in dealt)


class Bytes(VocabularyOfBytes):
    """Without an end of document; forgets capitals if told so."""

    def __init__(self, *, lowers: bool = False) -> None:
        super().__init__([bytes([byte]) for byte in range(256)], {}, None)
        self.lowers = lowers

    def encode_ordinary(self, text: str) -> Ids:
        return ByteTokenizer().encode_ordinary(text.lower() if self.lowers else text)

    def save(self, path: Path) -> None:
        raise NotImplementedError


REFUSED: dict[str, tuple[Any, ...]] = {
    "there is no task 'all'": ("all", ByteTokenizer()),
    "there is no style 'verse'": ("chain", ByteTokenizer(), "verse"),
    "more than this tokenizer can express": ("multi_key", recall_tokenizer(RecallConfig(n_values=7)), "pairs"),
    "needs 16 keys and 8 values": ("chain", recall_tokenizer(RecallConfig(n_keys=15)), "pairs"),
    "needs a key and 8 values": ("frequency", WordTokenizer([" one", " two", " three"]), "pairs"),
    "use the style 'pairs'": ("multi_key", recall_tokenizer(RecallConfig()), "sentences"),
    "loses nothing": ("multi_key", Bytes(lowers=True)),
    "names no end-of-document token": ("multi_key", Bytes(), "pairs", 0, True),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        build_task(*REFUSED[message])
    assert "\n" not in str(error.value)
