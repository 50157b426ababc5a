"""Does every task of RULER ask what it says, within its length, and is it scored and tabulated by the rules?"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.special import zeta

from diptych.core.config import TokenizerConfig
from diptych.core.events import Progressed
from diptych.evaluation.context.suites.needles import NEEDLES
from diptych.evaluation.context.suites.questions import SINGLE, TWO_HOP, read_questions
from diptych.evaluation.context.suites.ruler import TOKENS_TO_GENERATE, Ruler, effective_length
from diptych.evaluation.context.suites.run import Scored, run, tabulate
from diptych.evaluation.context.suites.sample import Cell, Sample, Table
from diptych.evaluation.context.suites.text import COMPOUNDS, WORDS, essay, repeated, sentences
from diptych.evaluation.intervals import wilson
from diptych.tokenizers.simple import ByteTokenizer
from diptych.tokenizers.train import train_tokenizer


def by_bytes(text: str) -> int:
    return len(ByteTokenizer().encode_list(text))


def by_pieces(text: str) -> int:
    return len(re.findall(r"\w{1,4}|\W", text))


@cache
def _bpe():
    text = " ".join(essay().words[:8000])
    return train_tokenizer([text], TokenizerConfig(kind="bpe", vocab_size=600))


def by_bpe(text: str) -> int:
    return len(_bpe().encode_list(text))


COUNTS = {"bytes": by_bytes, "pieces": by_pieces, "bpe": by_bpe}
LENGTHS = (512, 1024, 2048, 4096, 8192)


def keepers(path: Path, hops: int) -> Path:
    """Questions whose documents a parser understands."""
    lines = []
    for i in range(60):
        context = [f"The keeper of hall{i} is person{i}. He has many duties."]
        question, answer = f"Who is the keeper of hall{i}?", f"person{i}"
        if hops == 2:
            context.append(f"It is said that person{i} sleeps in town{i}. Nobody knows why.")
            question, answer = f"Where does the keeper of hall{i} sleep?", f"town{i}"
        lines.append({"question": question, "answers": [answer], "context": context if hops == 2 else context[0]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    return {
        "single": read_questions(keepers(folder / "one.jsonl", 1)),
        "two_hop": read_questions(keepers(folder / "two.jsonl", 2)),
    }


def coded_words(prompt: str) -> Counter[str]:
    return Counter(prompt[prompt.index("coded words. ") + 13 : prompt.index("\nQuestion")].split())


def solve(task: str, prompt: str) -> list[str]:
    """The answers, from the text of a prompt alone."""
    if task.startswith("niah"):
        kind, query = re.findall(
            r"special magic (\w+) for ([^.?]+) mentioned in the provided text (?:is|are)$", prompt
        )[0]
        pairs = re.findall(rf"One of the special magic {kind.removesuffix('s')}s for (\S+) is: (\S+)\.", prompt)
        assert pairs
        return [value for key, value in pairs if key in re.split(r", and |, ", query)]
    if task == "vt":
        text = prompt[prompt.rindex("Memorize and track") :]
        value = re.findall(r"assigned the value (\d+)", text)[-1]
        found = {name for name, number in re.findall(r"VAR (\w+) = (\d+)$", text, re.M) if number == value}
        links = re.findall(r"VAR (\w+) = VAR (\w+) $", text, re.M)
        while new := {to for to, of in links if of in found} - found:
            found |= new
        return sorted(found)
    if task == "cwe":
        text = prompt[prompt.rindex("Below is a numbered list") : prompt.rindex("\nQuestion")]
        ranks = Counter(re.findall(r"\d+\. (\S+)", text)).most_common()
        assert ranks[9][1] > ranks[10][1]
        return [word for word, _ in ranks[:10]]
    if task == "fwe":
        counts = coded_words(prompt)
        del counts["..."]
        ranks = counts.most_common()
        assert ranks[2][1] > (ranks[3][1] if len(ranks) > 3 else 0)
        return [word for word, _ in ranks[:3]]
    hall = re.findall(r"keeper of (\w+)", prompt)[-1]
    person = re.findall(rf"The keeper of {hall} is (\w+)\.", prompt)[0]
    return [person] if task == "qa_1" else re.findall(rf"said that {person} sleeps in (\w+)\.", prompt)


@pytest.mark.parametrize("task", Ruler.tasks)
@pytest.mark.parametrize("length", [2048, 4096, 8192])
def test_a_solver_that_reads_the_prompt_answers_every_sample(task, length, questions):
    suite = Ruler(by_pieces, essay(), **questions)
    for index in range(12):
        sample = suite.sample(task, length, index)
        answers = solve(task, sample.prompt)
        assert sorted(answers) == sorted(sample.answers)
        assert suite.score(sample, " ".join(answers)) == 1
        assert suite.score(sample, "none of them") == 0


# What one more unit of haystack takes at most, in bytes: a word, a line, as many entries as a word has, a document.
UNITS = {
    **{name: {"essay": 60, "noise": 92, "needle": 130}[needles.haystack] for name, needles in NEEDLES.items()},
    "vt": 92,
    "cwe": 90,
    "fwe": 120,
    "qa_1": 700,
    "qa_2": 700,
}

TOO_SHORT = {
    ("bytes", 512): {"niah_single_1", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3", "niah_multivalue"}
    | {"niah_multiquery", "vt", "cwe", "fwe", "qa_2"},
    ("bytes", 1024): {"cwe"},
    ("pieces", 512): {"cwe"},
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", COUNTS)
def test_a_prompt_fills_its_length_and_leaves_room_for_the_answer(name, length):
    count = COUNTS[name]
    suite = Ruler(count, essay())
    refused = set()
    for task in suite.tasks:
        try:
            sample = suite.sample(task, length, 3)
        except ValueError as error:
            assert re.fullmatch(rf"{task} does not fit into {length:,} tokens: .*; ask for a longer length", str(error))
            refused.add(task)
            continue
        assert sample.tokens == count(sample.prompt)
        assert sample.tokens_to_generate == TOKENS_TO_GENERATE[task]
        room = length - sample.tokens - sample.tokens_to_generate
        assert 0 <= room <= UNITS[task], task
    if name != "bpe":
        assert refused == TOO_SHORT.get((name, length), set())
    elif length >= 2048:
        assert not refused


def test_a_sample_is_a_function_of_task_length_seed_and_index():
    one, other = Ruler(by_pieces, essay()), Ruler(by_pieces, essay())
    places = [(task, length, index) for task in Ruler.tasks for length in (2048, 4096) for index in (0, 1)]
    samples = [one.sample(*place) for place in places]
    assert samples == [other.sample(*place) for place in reversed(places)][::-1]
    prompts = [sample.prompt for sample in samples]
    assert len(set(prompts)) == len(prompts)
    reseeded = Ruler(by_pieces, essay(), seed=1)
    assert all(reseeded.sample(*place).prompt != prompt for place, prompt in zip(places, prompts, strict=True))


@pytest.mark.parametrize(
    ("task", "keys", "values", "asked"),
    [
        ("niah_single_1", 1, 1, 1),
        ("niah_single_2", 1, 1, 1),
        ("niah_single_3", 1, 1, 1),
        ("niah_multikey_1", 4, 4, 1),
        ("niah_multivalue", 1, 4, 4),
        ("niah_multiquery", 4, 4, 4),
    ],
)
def test_needles_are_as_many_as_rulers(task, keys, values, asked):
    sample = Ruler(by_pieces, essay()).sample(task, 4096, 0)
    pairs = re.findall(r"One of the special magic \w+ for (\S+) is: (\S+)\.", sample.prompt)
    assert (len({key for key, _ in pairs}), len(pairs), len(sample.answers)) == (keys, values, asked)
    pattern = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}" if task[-1] == "3" else r"\d{7}"
    assert all(re.fullmatch(pattern, value) for _, value in pairs)
    one = asked == 1
    assert sample.prompt.startswith("A special magic" if one else "Some special magic")
    assert sample.prompt.endswith("mentioned in the provided text is" if one else "mentioned in the provided text are")


@pytest.mark.parametrize("task", ["niah_multikey_2", "niah_multikey_3"])
def test_a_haystack_of_needles_has_each_key_once(task):
    prompt = Ruler(by_pieces, essay()).sample(task, 8192, 0).prompt
    keys = re.findall(r"special magic \w+s for (\S+) is:", prompt)
    assert len(keys) == len(set(keys)) == prompt.count("\n") - 1 > 100


@pytest.mark.parametrize("task", ["niah_single_1", "niah_single_2", "niah_multikey_2"])
def test_needles_stand_at_every_depth(task):
    suite = Ruler(by_pieces, essay())
    depths = []
    for index in range(150):
        sample = suite.sample(task, 2048, index)
        straws = re.split(r"(?<=[.?!])\s", sample.prompt.split("\n", 1)[1].rsplit("\n", 1)[0])
        depths += [i / (len(straws) - 1) for i, straw in enumerate(straws) if f"is: {sample.answers[0]}." in straw]
    counts, _ = np.histogram(depths, bins=5, range=(0, 1))
    assert counts.sum() == 150
    assert counts.min() >= 11  # 30 expected, with a standard deviation of 4.9


@pytest.mark.parametrize(("length", "often", "seldom", "shown"), [(2048, 6, 1, (3, 1)), (8192, 30, 3, (10, 3))])
def test_common_words_are_scaled_down_below_4096_tokens(length, often, seldom, shown):
    sample = Ruler(by_pieces, essay()).sample("cwe", length, 0)
    example, asked = (
        Counter(re.findall(r"\d+\. (\S+)", part.split("\nQuestion")[0]))
        for part in sample.prompt.split("Below is a numbered list")[1:]
    )
    assert {asked[word] for word in sample.answers} == {often}
    assert set(asked.values()) == {often, seldom}
    assert sorted(set(example.values())) == sorted(set(shown))
    assert len(example) == (20 if length < 4096 else 40)


def test_a_list_longer_than_the_words_takes_compounds():
    sample = Ruler(by_pieces, essay()).sample("cwe", 65536, 0)
    words = set(re.findall(r"\d+\. (\S+)", sample.prompt[sample.prompt.rindex("Below is") :].split("\nQuestion")[0]))
    assert len(WORDS) < len(words)
    assert words <= set(COMPOUNDS)
    assert set(solve("cwe", sample.prompt)) == set(sample.answers)


def test_coded_words_follow_the_zeta_distribution():
    sample = Ruler(by_pieces, essay()).sample("fwe", 8192, 0)
    counts = coded_words(sample.prompt)
    ranked = [n for _, n in counts.most_common()]
    assert counts["..."] == ranked[0]
    assert all(re.fullmatch(r"[a-z]{6}", word) for word in counts if word != "...")
    k = np.arange(1, (8192 - 50) // 50 + 1)
    expected = {n: (n * k**-2.0 / zeta(2.0)).astype(int) for n in range(ranked[0], 3 * ranked[0])}
    assert any([*ranked] == [int(x) for x in counted if x] for counted in expected.values())


def test_the_third_coded_word_is_never_as_frequent_as_the_fourth():
    suite = Ruler(by_pieces, essay())
    samples = [suite.sample("fwe", length, 0) for length in range(330, 520, 10)]
    assert all(sorted(solve("fwe", sample.prompt)) == sorted(sample.answers) for sample in samples)
    assert {1, 2} <= {coded_words(sample.prompt)[sample.answers[2]] for sample in samples}  # on both sides of the tie


def test_a_chain_has_four_hops_and_an_example_of_at_most_500_tokens():
    prompt = Ruler(by_pieces, essay()).sample("vt", 8192, 0).prompt
    example, asked = (f"Memorize{part}" for part in prompt.split("Memorize")[1:])
    assert [len(re.findall(r"VAR \w+ = VAR", part)) for part in (example, asked)] == [4, 4]
    assert 400 < by_pieces(example.split("they are: ")[0]) <= 500
    shown = example.split("they are: ")[1].split()
    assert sorted(shown) == solve("vt", example.split("they are: ")[0])
    assert {len(name) for name in shown} == {3}


def test_bundled_questions_are_answered_by_their_documents_alone():
    documents = {document for question in SINGLE for document in question.documents}
    assert len(documents) == len(SINGLE) == 40
    assert len(TWO_HOP) == 20
    for question in (*SINGLE, *TWO_HOP):
        for answer in question.answers:
            assert any(answer in document for document in question.documents)
            assert not any(answer.lower() in document.lower() for document in documents - set(question.documents))
            assert answer.lower() not in question.question.lower()
    reference = " ".join(essay().words)
    assert not any(question.documents[0] in reference for question in SINGLE)


@pytest.mark.parametrize("task", ["qa_1", "qa_2"])
def test_the_documents_of_a_question_stand_once_among_others(task):
    suite = Ruler(by_pieces, essay())
    asked = {question.question: question for question in (*SINGLE, *TWO_HOP)}
    for length in (512, 2048, 8192):
        for index in range(20):
            sample = suite.sample(task, length, index)
            question = asked[sample.question]
            assert sample.answers == question.answers
            assert sample.prompt.endswith(f"Question: {sample.question} Answer:")
            assert all(sample.prompt.count(document) == 1 for document in question.documents)
            numbers = re.findall(r"^Document (\d+):$", sample.prompt, re.M)
            assert numbers == [str(i) for i in range(1, len(numbers) + 1)]
    assert len({suite.sample(task, 2048, index).question for index in range(20)}) == 20


def test_questions_too_long_for_a_length_are_passed_over(tmp_path):
    path = tmp_path / "questions.jsonl"
    long = {"question": "Who?", "answers": "nobody", "context": "word " * 5000}
    short = {"question": "What?", "answers": ["this", "that"], "context": ["This or that.", "Such."]}
    path.write_text("".join(json.dumps(line) + "\n" for line in (long, short, long)))
    suite = Ruler(by_pieces, essay(), single=read_questions(path))
    assert {suite.sample("qa_1", 1024, index).question for index in range(6)} == {"What?"}
    assert {suite.sample("qa_1", 32768, index).question for index in range(6)} == {"Who?", "What?"}


def test_questions_that_all_are_too_long_are_refused(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"question": "Who?", "answers": "nobody", "context": "word " * 5000}))
    with pytest.raises(ValueError, match="qa_1 does not fit into 1,024 tokens"):
        Ruler(by_pieces, essay(), single=read_questions(path)).sample("qa_1", 1024, 0)


@pytest.mark.parametrize(
    "line",
    ['{"question": "Who?", "answers": []}', '{"question": ["a", "b"], "answers": "c", "context": "d"}', "[]", "{"],
)
def test_lines_that_are_no_questions_are_refused(tmp_path, line):
    path = tmp_path / "questions.jsonl"
    path.write_text(f'{{"question": "Who?", "answers": "she", "context": "It was she."}}\n{line}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_questions(path)


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="RULER has no task niah; choose from niah_single_1"):
        Ruler(by_pieces, essay()).sample("niah", 4096, 0)


def test_the_readers_own_text_is_the_essay(tmp_path):
    (tmp_path / "a.txt").write_text("Lorem ipsum dolor.  Sit\namet! " * 5)
    own = essay([str(tmp_path)])
    assert own.words == ("Lorem", "ipsum", "dolor.", "Sit", "amet!") * 5
    assert own.sentences == ("Lorem ipsum dolor.", "Sit amet!") * 5
    prompt = Ruler(by_pieces, own).sample("niah_single_2", 2048, 0).prompt
    assert prompt.count("Lorem") > 20
    assert "Python" not in prompt
    assert own.name != essay().name


def test_sources_without_text_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(ValueError, match="there is no text in"):
        essay([str(tmp_path)])


def test_repeated_goes_round():
    assert repeated("abc", 7, 2) == list("cabcabc")
    assert repeated("abc", 2, 4) == list("bc")
    assert repeated("abc", 0, 1) == []
    assert sentences("One. Two? 3.5 is a number! e.g. this") == ["One.", "Two?", "3.5 is a number!", "e.g.", "this"]


def _sample(kind, *answers) -> Sample:
    return Sample(
        task="qa_1" if kind == "any" else "cwe",
        length=1,
        index=0,
        prompt="",
        tokens=0,
        question="",
        answers=answers,
        kind=kind,
        tokens_to_generate=1,
    )


@pytest.mark.parametrize(
    ("kind", "answers", "generated", "score"),
    [
        ("all", ("123", "456"), " 456 and 789.", 0.5),
        ("all", ("123", "456"), "1234567", 1.0),  # RULER looks for substrings
        ("all", ("Apple", "pear", "plum", "fig"), "APPLE, Pear\nplums", 0.75),
        ("all", ("x",), "", 0.0),
        ("any", ("Vellin", "the museum of Vellin"), "In vellin.", 1.0),
        ("any", ("1764", "in 1764"), "1763", 0.0),
    ],
)
def test_scores_of_hand_cases(kind, answers, generated, score):
    assert Ruler(by_pieces, essay()).score(_sample(kind, *answers), generated) == score


def _table(means: dict[int, float], tasks=Ruler.tasks) -> Table:
    cells = tuple(Cell(task="all", length=at, n=1, mean=mean, low=0.0, high=1.0) for at, mean in means.items())
    return Table(suite="RULER", tasks=tasks, lengths=tuple(means), cells=(), means=cells, tokens=0)


def test_the_effective_length_is_rulers():
    assert effective_length(_table({4096: 0.955, 8192: 0.938, 16384: 0.916, 32768: 0.874, 65536: 0.847})) == 32768
    assert effective_length(_table({4096: 0.84, 8192: 0.856})) == 8192
    assert effective_length(_table({4096: 0.8559})) is None
    verdict = Ruler(by_pieces, essay()).verdict
    assert "32,768 tokens (" in verdict(_table({32768: 0.9, 65536: 0.8}))[0]
    assert "32,768 tokens or more" in verdict(_table({4096: 0.9, 32768: 0.9}))[0]
    assert "below 4,096" in verdict(_table({4096: 0.5}))[0]
    assert "no effective length" in verdict(_table({4096: 1.0}, ("vt", "cwe")))[0]


SOLVABLE = tuple(task for task in Ruler.tasks if not task.startswith("qa"))


class Solver:
    """Answers right, or nothing where the last digit of the prompt's checksum is below `wrong`."""

    def __init__(self, wrong: int = 0) -> None:
        self.calls: list[tuple[str, int]] = []
        self.wrong = wrong

    def __call__(self, prompt: str, max_new_tokens: int) -> str:
        self.calls.append((prompt, max_new_tokens))
        task = next(
            name
            for name, start in {
                "niah": "special magic",
                "vt": "Memorize and track",
                "cwe": "numbered",
                "fwe": "coded",
            }.items()
            if start in prompt
        )
        return "" if sum(prompt.encode()) % 10 < self.wrong else " ".join(solve(task, prompt))


