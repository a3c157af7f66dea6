"""No part of a URL's secrets is seen, in whatever way the URL is wrong."""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from sqlalchemy.engine import make_url

import converge
from converge import hiding
from converge.cli import main
from converge.sql import migrate
from converge.sql.urls import parse_url, show_url
from converge.testing import StepEngine

# nobody listens there, so that connecting fails at once
NOWHERE = "127.0.0.1:1"

#: Passwords. None of the halves may be seen, wherever a parser splits them.
PASSWORDS = (
    *("xylo77sesame", "xylo77 sesame", "xylo77%sesame", "xylo77'sesame", "xylo77+sesame"),
    *("xylo77@sesame", "xylo77:sesame", "xylo77/sesame", "xylo77?sesame", "xylo77#sesame"),
    *("xylo77&sesame", "xylo77=sesame", "xylo77&sesame=x", "48484@sesame", "48484/sesame"),
    *("48484?a=sesame", "[xylo77@sesame", "xylo77@[sesame", "xylo77\\sesame", "öxylo77sesame"),
)
HALVES = ("xylo77", "sesame", "48484")

#: {0} is a password as it is, {1} %-encoded.
WAYS = {
    "the password of a login": "{scheme}://user:{0}@{host}/name",
    "encoded": "{scheme}://user:{1}@{host}/name",
    "no user": "{scheme}://:{0}@{host}/name",
    "no host": "{scheme}://user:{0}@/name",
    "password": "{scheme}://user@{host}/name?password={1}",
    "passwd": "{scheme}://user@{host}/name?passwd={1}",
    "as it is": "{scheme}://user@{host}/name?password={0}",
    "in capitals": "{scheme}://user@{host}/name?PassWord={1}",
    "sslpassword": "{scheme}://user@{host}/name?sslpassword={1}&sslmode=disable",
    "twice": "{scheme}://user@{host}/name?password={1}&password=x{1}",
    "options": "{scheme}://user@{host}/name?options=-c%20x.y%3D{1}",
    "unknown option": "{scheme}://user@{host}/name?pasword={1}",
    "number": "{scheme}://user@{host}/name?connect_timeout=5&read_timeout=7&password={1}&x=y",
    "before a port": "{scheme}://user:{0}@127.0.0.1:port/name",
    "as a port": "{scheme}://user:127.0.0.1:{0}/name",
    "space before": " {scheme}://user:{0}@{host}/name",
    "space in the scheme": "{scheme} ://user:{0}@{host}/name",
    "one slash": "{scheme}:/user:{0}@{host}/name",
    "no slash": "{scheme}:user:{0}@{host}/name",
    "no scheme": "user:{0}@{host}/name",
    "unknown scheme": "oracle://user:{0}@{host}/name",
    "unknown driver": "{scheme}+foo://user:{0}@{host}/name",
    "a bracket": "{scheme}://user:{0}@[{host}/name",
    "an odd character": "{scheme}://user:{0}@host\u2100/name",
    "line break": "{scheme}://user:{0}\n@{host}/name",
    "two": "{scheme}://user:{0}@{scheme}://{host}",
}
SCHEMES = ("postgresql", "mariadb+pymysql", "sqlite", "redis")


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """None is known from other tests, or for them."""
    monkeypatch.setattr(hiding, "_forms", set())
    monkeypatch.setattr(hiding, "_pattern", None)
    # PyMySQL reads the machine's certificates before it fails to connect
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    return hiding.learn


def opened(url: str) -> None:
    """Open a store or a journal, and ask for something."""
    if url.lstrip().startswith("redis"):
        with converge.Journal(url) as journal:
            journal.scopes()
    else:
        converge.connect(url).close()


def seen_of(error: BaseException) -> str:
    """All that may be printed of an error, with all that led to it."""
    texts = traceback.format_exception(error)
    todo: list[BaseException | None] = [error]
    while todo:
        if (one := todo.pop()) is not None:
            texts += [str(one), repr(one)]
            todo += [one.__cause__, one.__context__]
    return "".join(texts)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("way", WAYS)
