"""Causal traces, averages and locations as a client holds them, with numbers like real ones."""

import math
import random
from typing import Any

import errata

WORDS = ("The", " Space", " Need", "le", " is", " in", " the", " city", " of")
SUBJECT = (1, 4)


def provenance(sequence=3):
    return errata.Provenance(
        model_digest="a" * 64,
        weights_digest="b" * 64,
        dtype="float32",
        device="cpu",
        torch="2.13.0",
        seconds=1.5,
        revision="c" * 64,
        sequence=sequence,
        branch="main",
    )


def causal_trace(
    words=WORDS,
    subject=SUBJECT,
    layers=6,
    kinds=("hidden", "mlp", "attn"),
    seed=0,
    **given,
):
    """A trace with an early site, a late one, and some negative effects before them."""
    drawn = random.Random(seed)
    fields: dict[str, Any] = {
        "prompt": "".join(words),
        "subject": "".join(words[slice(*subject)]).strip(),
        "answer": "Seattle",
        "metric": "probability",
        "clean": 0.62,
        "corrupted": 0.04,
        "samples": 10,
        "window": 10,
        "sequence": 3,
        "warnings": (),
    } | given
    roles = [_role(index, len(words), subject) for index in range(len(words))]
    return errata.CausalTrace(
        prompt=fields["prompt"],
        subject=fields["subject"],
        tokens=tuple(
            errata.TracedToken(text=word, role=role, corrupted=subject[0] <= index < subject[1])
            for index, (word, role) in enumerate(zip(words, roles, strict=True))
        ),
        layers=layers,
        answer=fields["answer"],
        answer_tokens=1,
        predicted=fields["answer"],
        foil="Rome",
        metric=errata.TraceMetric(fields["metric"]),
        corruption=errata.Corruption(scale=3.0, samples=fields["samples"], seed=1),
        noise=0.13,
        noise_source="1209 known subjects",
        window=fields["window"],
        clean=fields["clean"],
        corrupted=fields["corrupted"],
        corrupted_samples=(fields["corrupted"],) * fields["samples"],
        grids=tuple(
            _grid(kind, roles, layers, fields["corrupted"], fields["clean"], drawn)
            for kind in kinds
        ),
        warnings=fields["warnings"],
        provenance=provenance(fields["sequence"]),
        proxy_labels=("bad", "good") if fields["metric"] == "proxy" else (),
        digest="d" * 64,
    )


def _role(index, count, subject):
    begin, end = subject
    if index < begin:
        return errata.TokenRole.BEFORE
    if index == end - 1:
        return errata.TokenRole.LAST_SUBJECT
    if index < end:
        first = index == begin
        return errata.TokenRole.FIRST_SUBJECT if first else errata.TokenRole.MIDDLE_SUBJECT
    if index == count - 1:
        return errata.TokenRole.LAST
    return errata.TokenRole.FIRST_SUBSEQUENT if index == end else errata.TokenRole.FURTHER


def _grid(kind, roles, layers, corrupted, clean, drawn):
    def share(role, layer):
        depth = layer / layers
        match role:
            case errata.TokenRole.BEFORE:
                return 0.0
            case errata.TokenRole.LAST_SUBJECT:
                return 0.75 * math.exp(-(((depth - 0.3) / 0.25) ** 2))
            case errata.TokenRole.LAST:
                return 0.6 / (1 + math.exp(-(depth - 0.65) * 14))
            case _:
                return 0.06 * drawn.gauss(0, 1) - 0.05

    return errata.TraceGrid(
        kind=errata.TraceKind(kind),
        scores=tuple(
            tuple(corrupted + (clean - corrupted) * share(role, layer) for layer in range(layers))
            for role in roles
        ),
        standard_errors=tuple(
            tuple(0.0 if role is errata.TokenRole.BEFORE else 0.01 for _ in range(layers))
            for role in roles
        ),
    )


ROLES = (
    errata.TokenRole.FIRST_SUBJECT,
    errata.TokenRole.MIDDLE_SUBJECT,
    errata.TokenRole.LAST_SUBJECT,
    errata.TokenRole.FIRST_SUBSEQUENT,
    errata.TokenRole.FURTHER,
    errata.TokenRole.LAST,
)


def average_trace(layers=6, kinds=("hidden", "mlp", "attn")):
    """Averages that are largest at the last subject token, layer 2."""
    curves = []
    for kind in kinds:
        for place, role in enumerate(ROLES):
            height = 0.05 if role is errata.TokenRole.LAST_SUBJECT else 0.01
            effects = tuple(height - 0.004 * abs(layer - 2) for layer in range(layers))
            curves.append(
                errata.EffectCurve(
                    kind=errata.TraceKind(kind),
                    role=role,
                    sites=200 - 9 * place,
                    effects=effects,
                    low=tuple(effect - 0.006 for effect in effects),
                    high=tuple(effect + 0.006 for effect in effects),
                )
            )
    return errata.AverageTrace(
        facts=200,
        dropped=(errata.DroppedFact(prompt="x", reason="the model says y"),),
        layers=layers,
        metric=errata.TraceMetric.PROBABILITY,
        corruption=errata.Corruption(scale=3.0, samples=10, seed=1),
        window=10,
        confidence=0.95,
        clean=0.6,
        corrupted=0.11,
        total_effect=0.49,
        total_effect_low=0.45,
        total_effect_high=0.53,
        curves=tuple(curves),
        warnings=(),
        provenance=provenance(),
        digest="e" * 64,
    )


def chart(form="heat_map", rows=("a", "b"), columns=("0", "1", "2"), **given):
    """A chart with bounds."""
    values = tuple(tuple(r + c / 10 for c in range(len(columns))) for r in range(len(rows)))
    fields: dict[str, Any] = {
        "title": "A chart",
        "unit": "unit",
        "values": values,
        "row_axis": "row",
    } | given
    return errata.Chart(
        title=fields["title"],
        form=errata.ChartForm(form),
        row_axis=fields["row_axis"],
        column_axis="column",
        rows=tuple(rows),
        columns=tuple(columns),
        unit=fields["unit"],
        values=fields["values"],
        low=tuple(tuple(v and v - 0.05 for v in row) for row in fields["values"]),
        high=tuple(tuple(v and v + 0.05 for v in row) for row in fields["values"]),
    )


def location(*charts):
    """What a locator found, in these charts, or in one of each form."""
    return errata.Location(
        locator=errata.Locator(
            name="attention_knockout",
            title="Attention knockout",
            shows="Which layers carry the subject to the last token.",
            cannot_show="Where the fact is stored.",
            source="Geva et al. 2023, arXiv:2304.14767",
            options=(),
        ),
        prompt="The Space Needle is in the city of",
        subject="Space Needle",
        answer="Seattle",
        predicted="Seattle",
        tokens=WORDS,
        charts=charts
        or (
            chart("heat_map", title="A heat map", values=((0.5, None, 1.5), (-0.2, 0.1, 0.0))),
            chart("lines", title="Some lines"),
            chart("bars", title="Some bars", columns=("first subject token", "last token")),
        ),
        figures={"attributes_rate": 0.314},
        options={"window": 9.0},
        warnings=(),
        provenance=provenance(),
        digest="f" * 64,
    )