def _run(out: Path, solver, suite=None, **kwargs) -> Table:
    kwargs = {"tasks": SOLVABLE, "lengths": (2048, 1024), "samples": 2, "settings": {"model": "m"}} | kwargs
    return run(suite or Ruler(by_pieces, essay()), solver, out, **kwargs)


def test_a_run_keeps_each_score_and_tabulates_them(tmp_path):
    events, solver = [], Solver(wrong=5)
    suite, out = Ruler(by_pieces, essay()), tmp_path / "a" / "ruler.jsonl"
    table = _run(out, solver, suite, on_event=events.append)
    assert table.lengths == (1024, 2048)
    assert len(solver.calls) == len(SOLVABLE) * 2 * 2
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines[0]["kind"] == "settings"
    assert lines[0]["model"] == "m"
    assert len(lines) == 1 + len(solver.calls)
    for cell in table.cells:
        scores = [line["score"] for line in lines[1:] if (line["task"], line["length"]) == (cell.task, cell.length)]
        assert (cell.n, cell.mean) == (2, sum(scores) / 2)
        assert (cell.low, cell.high) == wilson(round(sum(scores)), 2)
    assert 0 < table.means[0].mean < 1
    read = sum(by_pieces(prompt) for prompt, _ in solver.calls)
    assert table.tokens == read + sum(by_pieces(line["generated"]) for line in lines[1:])
    assert events[-1] == Progressed(what="RULER at 2,048 tokens", done=22, total=22, unit="samples")
    assert len(events) == len(solver.calls)


