"""Messages of a group: whoever has no secret can neither make nor change one."""

from __future__ import annotations

import hmac
import json
from dataclasses import asdict, replace
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.errors import BadInput
from converge.group.signing import Message, Refused, Secrets

OLD, NEW, OTHER = "the old secret, long", "the new secret, long", "somebody else's secret"
MESSAGE = Message("g", 1, 3, "meters", "17-5f0c", 4, 1700000000.5, [{"id": "a", "n": 1}])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def read(secrets: Secrets, data: object) -> Message:
    return secrets.open(data, group="g", sink="meters", partition=3)


def refused(secrets: Secrets, data: object) -> str:
    with pytest.raises(Refused) as caught:
        read(secrets, data)
    return caught.value.kind


@given(st.lists(JSON, max_size=3), st.integers(1, 2**62))
def test_what_was_signed_is_read(items: list[object], sequence: int) -> None:
    message = replace(MESSAGE, items=items, sequence=sequence)
    assert read(Secrets([NEW]), Secrets([NEW]).sign(message)) == message


def test_the_form_of_a_message() -> None:
    signature, _, body = Secrets([NEW]).sign(MESSAGE).partition(b" ")
    assert json.loads(body) == {"v": 1, **asdict(MESSAGE)}
    signed = b"converge group message 1\0" + body
    assert signature == hmac.new(NEW.encode(), signed, sha256).hexdigest().encode()


@given(st.data())
def test_whatever_is_changed_in_it_is_refused(data: st.DataObject) -> None:
    secrets = Secrets([NEW])
    signed = secrets.sign(MESSAGE)
    place = data.draw(st.integers(0, len(signed) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda one: one != signed[place]))
    assert refused(secrets, signed[:place] + bytes([byte]) + signed[place + 1 :]) in (
        "forged",
        "unsigned",
    )


@given(st.binary(max_size=200) | st.text(max_size=200) | st.none() | st.integers())
def test_whatever_else_arrives_is_refused_and_nothing_fails(data: object) -> None:
    assert refused(Secrets([NEW]), data) == "unsigned"


def test_a_message_by_another_secret_is_refused() -> None:
    assert refused(Secrets([NEW]), Secrets([OTHER]).sign(MESSAGE)) == "forged"


def test_a_secret_is_exchanged_in_three_steps_without_a_gap() -> None:
    steps = [Secrets([OLD]), Secrets([OLD, NEW]), Secrets([NEW, OLD]), Secrets([NEW])]
    for one, two in pairwise(steps):
        # while some processes are one step ahead of the others
        for sender, receiver in ((one, two), (two, one)):
            assert read(receiver, sender.sign(MESSAGE)) == MESSAGE
            assert receiver.is_proof(sender.prove("member", 7), "member", 7)
    assert refused(steps[3], steps[0].sign(MESSAGE)) == "forged"


@pytest.mark.parametrize("change", [{"group": "h"}, {"sink": "events"}, {"partition": 2}])
def test_a_message_of_another_queue_is_refused(change: dict[str, object]) -> None:
    secrets = Secrets([NEW])
    signed = secrets.sign(replace(MESSAGE, **change))  # type: ignore[arg-type]
    assert refused(secrets, signed) == "foreign"


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"v":2}',
        b'{"v":true}',
        b"{nonsense}",
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        json.dumps({"v": 1, **asdict(MESSAGE), "sequence": "4"}).encode(),
        json.dumps({"v": 1, **asdict(MESSAGE), "more": 1}).encode(),
    ],
)
def test_a_signed_message_of_another_version_is_refused(body: bytes) -> None:
    signed = b"converge group message 1\0" + body
    signature = hmac.new(NEW.encode(), signed, sha256).hexdigest().encode()
    assert refused(Secrets([NEW]), signature + b" " + body) == "malformed"


def test_a_proof_is_of_one_thing_and_is_no_signature() -> None:
    secrets = Secrets([NEW])
    proof = secrets.prove("member", 7)
    assert secrets.is_proof(proof, "member", 7)
    assert not secrets.is_proof(proof, "member", 8)
    assert not Secrets([OTHER]).is_proof(proof, "member", 7)
    assert not secrets.is_proof("", "member", 7)
    assert secrets.prove("a", "b") != secrets.prove("ab", "")
    rotated = Secrets([NEW, OLD])
    assert rotated.is_newest(proof, "member", 7)
    assert not rotated.is_newest(Secrets([OLD]).prove("member", 7), "member", 7)


@pytest.mark.parametrize("texts", [[], ["short"], [OLD, "short"], [OLD, NEW, OTHER]])
def test_unfit_secrets_are_refused(texts: list[str]) -> None:
    with pytest.raises(BadInput, match="secret"):
        Secrets(texts)


def test_a_file_has_one_secret_a_line_and_they_are_not_shown() -> None:
    secrets = Secrets.read(f"{NEW}\n\n  {OLD}  \n")
    assert read(secrets, Secrets([OLD]).sign(MESSAGE)) == MESSAGE
    assert repr(secrets) == "<2 secrets>"
