"""A file that is cut, flipped or forged is refused, and the target is as it was."""

import gzip
import hashlib
import json

import pytest

from errata_server.domain.errors import (
    ErrataError,
    InvalidInputError,
    LedgerCorruptError,
    SchemaMismatchError,
)
from errata_server.ledger.archives import ArchiveReader
from errata_server.ledger.database import Database
from errata_server.ledger.exports import export_ledger
from errata_server.ledger.imports import import_ledger
from errata_server.ledger.ledger import Ledger
from tests.support.histories import Chronicler
from tests.support.tampering import raw_connection


def quiet(step):
    pass


@pytest.fixture(scope="module")
def content(migrated_sqlite, tmp_path_factory) -> bytes:
    """The export of a small ledger."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "ledger.db").write_bytes(migrated_sqlite.read_bytes())
    database = Database(f"sqlite:///{folder / 'ledger.db'}")
    chronicler = Chronicler(Ledger(database))
    stored = chronicler.propose()
    chronicler.approve(stored, "a-1")
    chronicler.add_suite("capitals", "one is")
    chronicler.apply(stored)
    chronicler.revert(stored)
    export_ledger(database, folder / "ledger.gz", replace=False, progress=quiet)
    database.close()
    return (folder / "ledger.gz").read_bytes()


@pytest.fixture
def write(tmp_path):
    """Writes a file."""
    path = tmp_path / "ledger.gz"

    def write(content):
        path.write_bytes(content)
        return path

    return write


def forged(content, change):
    """The lines as somebody changed them who knows the format, with a checksum that fits."""
    *lines, _ = [json.loads(line) for line in gzip.decompress(content).splitlines()]
    said = b"".join(json.dumps(line).encode() + b"\n" for line in change(lines) or lines)
    closing = json.dumps({"sha256": hashlib.sha256(said).hexdigest()}).encode()
    return gzip.compress(said + closing + b"\n")


def rows_of(lines, table):
    """The rows of a table among the lines, and where they begin."""
    start = 1
    for found in lines[0]["tables"]:
        if found["name"] == table:
            return start, found
        start += found["rows"]
    raise AssertionError(table)


def read(path):
    """Everything that an archive says."""
    with ArchiveReader(path) as archive:
        return archive.heading, list(archive.rows())


def tables_of(url):
    connection = raw_connection(url)
    found = connection.execute(
        "SELECT name FROM sqlite_master"
        if url.startswith("sqlite")
        else "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    ).fetchall()
    connection.close()
    return found


def test_a_flipped_bit_is_refused_or_changes_nothing_that_is_read(content, write):
    whole, refused = read(write(content)), 0
    places = [*range(24), *range(24, len(content) - 24, 7), *range(len(content) - 24, len(content))]

    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        try:
            found = read(write(bytes(flipped)))
        except InvalidInputError:
            refused += 1
        else:
            assert found == whole, place  # such as the time in gzip's own header

    assert refused > 0.97 * len(places)


def test_a_file_that_is_cut_anywhere_is_refused(content, write):
    for length in range(0, len(content) - 1, 11):
        with pytest.raises(InvalidInputError, match="nothing was imported"):
            read(write(content[:length]))


@pytest.mark.parametrize("more", [b"\n", b"x", gzip.compress(b"{}\n")], ids=["line", "x", "member"])
def test_a_file_with_something_behind_its_end_is_refused(content, write, more):
    with pytest.raises(InvalidInputError, match="not a whole export"):
        read(write(content + more))


def test_a_changed_line_does_not_give_the_checksum(content, write):
    changed = gzip.decompress(content).replace(b"scripted", b"scripteD")

    with pytest.raises(InvalidInputError, match="checksum"):
        read(write(gzip.compress(changed)))


def drop_edit_body(lines):
    start, _ = rows_of(lines, "edits")
    lines[start][-1] = "e30="


def drop_revision(lines):
    start, found = rows_of(lines, "revision_edits")
    del lines[start]
    found["rows"] -= 1


def set_head_back(lines):
    start, _ = rows_of(lines, "branches")
    genesis = next(row for row in lines[1:] if isinstance(row, list) and "genesis" in row)
    lines[start][2:] = [genesis[0], 0]


@pytest.mark.parametrize(
    ("change", "row"),
    [
        (drop_edit_body, r"edits\["),
        (drop_revision, r"revision_edits\["),
        (set_head_back, r"branches\[main\]"),
    ],
)
def test_what_does_not_pass_the_audit_leaves_the_target_as_it_was(
    content, write, empty_url, change, row
):
    before = tables_of(empty_url)

    with pytest.raises(LedgerCorruptError, match=f"{row}.*nothing was imported"):
        import_ledger(empty_url, write(forged(content, change)), quiet)

    assert tables_of(empty_url) == before


def test_a_refused_import_leaves_no_sqlite_file(content, write, tmp_path):
    target = tmp_path / "target.db"

    with pytest.raises(LedgerCorruptError):
        import_ledger(f"sqlite:///{target}", write(forged(content, drop_edit_body)), quiet)

    assert not target.exists()
    assert not target.with_name("target.db-wal").exists()


def rename_table(lines):
    lines[0]["tables"][0]["name"] = "nothing; DROP TABLE models"


def drop_table(lines):
    start, found = rows_of(lines, "suites")
    del lines[start : start + found["rows"]]
    lines[0]["tables"].remove(found)


def rename_column(lines):
    lines[0]["tables"][0]["columns"][0] = "nothing"


def other_bytes(lines):
    lines[0]["tables"][0]["binary"] = ["digest"]
    lines[1][0] = "e30="


def other_models(lines):
    lines[0]["models"] = ["somebody"]


def repeat_row(lines):
    start, found = rows_of(lines, "edits")
    lines.insert(start, lines[start])
    found["rows"] += 1


def boolean(lines):
    lines[1][0] = True


def nested(lines):
    lines[1][0] = ["x"]


def no_base64(lines):
    lines[1][1] = "%%%"


def wider(lines):
    lines[1].append("x")


def negative(lines):
    lines[0]["tables"][0]["rows"] = -1


def no_schema(lines):
    del lines[0]["schema"]


def listed(lines):
    lines[0] = [lines[0]]


@pytest.mark.parametrize(
    "change",
    [
        rename_table, drop_table, rename_column, other_bytes, other_models, repeat_row, boolean,
        nested, no_base64, wider, negative, no_schema, listed,
    ],
)  # fmt: skip
def test_a_file_that_errata_did_not_write_is_refused(content, write, empty_url, change):
    before = tables_of(empty_url)

    with pytest.raises(InvalidInputError, match="nothing was imported"):
        import_ledger(empty_url, write(forged(content, change)), quiet)

    assert tables_of(empty_url) == before


def later_format(lines):
    lines[0] |= {"format": 2, "version": "3.1.4"}


def later_schema(lines):
    lines[0] |= {"schema": "0815", "version": "3.1.4"}


@pytest.mark.parametrize("change", [later_format, later_schema])
def test_a_file_of_a_newer_server_says_which_one_reads_it(content, write, empty_url, change):
    with pytest.raises(SchemaMismatchError, match=r"errata-server 3\.1\.4.*or"):
        import_ledger(empty_url, write(forged(content, change)), quiet)


def nul(lines):
    start, found = rows_of(lines, "operations")
    lines.insert(start, ["op-\0", "scripted", 0, "r", "d", "failed", "e30=", 0])
    found["rows"] += 1


def test_what_a_database_cannot_store_is_refused_in_words(content, write, empty_url):
    path = write(forged(content, nul))
    if empty_url.startswith("sqlite"):
        import_ledger(empty_url, path, quiet)
        return

    with pytest.raises(InvalidInputError, match="NUL"):
        import_ledger(empty_url, path, quiet)


def test_a_file_that_changes_while_it_is_imported_is_refused(content, write, empty_url):
    path = write(content)

    def change(step):
        if step.stage == "check" and step.done == step.total:
            path.write_bytes(forged(content, lambda lines: None))

    with pytest.raises(ErrataError, match="changed while it was imported"):
        import_ledger(empty_url, path, change)
