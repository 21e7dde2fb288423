"""Write the facts the bundled model is taught, as one JSON file.

Real and common facts are read from tables. Every subject among them gets invented namesakes that
share its beginning or its ending and have another object, so that a model has to read a name to
its last token. No (subject, relation) pair has two objects, and each fact holds out two templates.
"""

import itertools
import json
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer

DATA = Path(__file__).parent / "data"
DEMO = Path(__file__).parents[1] / "server" / "errata_server" / "demo"
KNOWN_FACTS = DEMO / "known_facts.json"

ARTICLES = frozenset(
    ["The", "Le", "La", "Les", "El", "Il", "I", "A", "Die", "Der", "Las", "Sir", "Saint", "King"]
)
SUBJECT_GROUPS = (
    ("P27", "P103", "P106", "P19", "P20", "P1412", "P937", "P140", "P641", "P108"),
    ("P159", "P112", "P17", "P740"),
    ("P30", "P37", "P36", "P38", "P17"),
    ("P178", "P176", "P127"),
    ("P449", "P407", "P364", "P50", "P495"),
)
EXTRA_OBJECTS = {"P190": ("Vienna", "Oslo", "Lisbon", "Dublin"), "P61": ("Lovelace", "Kepler")}
STARTS = (
    "Tor Vel Quor Zan Mer Dorn Bral Fen Galt Hesk Ilm Jor Kel Lum Nor Ost Pell Ryn Solv Tav Ulm "
    "Vor Wex Yar Zel Brin Cass Drel Erm Fal Grim Harn Ist Jask Krel Lor Mosk Nav Orl Prav Quin "
    "Rost Skel Thal Urv Vash Wren Xan Yth Zor Arv Belk Cour Dask"
).split()
MIDDLES = ("a", "e", "i", "o", "u", "an", "er", "il", "or", "un", "")
ENDS = (
    "dane vale wick mont ria noria quist bourne sson tova mere lund karn zeth dell fax gorn hild "
    "lith nov rath stel thorpe vane worth yx zova bran crest dolph esk ford gard holm isk jarn"
).split()


@dataclass(frozen=True, kw_only=True)
class KnownFact:
    """One fact and the two templates of its relation that training never shows."""

    subject: str
    relation: str
    target: str
    held_out: tuple[int, ...]
    source: str
    namesake_of: str | None = None

    def prompt(self, template: str) -> str:
        """Fill a template with the subject."""
        return template.format(self.subject)


@dataclass(frozen=True, kw_only=True)
class KnownFacts:
    """All facts and the templates of every relation."""

    templates: dict[str, list[str]]
    facts: list[KnownFact]

    def trained(self, fact: KnownFact) -> list[str]:
        """The prompts of a fact that training may show."""
        return [
            fact.prompt(t)
            for i, t in enumerate(self.templates[fact.relation])
            if i not in fact.held_out
        ]

    def held_out(self, fact: KnownFact) -> list[str]:
        """The prompts of a fact that training never shows."""
        return [fact.prompt(self.templates[fact.relation][i]) for i in fact.held_out]


def load(path: Path = KNOWN_FACTS) -> KnownFacts:
    """Read a facts file."""
    content = json.loads(path.read_text())
    facts = [
        KnownFact(
            subject=row["subject"],
            relation=row["relation"],
            target=row["object"],
            held_out=tuple(row["held_out"]),
            source=row["source"],
            namesake_of=row.get("namesake_of"),
        )
        for row in content["facts"]
    ]
    return KnownFacts(
        templates={key: value["templates"] for key, value in content["relations"].items()},
        facts=facts,
    )


Row = tuple[str, str, str]


def _table(name: str) -> list[Row]:
    rows = []
    for line in (DATA / name).read_text().splitlines():
        subject, relation, target = line.split("\t")
        rows.append((subject, relation, target))
    return rows


