"""The server's keys: how they are spelled, kept and trusted."""

import base64
import stat

import pytest
from typer.testing import CliRunner

from errata_server import __main__ as main
from errata_server.config import load_settings
from errata_server.domain.errors import InvalidInputError
from errata_server.signing import PublicKey, SigningKey, TrustedKeys

KEY = SigningKey.generate("ana")
LINE = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"  # C2SP's own example


def test_a_public_key_of_another_tool_reads_and_checks_its_signature():
    key = PublicKey.parse(LINE)
    text = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
    )
    signature = (
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJ"
        "nAM="
    )
    raw = base64.b64decode(signature)

    assert key.hash == raw[:4]
    assert key.verifies(raw[4:], text.encode())
    assert not key.verifies(raw[4:], text.encode() + b"x")
    assert str(key) == LINE


def test_a_private_key_is_its_owner_s_and_never_written_over(tmp_path):
    path = tmp_path / "log.key"

    KEY.write(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SigningKey.read(path) == KEY
    assert "PRIVATE" not in repr(KEY)
    assert KEY.seed.hex() not in repr(KEY)
    with pytest.raises(InvalidInputError, match="never written over"):
        KEY.write(path)
    with pytest.raises(InvalidInputError, match="cannot write"):
        KEY.write(tmp_path / "nowhere" / "log.key")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ana",
        str(KEY.public),
        KEY.text[:-4],
        KEY.text.replace("ana", "ben"),
        "PRIVATE+KEY+a+b+c",
    ],
    ids=["empty", "name", "public", "cut", "renamed", "garbage"],
)
def test_what_is_no_private_key_is_refused_without_being_repeated(tmp_path, text):
    path = tmp_path / "log.key"
    path.write_text(text)

    with pytest.raises(InvalidInputError, match="holds no private key") as refused:
        SigningKey.read(path)

    assert not text or text not in str(refused.value) or len(text) < 4


def test_a_name_a_note_cannot_hold_is_refused():
    for name in ("", "a b", "a+b", "a\nb"):
        with pytest.raises(InvalidInputError, match="spaces and plus signs"):
            SigningKey.generate(name)


def test_trusted_keys_are_lines_with_remarks_and_retired_ones(tmp_path):
    other = SigningKey.generate("ben")
    path = tmp_path / "trusted"
    path.write_text(f"# proposers\n\n{KEY.public}\nretired {other.public}\n")

    found = TrustedKeys.read(path, required=True)

    assert set(found.keys) == {KEY.public.id, other.public.id}
    assert found.retired == {other.public.id}
    assert TrustedKeys.read(None, required=False) == TrustedKeys()


@pytest.mark.parametrize("line", ["ana", "ana+00000000+AAAA", KEY.text], ids=range(3))
def test_a_line_that_is_no_key_is_named(tmp_path, line):
    path = tmp_path / "trusted"
    path.write_text(f"{KEY.public}\n{line}\n")

    with pytest.raises(InvalidInputError, match="line 2"):
        TrustedKeys.read(path, required=False)
    with pytest.raises(InvalidInputError, match="cannot read"):
        TrustedKeys.read(tmp_path / "nowhere", required=False)


def test_signatures_cannot_be_required_of_nobody():
    with pytest.raises(InvalidInputError, match="trusted_keys"):
        load_settings(require_signatures=True)


def test_keygen_prints_the_public_key(tmp_path):
    path = tmp_path / "log.key"

    made = CliRunner().invoke(main.cli, ["keygen", str(path), "--name", "errata.example"])
    again = CliRunner().invoke(main.cli, ["keygen", str(path)])

    assert made.stdout == f"{SigningKey.read(path).public}\n"
    assert made.stdout.startswith("errata.example+")
    assert (made.exit_code, again.exit_code) == (0, 1)