@pytest.mark.parametrize("ending", ["", '{"task": "vt", "len', '{"task": "vt"}\n', "\n"])
def test_a_run_that_was_cut_off_goes_on_and_says_the_same(tmp_path, ending):
    whole = _run(tmp_path / "whole", Solver(wrong=5))
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    (tmp_path / "part").write_text("".join(lines[:21]) + ending)
    solver = Solver(wrong=5)
    assert _run(tmp_path / "part", solver) == whole
    assert len(solver.calls) == len(lines) - 21
    again = Solver()
    assert _run(tmp_path / "part", again) == whole
    assert not again.calls
    more = Solver()
    assert _run(tmp_path / "part", more, samples=3).cells[0].n == 3
    assert len(more.calls) == len(SOLVABLE) * 2


def test_scores_of_other_settings_are_refused(tmp_path):
    _run(tmp_path / "a", Solver(), tasks=["vt"], samples=1)
    with pytest.raises(ValueError, match="other settings"):
        _run(tmp_path / "a", Solver(), tasks=["vt"], samples=1, settings={"model": "n"})
    with pytest.raises(ValueError, match="other settings"):
        _run(tmp_path / "a", Solver(), Ruler(by_pieces, essay(), seed=1), tasks=["vt"])
    with pytest.raises(ValueError, match="is a folder"):
        _run(tmp_path, Solver())


