"""What users may rely on: names, and that both clients offer the same."""

import inspect
import pickle
from pathlib import Path

import pytest

import errata
from errata import (
    _averages,
    _charts,
    _checkpoints,
    _locations,
    _proxies,
    _trace_types,
    _traces,
    _types,
)

PUBLIC = """
AlreadyAppliedError AlreadyTrueError Answer Approval ApprovalRequiredError AsyncClient
AsyncGeneration AsyncOperation AuditResult AverageTrace Belief Branch BranchExistsError
BranchNotFoundError CancelledError CausalTrace Change Chart ChartForm Check CheckPrompt
CheckedEdit CheckpointComparison Client Composition Corruption Crawl CrawlChange CrawledRelation
DeadlineError Diff DigestMismatchError DivergedError DroppedFact Edit EditNotFoundError
EditProposal EditState EffectCurve ErrataError Fact FailedProposal Finding Generation
InclusionProof InternalError InvalidFactError InvalidInputError InvalidPatchError
InvalidSignatureError LabelledText LayerHealth Lease LeaseHeldError LeaseLostError
LedgerCheckpoint LedgerCorruptError LedgerUnavailableError LiveVerification Location Locator
LocatorNotFoundError LocatorOption LogEntry MissingExtraError Model ModelHealth ModelMismatchError
ModelNotFoundError NearSubjects NoEffectError NotAppliedError NotCalibratedError NotFoundError
NoteSignature Operation OperationInterruptedError OperationNotFoundError OverloadedError
PatchSummary Peak PreconditionError Profile Progress PromptScore PromptTooLongError ProofError
Proposal ProposedBatch ProposedEdit Provenance Proxy ProxyNotFoundError PublicKey QuarantinedError
ReadOnlyReplicaError Report ReportNotFoundError RequestIdReusedError Revision RevisionKind
RevisionNotFoundError SchemaMismatchError Score Served SignatureRequiredError SigningKey
StaleRevisionError Standing SubjectNotFoundError Suite SuiteNotFoundError TokenRole
TraceDifference TraceGrid TraceKind TraceMetric TracedFact TracedToken UnavailableError
UnsupportedModelError UntrustedKeyError Verdict VerificationFailedError __version__
""".split()  # noqa: SIM905 - names read better without quotes


def methods(kind):
    return {
        name: member
        for name, member in inspect.getmembers(kind)
        if not name.startswith("_") and callable(member)
    }


def parameters(method):
    return list(inspect.signature(method).parameters.values())


def test_the_public_names_are_these():
    assert errata.__all__ == PUBLIC


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_a_public_name_says_it_is_of_errata(name):
    assert vars(errata)[name].__module__ == "errata"


def test_the_package_is_typed():
    assert Path(inspect.getfile(errata)).with_name("py.typed").exists()


@pytest.mark.parametrize(
    ("sync_kind", "async_kind"),
    [
        (errata.Client, errata.AsyncClient),
        (errata.Operation, errata.AsyncOperation),
        (errata.Generation, errata.AsyncGeneration),
    ],
)
def test_the_asynchronous_twin_has_the_same_methods_and_parameters(sync_kind, async_kind):
    ours, theirs = methods(sync_kind), methods(async_kind)

    assert set(ours) == set(theirs)
    for name in ours:
        assert parameters(ours[name]) == parameters(theirs[name]), name


def test_every_public_method_says_what_it_does():
    undocumented = [
        name
        for kind in (errata.Client, errata.AsyncClient)
        for name, method in methods(kind).items()
        if not method.__doc__
    ]

    assert undocumented == []


def test_results_are_frozen():
    fact = errata.Fact(template="{} is in", target="Rome")

    with pytest.raises(AttributeError, match="cannot assign"):
        fact.target = "Paris"  # type: ignore[misc]


def test_every_result_type_is_public():
    modules = (
        _averages,
        _charts,
        _checkpoints,
        _locations,
        _proxies,
        _trace_types,
        _traces,
        _types,
    )
    unlisted = {
        name
        for module in modules
        for name, member in vars(module).items()
        if isinstance(member, type) and member.__module__ in {"errata", module.__name__}
    } - set(PUBLIC)

    internal = {"Chunk", "Page", "Grids", "Hue", "Mark", "Panel", "Picture"}
    assert unlisted == internal, "internal to streams, pages and pictures"


def test_a_result_survives_pickling():
    fact = errata.Fact(template="{} is in", target="Rome")

    assert pickle.loads(pickle.dumps(fact)) == fact