def test_no_secret_of_a_url_is_seen(
    scheme: str, way: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converge.journal.redis.RETRIES", 0)
    caplog.set_level(logging.DEBUG)
    for password in PASSWORDS:
        if way == "as a port" and "@" in password:
            # which is a login
            continue
        url = WAYS[way].format(password, quote(password, safe=""), scheme=scheme, host=NOWHERE)
        with pytest.raises(converge.ConvergeError) as caught:
            opened(url)
        seen = seen_of(caught.value) + caplog.text
        assert [half for half in HALVES if half in seen] == [], url


@pytest.mark.parametrize("way", WAYS)
def test_the_command_line_shows_no_secret(
    way: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVERGE_DEBUG", "1")
    password = "xylo77sesame"
    url = WAYS[way].format(password, password, scheme="postgresql", host=NOWHERE)
    commands = (["show", "x"], ["journal", "list"], ["db", "upgrade"], ["db", "check"])
    for words in commands:
        assert main(["--db", url, *words]) == 2
    assert main(["--db", "sqlite:///x.db", "journal", "--url", url, "list"]) == 2
    captured = capsys.readouterr()
    assert password not in captured.out + captured.err
    assert captured.err.count("converge: error: ") == len(commands) + 1


def test_a_handlers_error_keeps_no_secret_in_its_row(tmp_path: Path) -> None:
    class Opens(converge.ResourceType):
        def create(self, context: converge.Context, properties: Any) -> None:
            # a step's failure has a row of its own
            context.step("open", self._open, retry=converge.RetryPolicy(attempts=1))

        def _open(self) -> None:
            url = make_url(f"postgresql+psycopg://user@{NOWHERE}/x?password={quote(password)}")
            try:
                converge.connect(url)
            except converge.StoreError as error:
                raise RuntimeError(f"{error}: {url} and {password!r}") from error

        def delete(self, context: converge.Context, physical_id: str) -> None: ...

    password = "xylo77 'sesame"
    migrate.upgrade(own := f"sqlite:///{tmp_path}/a.db")
    store = converge.connect(own)
    store.create_stack("s", converge.Template.parse("resources: {a: {type: opens}}"))
    StepEngine(store, {"opens": Opens()}).run()
    with converge.Journal(store) as journal:
        (scope,) = journal.scopes()
        recorded = journal.show(scope.name)
    shown = json.dumps([store.show("s"), store.events("s"), recorded], default=str)
    assert recorded[1][0].status == "FAILED"
    assert "cannot be reached" in shown
    assert [half for half in HALVES if half in shown] == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
        ("postgresql://u:p@h:5/d", "postgresql+psycopg://u:***@h:5/d"),
        (
            "mysql://u@h/d?charset=utf8&password=x&ssl_ca=y&zzz=1",
            "mysql+pymysql://u@h/d?charset=utf8&password=***&ssl_ca=y&***",
        ),
        ("postgresql://u@/d?host=a,b&host=x%40y", "postgresql+psycopg://u@/d?host=a,b&***"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert show_url(parse_url(url)) == shown


def test_harmless_options_are_not_taken_for_secrets(secrets: Callable[..., None]) -> None:
    parse_url("postgresql://u@h/d?sslmode=require&some_flag=1&krbsrvname=name")
    assert hiding.hide("require 1 name") == "require 1 name"


def test_a_secret_is_hidden_however_it_is_written(secrets: Callable[..., None]) -> None:
    secrets(["a b/ç'é%"], ["user"])
    for text in ("a b/ç'é%", "A B/Ç'É%", *map(quote, ["a b/ç'é%"]), quote_plus("a b/ç'é%")):
        assert hiding.hide(f"<{text}>") == "<***>"
    for made in (repr, json.dumps, ascii):
        assert hiding.hide(made("a b/ç'é%"))[1:-1] == "***"
    assert hiding.hide(r"password='a b/ç\'é%'") == "password='***'"


def test_a_short_secret_is_hidden_as_a_word_and_a_shown_one_not(
    secrets: Callable[..., None],
) -> None:
    secrets(["a", "root", ""], ["ROOT", None])
    assert hiding.hide("as a root: 'a'") == "as *** root: '***'"


def test_all_that_led_to_an_error_is_without_secrets(secrets: Callable[..., None]) -> None:
    secrets(["sesame"])
    inner = ValueError("it is sesame", 5)
    inner.add_note("sesame!")
    outer = ExceptionGroup("several", [OSError(2, "no sesame", "/sesame")])
    outer.__cause__ = inner
    inner.__context__ = outer
    hiding.hide_in(outer)
    assert "sesame" not in "".join(traceback.format_exception(outer))
    assert inner.args == ("it is ***", 5)