def test_a_damaged_line_in_the_middle_is_refused(tmp_path):
    _run(tmp_path / "a", Solver(), tasks=["vt"], samples=2)
    lines = (tmp_path / "a").read_text().splitlines(keepends=True)
    (tmp_path / "a").write_text("".join([*lines[:2], lines[2][:30] + "\n", *lines[3:]]))
    with pytest.raises(ValueError, match="damaged in line 3"):
        _run(tmp_path / "a", Solver(), tasks=["vt"], samples=2)


def test_what_cannot_be_asked_is_refused_before_anything_is(tmp_path):
    solver = Solver()
    with pytest.raises(ValueError, match="cwe does not fit into 512 tokens"):
        _run(tmp_path / "a", solver, lengths=(512, 4096))
    with pytest.raises(ValueError, match="nothing to ask"):
        _run(tmp_path / "a", solver, samples=0)
    with pytest.raises(ValueError, match="has no task"):
        _run(tmp_path / "a", solver, tasks=["vt", "qa_3"])
    assert not solver.calls
    assert not (tmp_path / "a").exists()


def _scored(task: str, index: int, score: float) -> Scored:
    return Scored(
        task=task, length=1, index=index, question="", answers=("",), generated="", score=score, tokens=1, seconds=0.0
    )


def test_intervals_cover_the_means_they_are_of():
    """Scores of 13 tasks of different difficulty, some of them shares of four answers."""
    rng = random.Random(0)
    p = {f"t{i}": (i + 0.5) / 13 for i in range(13)}
    truth, inside, inside_mean, repetitions = sum(p.values()) / 13, 0, 0, 400
    for _ in range(repetitions):
        scored = []
        for i, (task, share) in enumerate(p.items()):
            for index in range(20):
                hits = sum(rng.random() < share for _ in range(4)) / 4 if i % 2 else float(rng.random() < share)
                scored.append(_scored(task, index, hits))
        table = tabulate("x", scored, tuple(p), (1,))
        inside += sum(cell.low <= p[cell.task] <= cell.high for cell in table.cells)
        inside_mean += table.means[0].low <= truth <= table.means[0].high
    assert inside / (13 * repetitions) > 0.95
    assert inside_mean / repetitions > 0.95


def test_the_mean_of_equal_tasks_is_surer_by_the_root_of_their_number():
    scored = [_scored(task, index, float(index < 7)) for task in "abcd" for index in range(10)]
    table = tabulate("x", scored, tuple("abcd"), (1, 2))
    low, high = wilson(7, 10)
    assert table.means == (
        Cell(
            task="all",
            length=1,
            n=40,
            mean=0.7,
            low=pytest.approx(0.7 - (0.7 - low) / math.sqrt(4)),
            high=pytest.approx(0.7 + (high - 0.7) / math.sqrt(4)),
        ),
    )
    assert not tabulate("x", scored[:-10], tuple("abcd"), (1,)).means


def test_the_interval_of_shares_spans_those_of_the_counts_around_them():
    (cell,) = tabulate("x", [_scored("a", i, score) for i, score in enumerate((0.5, 1.0, 1.0))], ("a",), (1,)).cells
    assert (cell.low, cell.high) == (wilson(2, 3)[0], wilson(3, 3)[1])
    assert cell.mean == pytest.approx(2.5 / 3)
