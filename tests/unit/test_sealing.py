"""Keys: where they are from, and what is made of a text with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from converge.cli import main
from converge.errors import BadInput, SecretKeyError
from converge.sealing import Keyring, new_key, read_keyring

ONE, TWO = new_key(), new_key()
FILE = "CONVERGE_SECRET_KEY_FILE"


def test_a_text_becomes_another_one_each_time_and_itself_again() -> None:
    ring = Keyring([ONE])
    first, second = ring.seal("wörd"), ring.seal("wörd")
    assert first != second
    assert first.startswith("sealed:")
    assert first.isascii()
    assert (ring.unseal(first), ring.unseal(second)) == ("wörd", "wörd")
    # where there is nothing to hide, and what was there before there was a key
    assert [ring.seal(text) for text in ("{}", "[]", "null", "")] == ["{}", "[]", "null", ""]
    assert ring.unseal('{"a":1}') == '{"a":1}'


def test_each_of_several_keys_reads_and_the_chosen_one_writes() -> None:
    ring, one, two = Keyring([ONE, TWO]), Keyring([ONE]), Keyring([TWO])
    old = ring.seal("word")
    ring.choose(two.fingerprints[0])
    assert (ring.unseal(old), one.unseal(old)) == ("word", "word")
    assert two.unseal(ring.seal("word")) == "word"
    assert [ring.is_current(text) for text in (old, ring.seal("word"), "{}", '"a"')] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("change", ["other key", "changed"])
def test_what_cannot_be_decrypted_is_refused(change: str) -> None:
    stored = Keyring([TWO if change == "other key" else ONE]).seal("word")
    if change == "changed":
        stored = stored[:20] + ("A" if stored[20] != "A" else "B") + stored[21:]
    with pytest.raises(SecretKeyError, match="cannot be decrypted"):
        Keyring([ONE]).unseal(stored)


def test_digests_are_blind_each_by_itself() -> None:
    one, two = "a" * 32, "b" * 32
    ring = Keyring([ONE])
    blind = ring.blind(one + two)
    assert blind == ring.blind(one) + ring.blind(two)
    assert len(blind) == 64
    assert {blind[:32], blind[32:]}.isdisjoint({one, two})
    assert Keyring([TWO]).blind(one) != ring.blind(one)


def test_keys_come_from_a_file_the_environment_or_a_program(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# newest first\n{ONE}\n\n{TWO}\n")
    rings = [
        read_keyring([ONE, TWO], {}),
        read_keyring(None, {"CONVERGE_SECRET_KEY": f" {ONE}, {TWO}\n"}),
        read_keyring(None, {FILE: str(file)}),
    ]
    assert {ring and ring.fingerprints for ring in rings} == {Keyring([ONE, TWO]).fingerprints}
    assert rings[0] is not None
    assert len(rings[0].fingerprints) == 2
    assert read_keyring(None, {}) is None
    assert read_keyring([], {"CONVERGE_SECRET_KEY": ONE}) is None
    one = read_keyring(ONE, {})
    assert one is not None
    assert len(one.fingerprints) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{ONE}\nhunter2hunter2",
            "key 2 in '{}', which CONVERGE_SECRET_KEY_FILE names is not a key",
        ),
        ("# none", "there is no key in '{}'"),
        ("kéy", "cannot be read: it is not text"),
    ],
    # keys are made anew by each process of the tests
    ids=["wrong", "empty", "bytes"],
)
def test_a_bad_file_of_keys_is_refused_without_being_quoted(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(BadInput) as caught:
        read_keyring(None, {FILE: str(file)})
    assert message.format(file) in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_missing_file_or_two_sources_of_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        read_keyring(None, {FILE: str(tmp_path / "none")})
    with pytest.raises(BadInput, match="keep one of them"):
        read_keyring(None, {FILE: "keys", "CONVERGE_SECRET_KEY": ONE})


def test_a_person_encrypts_with_a_new_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def db(*words: str) -> tuple[int, str]:
        status = main(["db", *words])
        output = capsys.readouterr()
        return status, output.out + output.err

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    key = db("new-key")[1].strip()
    assert len(Keyring([key]).fingerprints) == 1
    assert db("reencrypt") == (
        2,
        "converge: error: this folder has no converge.db; name a database with --db URL\n",
    )
    assert db("upgrade")[0] == 0
    status, said = db("reencrypt")
    assert status == 2
    assert "there is no key to encrypt with" in said
    monkeypatch.setenv("CONVERGE_SECRET_KEY", key)
    status, said = db("reencrypt")
    own = Keyring([key]).fingerprints[0]
    assert (status, said) == (
        0,
        f"encrypted 0 values with the key {own}; all others were so already\n",
    )
    monkeypatch.delenv("CONVERGE_SECRET_KEY")
    assert main(["list"]) == 2
    assert f"are encrypted with the key {own}, and this process has no key" in (
        capsys.readouterr().err
    )