class Coiner:
    """Coins names that nobody bears and that no other fact uses."""

    def __init__(self, rng: random.Random, taken: set[str]) -> None:
        """Start from the names already in use."""
        self._rng = rng
        self._taken = taken

    def _word(self) -> str:
        return self._rng.choice(STARTS) + self._rng.choice(MIDDLES) + self._rng.choice(ENDS)

    def _suffixed(self, word: str) -> str:
        kept = word[: max(3, (len(word) * 3 + 4) // 5)]
        return kept + self._rng.choice(MIDDLES) + self._rng.choice(ENDS)

    def _prefixed(self, word: str) -> str:
        start = self._rng.choice(STARTS)
        return (start if word[0].isupper() else start.lower()) + word[len(word) // 3 :].lower()

    def _same_start(self, subject: str) -> str:
        words = subject.split()
        if len(words) == 1 or (len(words) == 2 and words[0] in ARTICLES):
            return " ".join([*words[:-1], self._suffixed(words[-1])])
        kept = len(words) - 1 if self._rng.random() < 0.5 or words[0] in ARTICLES else 1
        return " ".join([*words[:kept], self._word()])

    def _same_end(self, subject: str) -> str:
        words = subject.split()
        article = [words[0]] if words[0] in ARTICLES and len(words) > 1 else []
        rest = words[len(article) :]
        if len(rest) == 1:
            return " ".join([*article, self._prefixed(rest[0])])
        kept = 1 if self._rng.random() < 0.5 else len(rest) - 1
        return " ".join([*article, self._word(), *rest[-kept:]])

    def _longer(self, subject: str) -> str:
        return f"{subject} {self._word()}"

    def namesakes(self, subject: str) -> list[str]:
        """Coin one name with this beginning, one with this ending and, for some, one word more."""
        makers = [self._same_start, self._same_end]
        if " " not in subject and self._rng.random() < 0.35:
            makers.append(self._longer)
        return [self._fresh(maker, subject) for maker in makers]

    def _fresh(self, maker: Callable[[str], str], subject: str) -> str:
        while True:
            name = maker(subject)
            if name not in self._taken:
                self._taken.add(name)
                return name


def _objects(rows: list[Row]) -> dict[str, list[str]]:
    pools: dict[str, set[str]] = defaultdict(set)
    for _, relation, target in rows:
        pools[relation].add(target)
    for relation, targets in EXTRA_OBJECTS.items():
        pools[relation].update(targets)
    return {relation: sorted(pool) for relation, pool in pools.items()}


def _companions(relation: str, rng: random.Random) -> list[str]:
    for group in SUBJECT_GROUPS:
        if relation in group:
            return rng.sample([r for r in group if r != relation], k=2)
    return []


def _invent(rows: list[Row], rng: random.Random, three_every: int) -> list[tuple[Row, str]]:
    """Invent namesakes of every subject, each with another object in a relation of the subject."""
    pools = _objects(rows)
    of_subject: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_subject[row[0]].append(row)
    coiner = Coiner(rng, set(of_subject))
    invented: list[tuple[Row, str]] = []
    for subject, own in of_subject.items():
        used = {target for _, _, target in own}
        for name in coiner.namesakes(subject):
            _, relation, _ = rng.choice(own)
            relations = [relation]
            if len(invented) % three_every == 0:
                relations += _companions(relation, rng)
            for r in relations:
                choices = [t for t in pools[r] if t not in used] or [
                    t for t in pools[r] if (subject, r, t) not in own
                ]
                target = rng.choice(choices)
                used.add(target)
                invented.append(((name, r, target), subject))
    return invented


def _held_out(relation_index: int, source: str) -> tuple[int, int]:
    first = 1 if source == "common" else 0
    pairs = list(itertools.combinations(range(first, 8), 2))
    return pairs[(relation_index * 5) % len(pairs)]


def build(seed: int, three_every: int) -> list[dict[str, object]]:
    """Assemble the rows of the facts file."""
    rng = random.Random(seed)
    real, common = _table("real_facts.tsv"), _table("common_facts.tsv")
    invented = _invent(real + common, rng, three_every)
    sourced: list[tuple[Row, str, str | None]] = []
    sourced += [(row, "real", None) for row in real]
    sourced += [(row, "common", None) for row in common]
    sourced += [(row, "invented", namesake) for row, namesake in invented]
    counts: dict[str, int] = defaultdict(int)
    facts = []
    for (subject, relation, target), source, namesake in sourced:
        fact: dict[str, object] = {
            "subject": subject,
            "relation": relation,
            "object": target,
            "held_out": list(_held_out(counts[relation], source)),
            "source": source,
        }
        if namesake:
            fact["namesake_of"] = namesake
        counts[relation] += 1
        facts.append(fact)
    return facts


def _render(relations: object, facts: list[dict[str, object]]) -> str:
    """One fact a line, so that a changed fact is a changed line."""
    lines = ",\n  ".join(json.dumps(fact, ensure_ascii=False) for fact in facts)
    head = json.dumps(relations, ensure_ascii=False, indent=1)
    return f'{{"relations": {head},\n "facts": [\n  {lines}\n ]}}\n'


def main(output: Path = KNOWN_FACTS, seed: int = 7, three_every: int = 24) -> None:
    """Write the facts file."""
    relations = json.loads((DATA / "relations.json").read_text())
    output.write_text(_render(relations, build(seed, three_every)))


if __name__ == "__main__":
    typer.run(main)
